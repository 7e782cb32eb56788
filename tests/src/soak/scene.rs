//! One run: a cluster's life from create to destroy, the blow in its phase, and the look at what is left.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::strike::{Blow, strike};
use super::{JobEnd, Phase, Plan, Row, TICKS, Victim, judge};
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::site::Site;
use crate::stranger;
use crate::wait::{seconds, until};

/// A refused destroy says why, and what to do: try again.
const DESTROYS: usize = 3;

/// A run under way.
struct Scene<'a> {
    site: &'a Site,
    plan: &'a Plan,
    /// The compiled `ticker.c`.
    program: &'a Path,
    blow: Option<Blow>,
    happened: Vec<String>,
    job: Option<JobEnd>,
}

/// Plays a plan on a site of its own. Panics where something is not as it should be.
#[track_caller]
pub fn play(plan: &Plan, program: &Path) -> Row {
    let begun = Instant::now();
    let site = Site::new();
    let mut scene = Scene { site: &site, plan, program, blow: None, happened: Vec::new(), job: None };
    scene.create();
    scene.run();
    scene.idle();
    scene.destroy();
    scene.nothing_is_left();
    let struck = scene.blow.take().unwrap_or_default().what;
    let wrong = match &scene.job {
        Some(JobEnd::Wrong { why }) => Some(why.clone()),
        Some(_) => None,
        None => Some("no job was run".to_owned()),
    };
    let happened = scene.happened.join(", ");
    assert!(wrong.is_none(), "{struck}; {happened}; {wrong:?}");
    Row { plan: plan.clone(), struck, happened, job: scene.job, took: begun.elapsed(), wrong }
}

impl Scene<'_> {
    fn create(&mut self) {
        self.site.start_cloud(&[]);
        let (nodes, least) = (self.plan.nodes.to_string(), self.plan.min_nodes().to_string());
        let words = ["create", "demo", "--nodes", &nodes, "--min-nodes", &least, "--slots", "1", "--timeout", "90s"];
        let mut outcome = self.through(Phase::Create, &words);
        // A coordinator that died before it answered for the first time: the client says so, and nothing was begun.
        let unborn = outcome.code == 1 && self.plan.victim == Victim::Coordinator;
        if unborn && self.site.run(&["list", "--json"]).json() == serde_json::json!([]) {
            self.happened.push(format!("create failed: {}", last_line(&outcome)));
            outcome = self.site.run(&words);
        }
        assert_eq!(outcome.code, 0, "{outcome}");
        let status = self.site.status("demo");
        self.happened.push(format!("{} nodes up in {:.1} s", ready(&status).len(), outcome.took.as_secs_f64()));
        self.check_launch(&status);
        self.killed_node_is_known();
    }

    fn run(&mut self) {
        let status = self.all_ready();
        let ranks = u32::try_from(ready(&status).len()).expect("few nodes");
        for index in ready(&status) {
            let machine = Machine::of_node(self.site, &status, index);
            let place = machine.root().join("tmp/ticker");
            std::fs::copy(self.program, &place).expect("a machine's /tmp can be written");
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).expect("as root");
        }
        if self.plan.writes {
            let first = ready(&status)[0].to_string();
            self.site.run(&["exec", "demo", "--node", &first, "--", "mkdir", "ticks"]).ok();
        }
        let (n, ticks, code) = (ranks.to_string(), TICKS.to_string(), self.plan.code.to_string());
        let directory = if self.plan.writes { "/shared/ticks" } else { "" };
        let program = ["--workdir", "/tmp", "--", "/tmp/ticker", &ticks, "100", directory, &code];
        let outcome = self.through(Phase::Run, &[&["run", "demo", "-n", &n][..], &program[..]].concat());
        let end = judge(self.plan, self.killed().as_deref(), ranks, outcome.code, &outcome.stdout, &outcome.stderr);
        if matches!(end, JobEnd::Right { .. }) && self.plan.writes {
            self.check_files(&status, ranks);
        }
        self.check_record(&end);
        self.job = Some(end);
        self.killed_node_is_known();
    }

    fn idle(&mut self) {
        if self.plan.phase == Phase::Idle {
            std::thread::sleep(self.plan.instant);
            self.blow = Some(strike(self.site, self.plan, &instances(&self.site.status("demo"))));
            self.killed_node_is_known();
        }
        let ranks = ready(&self.all_ready()).len();
        let output = self.site.run(&["run", "demo", "-n", &ranks.to_string(), "--", "hostname"]).ok();
        assert_eq!(output.lines().collect::<BTreeSet<_>>().len(), ranks, "every node takes part: {output}");
    }

    fn destroy(&mut self) {
        let mut outcome = self.through(Phase::Destroy, &["destroy", "demo"]);
        let mut attempts = 1;
        while outcome.code != 0 && attempts < DESTROYS && !outcome.stderr.contains("no longer known") {
            self.happened.push(format!("destroy refused: {}", last_line(&outcome)));
            std::thread::sleep(seconds(2));
            outcome = self.site.run(&["destroy", "demo"]);
            attempts += 1;
        }
        // When all was over before the kill the client cannot have heard the proof; the cloud decides.
        let heard =
            outcome.code == 0 || outcome.stderr.contains("no longer known") || outcome.stderr.contains("no cluster");
        assert!(heard, "{outcome}");
        self.happened.push(format!("destroyed in {:.1} s", outcome.took.as_secs_f64()));
        until(seconds(60), "the cluster is forgotten", || {
            (self.site.run(&["list", "--json"]).json() == serde_json::json!([])).then_some(())
        });
        let instances = stranger::instances(self.site);
        assert!(!instances.iter().any(stranger::Instance::is_paid_for), "instances are left: {instances:?}");
        assert_eq!(instances.len(), self.plan.nodes as usize, "no instance was launched twice: {instances:?}");
    }

    fn nothing_is_left(&self) {
        // The bridge is known only as long as there is a cloud.
        let _ = self.site.bridge();
        self.site.run(&["stop"]).ok();
        self.site.run(&["cloud", "stop", "--purge"]).ok();
        let mut last = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < seconds(10) {
            last = self.site.traces();
            if last.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("left on the host: {last:?}");
    }

    /// A command to its end, with the blow during it when this is the phase.
    fn through(&mut self, phase: Phase, words: &[&str]) -> Outcome {
        let known = if phase == Phase::Create { Vec::new() } else { instances(&self.site.status("demo")) };
        let running = self.site.start(words);
        if phase == self.plan.phase {
            std::thread::sleep(self.plan.instant);
            self.blow = Some(strike(self.site, self.plan, &known));
        }
        running.wait(seconds(170))
    }

    /// The name of the node whose machine was killed.
    fn killed(&self) -> Option<String> {
        let instance = self.blow.as_ref()?.instance.clone()?;
        let status = self.site.status("demo");
        let node = status["nodes"].as_array()?.iter().find(|node| node["instance_id"] == instance.as_str())?.clone();
        node["host_name"].as_str().map(str::to_owned)
    }

    /// After a machine was killed, the coordinator hears of it, and says why.
    fn killed_node_is_known(&mut self) {
        let Some(name) = self.killed() else { return };
        until(seconds(40), "the killed node is known to be gone", || {
            let status = self.site.status("demo");
            let node = status["nodes"].as_array()?.iter().find(|node| node["host_name"] == name.as_str())?.clone();
            let over = node["state"] == "gone" || node["state"] == "failed";
            (over && node["message"].as_str().is_some_and(|why| why.contains("ended"))).then_some(())
        });
        self.happened.push(format!("{name} gone"));
    }

    /// Waits until every node that is left is ready.
    fn all_ready(&self) -> Value {
        until(seconds(60), "all nodes that are left are ready", || {
            let status = self.site.status("demo");
            let gone = status["nodes"].as_array()?.iter().filter(|node| is_over(node)).count();
            let clean = status["state"] == "ready" && ready(&status).len() + gone == self.plan.nodes as usize;
            clean.then_some(status)
        })
    }

    /// One launch, one instance a node.
    fn check_launch(&self, status: &Value) {
        let instances = stranger::instances(self.site);
        assert_eq!(instances.len(), self.plan.nodes as usize, "launched twice, or not all: {instances:?}");
        let tokens: BTreeSet<_> = instances.iter().map(|one| &one.client_token).collect();
        assert_eq!(tokens.len(), 1, "more than one launch: {instances:?}");
        let its =
            |one: &stranger::Instance| one.tags.get("ec2mpi:cluster-id").map(String::as_str) == status["id"].as_str();
        assert!(instances.iter().all(its), "of another cluster: {instances:?}");
    }

    /// The closing barrier has passed, so the files of all ranks are in S3, whole.
    fn check_files(&self, status: &Value, ranks: u32) {
        let objects = stranger::objects(self.site, &format!("{}ticks/", stranger::prefix(status)));
        let files: Vec<_> = objects.iter().filter(|(key, _)| !key.ends_with('/')).collect();
        assert_eq!(files.len(), (TICKS * ranks) as usize, "one object a file: {files:?}");
        for (key, size) in files {
            let name = key.rsplit('/').next().expect("a key has a name");
            let (rank, tick) = name.split_once('-').expect("RANK-TICK");
            let whole = (0..1000).map(|line| format!("{rank} {tick} {line}\n").len()).sum::<usize>();
            assert_eq!(*size, whole as u64, "{key}");
        }
    }

    /// What `jobs` tells is what the client told.
    fn check_record(&self, end: &JobEnd) {
        let jobs = self.site.run(&["jobs", "demo", "--json"]).json();
        let job = jobs.as_array().and_then(|jobs| jobs.iter().rfind(|job| job["ranks"] != 0)).cloned();
        let job = job.expect("the job is on record");
        let (state, code) = (job["state"].as_str().unwrap_or_default(), job["exit_code"].as_i64());
        match end {
            JobEnd::Right { code: right } => assert_eq!((state, code), ("ended", Some(i64::from(*right))), "{job}"),
            JobEnd::Lost { .. } => assert_eq!((state, code), ("lost", Some(75)), "{job}"),
            JobEnd::Named { .. } | JobEnd::Wrong { .. } => {}
        }
    }
}

fn last_line(outcome: &Outcome) -> String {
    outcome.stderr.lines().rfind(|line| line.starts_with("error:")).unwrap_or_default().to_owned()
}

fn instances(status: &Value) -> Vec<String> {
    let nodes = status["nodes"].as_array().expect("a cluster has nodes");
    nodes.iter().map(|node| node["instance_id"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The indexes of the nodes that are ready.
fn ready(status: &Value) -> Vec<usize> {
    let nodes = status["nodes"].as_array().expect("a cluster has nodes");
    (0..nodes.len()).filter(|index| nodes[*index]["state"] == "ready").collect()
}

fn is_over(node: &Value) -> bool {
    node["state"] == "gone" || node["state"] == "failed"
}
