//! As many machines in one cluster as this host bears: what creating, running and destroying takes, what the machines
//! take, and that the host is afterwards what it was. Prints the figures of docs/performance.md.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use ec2mpi_tests::limits::Limits;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::{memory, stranger};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How much is done: `EC2MPI_SOAK=1` asks for the long form.
struct Size {
    nodes: u32,
    /// Runs by `ec2mpi run` and by hand, in turn.
    pairs: usize,
}

impl Size {
    fn of_this_test() -> Self {
        let is_long = std::env::var("EC2MPI_SOAK").is_ok_and(|value| !value.is_empty() && value != "0");
        if is_long { Self { nodes: 72, pairs: 9 } } else { Self { nodes: 16, pairs: 5 } }
    }
}

/// MiB that a node's own processes may take, shared pages counted in part; figures are in docs/performance.md.
const MOST_A_NODE: u64 = 48;

#[test]
fn many_machines_are_one_cluster_and_leave_the_host_as_it_was() {
    let Size { nodes, pairs } = Size::of_this_test();
    let before = Limits::before_any_cloud();
    let site = Site::new();
    println!("{nodes} nodes, {} processors, load {}", processors(), load());

    create(&site, nodes);
    before.are_raised();
    show_memory(&site, nodes);
    site.install("big", "alltoall");
    check_alltoall(&site, nodes);
    compare(&site, nodes, pairs);
    destroy(&site, nodes);
    check_the_limits(site, &before);
}

fn create(site: &Site, nodes: u32) {
    let outcome = site.run(&["create", "big", "--nodes", &nodes.to_string(), "--slots", "1"]);
    println!("create   {:6.2} s: {}", outcome.took.as_secs_f64(), outcome.stdout.lines().last().unwrap_or_default());
    outcome.ok();
    let status = site.status("big");
    let listed = status["nodes"].as_array().unwrap();
    let ready = listed.iter().filter(|node| node["state"] == "ready" && node["volume"]["state"] == "mounted").count();
    assert_eq!((listed.len(), ready), (nodes as usize, nodes as usize), "{status}");
    assert_eq!(stranger::instances_of(site, status["id"].as_str().unwrap()).len(), nodes as usize);
}

/// Prints memory by kind of process, MiB a node, and checks that it is little.
fn show_memory(site: &Site, nodes: u32) {
    let shares = memory::by_kind(site);
    println!("MiB a node   RSS    PSS  of it anonymous");
    let row = |name: &str, share: &memory::Share| {
        let mib = |kib: u64| kib as f64 / 1024.0 / f64::from(nodes);
        println!("{name:<10} {:5.1}  {:5.1}  {:5.1}", mib(share.rss), mib(share.pss), mib(share.anonymous));
    };
    for kind in memory::KINDS {
        let share = shares.get(kind).copied().unwrap_or_default();
        assert_eq!(share.processes, u64::from(nodes), "one {kind} a node");
        row(kind, &share);
    }
    let all = memory::total(shares.values());
    row("all", &all);
    let most = MOST_A_NODE * 1024 * u64::from(nodes);
    assert!(all.pss < most, "{} KiB, and {most} were expected at most", all.pss);
}

/// Every rank is on a host of its own, and every number that it got was right.
fn check_alltoall(site: &Site, nodes: u32) {
    let ranks = nodes.to_string();
    let output = site.run(&["run", "big", "-n", &ranks, "--", "./alltoall", "1024", "10"]).ok();
    println!("alltoall of 1024 numbers a pair: {}", output.lines().last().unwrap_or_default());
    check_output(&output, nodes, 1024, 10);
    check_where_ranks_look(site);
}

/// No rank looks for its libraries in the working directory, which is the volume.
fn check_where_ranks_look(site: &Site) {
    let output = site.run(&["run", "big", "-n", "2", "--", "sh", "-c", "echo path=$LD_LIBRARY_PATH"]).ok();
    let paths: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix("path=")).collect();
    let is_fine = |path: &&str| path.is_empty() || path.split(':').all(|place| place.starts_with('/'));
    assert!(paths.len() == 2 && paths.iter().all(is_fine), "{output}");
}

#[track_caller]
fn check_output(output: &str, nodes: u32, numbers: u64, rounds: u64) {
    let line = |line: &str| line.strip_prefix("rank ")?.split_once(" on ").map(|(r, h)| (r.to_owned(), h.to_owned()));
    let places: BTreeMap<String, String> = output.lines().filter_map(line).collect();
    let hosts: BTreeSet<&String> = places.values().collect();
    let expected: BTreeSet<String> = (0..nodes).map(|node| format!("big-{node}")).collect();
    assert_eq!((places.len(), hosts), (nodes as usize, expected.iter().collect()), "{output}");
    let sent = u64::from(nodes) * u64::from(nodes) * numbers * rounds;
    let verdict = format!("alltoall: 0 of {sent} numbers wrong, {numbers} a pair, {rounds} rounds");
    assert!(output.contains(&verdict), "{output}");
}

/// `ec2mpi run` and the very same mpirun line started by hand on the head, in turn.
fn compare(site: &Site, nodes: u32, pairs: usize) {
    let ranks = nodes.to_string();
    let words = ["run", "big", "-n", &ranks, "--", "./alltoall"];
    let explain = ["run", "big", "-n", &ranks, "--explain", "--", "./alltoall"];
    let script = by_hand(&site.run(&explain).ok());
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        let run = site.run(&words);
        ours.push(run.took.as_secs_f64());
        check_output(&run.ok(), nodes, 256, 20);
        let output = site.run(&["exec", "big", "--", "bash", "-c", &script]).ok();
        check_output(&output, nodes, 256, 20);
        let seconds = output.lines().find_map(|line| line.strip_prefix("by hand: ")?.strip_suffix(" s"));
        bare.push(seconds.unwrap().parse::<f64>().unwrap());
    }
    println!("run      {} s", list(&ours));
    println!("by hand  {} s", list(&bare));
    let (ours, bare) = (median(ours), median(bare));
    println!(
        "medians of {pairs} pairs: run {ours:.2} s, by hand {bare:.2} s, ratio {:.3}; load {}",
        ours / bare,
        load()
    );
    assert!(ours < bare * 1.5 + 2.0, "run takes {ours:.2} s, the same mpirun line {bare:.2} s");
}

/// A script of bash that runs the line of `run --explain` with its hostfile, and says how long that took.
fn by_hand(explanation: &str) -> String {
    let line = explanation.lines().nth(1).unwrap();
    assert!(line.contains("mpirun"), "{explanation}");
    let (_, rest) = explanation.split_once("# environment\n").unwrap();
    let (environment, hosts) = rest.split_once("# hostfile\n").unwrap();
    let path = line.split_whitespace().skip_while(|word| *word != "--hostfile").nth(1).unwrap();
    let line = line.replace(path, "/tmp/by-hand.hosts");
    format!(
        "export {}\nprintf '{}' >/tmp/by-hand.hosts\nbegun=$EPOCHREALTIME\n{line} || exit\n\
         ended=$EPOCHREALTIME\necho \"by hand: $(awk \"BEGIN {{ print $ended - $begun }}\") s\"\n",
        environment.split_whitespace().collect::<Vec<_>>().join(" "),
        hosts.replace('\n', "\\n"),
    )
}

fn destroy(site: &Site, nodes: u32) {
    let outcome = site.run(&["destroy", "big"]);
    println!("destroy  {:6.2} s", outcome.took.as_secs_f64());
    let text = outcome.ok();
    assert!(text.contains(&format!("{nodes} instances terminated, 0 left")), "{text}");
    assert!(!stranger::instances(site).iter().any(stranger::Instance::is_paid_for));
}

/// A second cloud keeps the limits raised when the first one goes, although that was killed before it was stopped.
fn check_the_limits(site: Site, before: &Limits) {
    let second = Site::new();
    second.start_cloud(&[]);
    site.run(&["stop"]).ok();
    let cloud = i32::try_from(site.cloud()["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(cloud), Signal::SIGKILL).unwrap();
    before.are_raised();
    site.run(&["cloud", "stop", "--purge"]).ok();
    before.are_raised();
    second.run(&["cloud", "stop", "--purge"]).ok();
    before.are_back();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn list(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:6.2}")).collect()
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
