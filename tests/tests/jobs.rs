//! Jobs as a user meets them: output as it comes, exit codes, Ctrl-C, a client that goes away.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use ec2mpi_tests::machine::Machine;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::wait::{seconds, until};
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn output_streams_apart_and_the_exit_code_is_the_programs() {
    let site = Site::new();
    site.create("jobs", 2);
    site.install("jobs", "ticker");
    site.install("jobs", "ends");

    let mut run = site.start(&["run", "jobs", "-n", "4", "--", "./ticker", "30", "100"]);
    run.wait_for_stdout("tick 2 rank 3", seconds(30));
    assert!(!run.stdout().contains("tick 29"), "output comes while the job runs");
    let outcome = run.wait(seconds(60));
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_eq!(ticks(&outcome.stdout), expected(30, 4), "{outcome}");
    assert!(!outcome.stdout.contains("ticked"), "stderr is not in stdout: {outcome}");
    assert_eq!(outcome.stderr.matches("ticked").count(), 30, "{outcome}");

    for (words, code) in [
        ("exec jobs -- true", 0),
        ("exec jobs -- false", 1),
        ("exec jobs --node 1 -- sh -c |exit 7|", 7),
        ("exec jobs -- sh -c |kill -9 $$|", 137),
        ("run jobs -n 3 -- ./ends exit 7", 7),
        ("run jobs -n 3 -- ./ends signal 9", 137),
        ("run jobs -n 4 -- ./ends signal 11 1", 139),
    ] {
        let outcome = site.run(&split(words));
        assert_eq!(outcome.code, code, "{words}: {outcome}");
    }
    let words =
        ["exec", "jobs", "--workdir", "/tmp", "--env", "A=one two", "--", "sh", "-c", "pwd; echo \"$A\"; id -un"];
    assert_eq!(site.run(&words).ok(), "/tmp\none two\nmpi\n");
    let words = "run jobs -n 2 --workdir /tmp --env A=x=y -- sh -c |echo $A $PWD|";
    assert_eq!(site.run(&split(words)).ok(), "x=y /tmp\n".repeat(2));
}

#[test]
fn ctrl_c_ends_the_job_on_all_nodes() {
    let site = Site::new();
    let status = site.create("jobs", 2);
    site.install("jobs", "ticker");
    let mut run = site.start(&["run", "jobs", "-n", "4", "--", "./ticker", "10000", "100"]);
    run.wait_for_stdout("tick 1 rank 3", seconds(30));
    let machines = [0, 1].map(|index| Machine::of_node(&site, &status, index));
    assert_eq!(machines.each_ref().map(tickers), [2, 2], "two ranks on each node");
    run.signal(Signal::SIGINT);
    let outcome = run.wait(seconds(60));
    assert_eq!(outcome.code, 130, "{outcome}");
    until(seconds(15), "no rank is left on any node", || (machines.each_ref().map(tickers) == [0, 0]).then_some(()));
    until(seconds(15), "the job is cancelled", || (job(&site)["state"] == "cancelled").then_some(()));
    site.run(&["run", "jobs", "-n", "4", "--", "./ticker", "2", "10"]).ok();
}

#[test]
fn a_job_does_not_need_the_client_that_started_it() {
    let site = Site::new();
    site.create("jobs", 2);
    site.install("jobs", "ticker");
    let mut run = site.start(&["run", "jobs", "-n", "4", "--", "./ticker", "40", "100"]);
    run.wait_for_stdout("tick 1 rank 3", seconds(30));
    run.signal(Signal::SIGKILL);
    run.wait(seconds(5));
    let id = job(&site)["job_id"].as_str().unwrap().to_owned();
    let outcome = site.run(&["logs", "jobs", &id, "-f"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_eq!(ticks(&outcome.stdout), expected(40, 4), "{outcome}");

    let text = site.run(&["run", "jobs", "-n", "2", "--detach", "--", "./ticker", "10000", "100"]).ok();
    let id = text.trim();
    until(seconds(30), "the detached job runs", || (job(&site)["state"] == "running").then_some(()));
    site.run(&["cancel", "jobs", id]).ok();
    until(seconds(30), "it is cancelled", || (job(&site)["state"] == "cancelled").then_some(()));
    site.run(&["cancel", "jobs", id]).ok();
}

/// The newest job.
fn job(site: &Site) -> Value {
    let jobs = site.run(&["jobs", "jobs", "--json"]).json();
    let newest = |a: &&Value, b: &&Value| a["started_at"].as_f64().partial_cmp(&b["started_at"].as_f64()).unwrap();
    jobs.as_array().unwrap().iter().max_by(newest).expect("there are jobs").clone()
}

fn tickers(machine: &Machine) -> usize {
    machine.processes().iter().filter(|process| process.words[0].ends_with("ticker")).count()
}

/// (tick, rank) of each line, sorted.
fn ticks(stdout: &str) -> Vec<(u32, u32)> {
    let lines = stdout.lines().filter_map(|line| line.strip_prefix("tick "));
    let pair = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[0].parse().unwrap(), fields[2].parse().unwrap())
    };
    let mut found: Vec<_> = lines.map(pair).collect();
    found.sort_unstable();
    found
}

fn expected(ticks: u32, ranks: u32) -> Vec<(u32, u32)> {
    (0..ticks).flat_map(|tick| (0..ranks).map(move |rank| (tick, rank))).collect()
}

/// Words apart by blanks; what stands between bars is one word.
fn split(words: &str) -> Vec<&str> {
    let pieces = words.split('|').enumerate();
    pieces
        .flat_map(|(number, piece)| if number % 2 == 0 { piece.split_whitespace().collect() } else { vec![piece] })
        .collect()
}
