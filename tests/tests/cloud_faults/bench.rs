//! A site, a row after the other on it, and the table in the end.

use std::time::Instant;

use ec2mpi_tests::outcome::Outcome;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::stranger::{self, Instance};
use ec2mpi_tests::wait::{seconds, until};
use serde_json::Value;

/// When a row is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    Always,
    /// With `EC2MPI_SOAK=1`.
    Soak,
}

/// What the programs did, in words, and how many machines that took.
#[derive(Debug)]
pub(crate) struct Did {
    pub(crate) launched: usize,
    pub(crate) text: String,
}

/// A coordinator and a cloud, and what was tried on them.
#[derive(Debug)]
pub(crate) struct Bench {
    site: Site,
    soak: bool,
    rows: Vec<[String; 4]>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let site = Site::new();
        site.start_cloud(&[]);
        Self { site, soak: std::env::var_os("EC2MPI_SOAK").is_some(), rows: Vec::new() }
    }

    /// One row: the fault (words of `cloud fault add`; in brackets where `play` adds it in its own time) is added, `play`
    /// does something with a cluster of its own, the fault is cleared, and nothing must be left of the cluster's machines.
    pub(crate) fn row(&mut self, runs: Runs, action: &str, fault: &str, play: impl FnOnce(&Play<'_>) -> Did) {
        if runs == Runs::Soak && !self.soak {
            return;
        }
        let begun = Instant::now();
        let play_on = Play { site: &self.site, name: format!("row-{}", self.rows.len()) };
        eprintln!("{}: {action}, {fault}", play_on.name);
        if !fault.starts_with('[') {
            play_on.fault(fault);
        }
        let did = play(&play_on);
        play_on.clear();
        let proof = play_on.end(did.launched);
        let took = format!("{:.1}", begun.elapsed().as_secs_f64());
        self.rows.push([action.to_owned(), fault.to_owned(), format!("{}; {proof}", did.text), took]);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let widths: Vec<usize> =
            (0..2).map(|column| self.rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
        println!("{:<w$}  {:<v$}  seconds  what the programs did", "action", "fault", w = widths[0], v = widths[1]);
        for [action, fault, text, took] in &self.rows {
            println!("{action:<w$}  {fault:<v$}  {took:>7}  {text}", w = widths[0], v = widths[1]);
        }
    }
}

/// One row while it runs.
#[derive(Debug)]
pub(crate) struct Play<'a> {
    pub(crate) site: &'a Site,
    /// Of its cluster.
    pub(crate) name: String,
}

impl Play<'_> {
    /// `ec2mpi cloud fault add ...`
    #[track_caller]
    pub(crate) fn fault(&self, words: &str) {
        let words: Vec<&str> = ["cloud", "fault", "add"].into_iter().chain(words.split_whitespace()).collect();
        self.site.run(&words).ok();
    }

    #[track_caller]
    pub(crate) fn clear(&self) {
        self.site.run(&["cloud", "fault", "clear"]).ok();
    }

    /// `ec2mpi create` with these further arguments.
    pub(crate) fn create(&self, more: &str) -> Outcome {
        let words: Vec<&str> = ["create", &self.name].into_iter().chain(more.split_whitespace()).collect();
        self.site.run(&words)
    }

    /// A cluster of two that is ready.
    #[track_caller]
    pub(crate) fn ready(&self) -> Value {
        self.create("--nodes 2").ok();
        self.status()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.site.status(&self.name)
    }

    /// The instance of a node.
    #[track_caller]
    pub(crate) fn instance(&self, node: usize) -> String {
        self.status()["nodes"][node]["instance_id"].as_str().expect("a node has an instance").to_owned()
    }

    /// A shell command on a node.
    pub(crate) fn sh(&self, node: usize, script: &str) -> Outcome {
        self.site.run(&["exec", &self.name, "--node", &node.to_string(), "--", "sh", "-c", script])
    }

    /// All machines of the cluster that the cloud knows, ended ones too.
    #[track_caller]
    pub(crate) fn instances(&self) -> Vec<Instance> {
        let is_its = |one: &Instance| one.tags.get("ec2mpi:cluster") == Some(&self.name);
        stranger::instances(self.site).into_iter().filter(is_its).collect()
    }

    /// Waits until a node is in this state.
    #[track_caller]
    pub(crate) fn until_node(&self, node: usize, state: &str) {
        until(seconds(60), &format!("node {node} is {state}"), || {
            (self.status()["nodes"][node]["state"] == state).then_some(())
        });
    }

    /// That the cluster works: a rank on each of so many nodes.
    #[track_caller]
    pub(crate) fn works(&self, nodes: usize) {
        let ranks = (nodes * 2).to_string();
        let output = self.site.run(&["run", &self.name, "-n", &ranks, "--", "hostname"]).ok();
        let hosts: std::collections::BTreeSet<&str> = output.lines().collect();
        assert_eq!(hosts.len(), nodes, "{output}");
    }

    /// Ends what is left of the cluster, and sees with other eyes that nothing is.
    #[track_caller]
    fn end(&self, launched: usize) -> String {
        let list = self.site.run(&["list", "--json"]).json();
        let is_there = list.as_array().unwrap().iter().any(|one| one["name"] == self.name.as_str());
        if is_there {
            self.site.run(&["destroy", &self.name, "--discard"]).ok();
        }
        let all = self.instances();
        assert!(!all.iter().any(Instance::is_paid_for), "machines are left: {all:?}");
        assert_eq!(all.len(), launched, "machines launched: {all:?}");
        format!("{launched} launched, 0 left")
    }
}

/// What a command said last, or its error.
pub(crate) fn last_words(outcome: &Outcome) -> String {
    let last = |text: &str| text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
    if outcome.code == 0 {
        let line = last(&outcome.stdout);
        return line.split(" (").next().unwrap_or_default().to_owned();
    }
    let error = outcome.stderr.lines().find(|line| line.starts_with("error:")).map(str::to_owned);
    format!("code {}, {}", outcome.code, error.unwrap_or_else(|| last(&outcome.stderr)))
}
