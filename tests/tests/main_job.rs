//! The main job from end to end: create, compile, run with checkpoint and restart, copy back, destroy.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;

use ec2mpi_tests::site::Site;
use ec2mpi_tests::{physics, stranger};
use serde_json::Value;

const NODES: usize = 4;
const RANKS: usize = 8;

#[test]
fn four_machines_run_a_real_program_and_are_gone_afterwards() {
    let site = Site::new();
    let closing = create(&site);
    assert!(closing.starts_with("cluster demo is ready: 4 nodes, 8 slots, in "), "{closing}");
    for phase in ["launch", "boot", "join", "mount"] {
        assert!(closing.contains(phase), "{closing}");
    }
    let status = site.status("demo");
    check_status(&status);
    check_the_cloud_agrees(&site, &status);

    site.install("demo", "replica_exchange");
    let output = site.run(&["run", "demo", "-n", "8", "--", "./replica_exchange", "--out", "results"]).ok();
    check_run(&output);
    check_results(&site, &status);
    check_restart(&site);
    check_what_is_remembered(&site, &output);
    check_destruction(&site, &status);
}

/// The last line of `create`.
fn create(site: &Site) -> String {
    let outcome = site.run(&["create", "demo", "--nodes", "4"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    outcome.stdout.lines().last().expect("create prints a closing line").to_owned()
}

fn check_status(status: &Value) {
    assert_eq!(status["state"], "ready", "{status}");
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), NODES, "{status}");
    let distinct =
        |field: &str| nodes.iter().map(|node| node[field].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>().len();
    assert_eq!((distinct("host_name"), distinct("instance_id"), distinct("address")), (NODES, NODES, NODES));
    for node in nodes {
        assert_eq!((node["state"].as_str(), node["slots"].as_u64()), (Some("ready"), Some(2)), "{node}");
        assert_eq!(node["volume"]["state"], "mounted", "{node}");
    }
    let timings = ["launch", "boot", "join", "mount", "total"].map(|name| status["timings"][name].as_f64().unwrap());
    assert!(timings.iter().all(|time| (0.0..120.0).contains(time)), "{timings:?}");
}

fn check_the_cloud_agrees(site: &Site, status: &Value) {
    let instances = stranger::instances_of(site, status["id"].as_str().unwrap());
    assert_eq!(instances.len(), NODES);
    assert_eq!(stranger::instances(site).len(), NODES, "and none besides");
    for instance in &instances {
        assert_eq!(instance.state, "running");
        assert_eq!(instance.tags["ec2mpi:cluster"], "demo");
        assert_eq!(instance.tags["ec2mpi:launch-id"], instance.client_token, "the launch id is the client token");
    }
}

fn check_run(output: &str) {
    physics::check(output, RANKS);
    let hosts = physics::hosts(output);
    assert_eq!(hosts.len(), NODES, "{hosts:?}");
    assert_eq!(hosts.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), NODES, "{hosts:?}");
    assert!(hosts.iter().all(|(_, ranks)| ranks.len() == 2), "{hosts:?}");
    assert!(output.contains("8 ranks on 4 hosts"), "{output}");
}

/// Every replica's file is on every node, in S3 as one object, and what `cp` brings back.
fn check_results(site: &Site, status: &Value) {
    for node in 0..NODES {
        let words = ["exec", "demo", "--node", &node.to_string(), "--", "sh", "-c", "cat results/*.dat | wc -l"];
        assert_eq!(site.run(&words).ok().trim(), (RANKS * 20001).to_string(), "on node {node}");
    }
    let folder = site.path("results");
    site.run(&["cp", "-r", "demo:/shared/results", folder.to_str().unwrap()]).ok();
    let prefix = stranger::prefix(status);
    for rank in 0..RANKS {
        let name = format!("replica-000{rank}.dat");
        let copied = fs::read(folder.join(&name)).unwrap();
        assert_eq!(copied.iter().filter(|byte| **byte == b'\n').count(), 20001, "{name}");
        assert!(copied == stranger::object(site, &format!("{prefix}results/{name}")), "{name} differs in S3");
    }
}

fn check_restart(site: &Site) {
    let run = |arguments: &str| {
        let words: Vec<&str> = "run demo -n 8 -- ./replica_exchange --checkpoint-every 400 --seed 7"
            .split(' ')
            .chain(arguments.split(' '))
            .collect();
        site.run(&words).ok()
    };
    run("--out straight --sweeps 4000");
    run("--out broken --sweeps 2000");
    let output = run("--out broken --sweeps 4000 --restart");
    assert!(output.contains("restarted after 2800 sweeps"), "{output}");
    let script = "for r in 0 1 2 3 4 5 6 7; do cmp straight/replica-000$r.dat broken/replica-000$r.dat || exit 9; done";
    site.run(&["exec", "demo", "--node", "2", "--", "sh", "-c", script]).ok();
}

fn check_what_is_remembered(site: &Site, output: &str) {
    let jobs = site.run(&["jobs", "demo", "--json"]).json();
    let jobs = jobs.as_array().unwrap();
    let first = jobs.iter().find(|job| job["ranks"] == 8 && job["command"].to_string().contains("results")).unwrap();
    assert_eq!((first["state"].as_str(), first["exit_code"].as_i64()), (Some("ended"), Some(0)), "{first}");
    let logs = site.run(&["logs", "demo", first["job_id"].as_str().unwrap(), "-f"]).ok();
    assert_eq!(logs, output);

    let hostfile = |ranks: &str| site.run(&["hostfile", "demo", "-n", ranks]).ok();
    assert_eq!(hostfile("3").lines().count(), 2, "only the nodes that the ranks need");
    assert!(hostfile("8").lines().all(|line| line.ends_with("slots=2")), "{}", hostfile("8"));
    assert_eq!(hostfile("8").lines().count(), NODES);

    let names: BTreeSet<String> =
        (0..NODES).map(|node| site.run(&["ssh", "demo", "--node", &node.to_string(), "--", "hostname"]).ok()).collect();
    assert_eq!(names.len(), NODES, "{names:?}");
    let hops = "for n in 0 1 2 3; do ssh -o BatchMode=yes demo-$n id -un || exit 9; done";
    assert_eq!(site.run(&["exec", "demo", "--node", "3", "--", "sh", "-c", hops]).ok(), "mpi\n".repeat(NODES));
}

fn check_destruction(site: &Site, status: &Value) {
    let id = status["id"].as_str().unwrap();
    let text = site.run(&["destroy", "demo"]).ok();
    let first = text.lines().next().unwrap();
    let start = "cluster demo is destroyed: 4 instances terminated, 0 left (asked: ";
    assert!(first.starts_with(start) && first.contains(id), "{text}");
    let prefix = stranger::prefix(status);
    assert!(text.contains(prefix.trim_end_matches('/')), "what is kept is named: {text}");

    let instances = stranger::instances(site);
    assert!(!instances.iter().any(stranger::Instance::is_paid_for), "{instances:?}");
    assert_eq!(site.run(&["list", "--json"]).json(), serde_json::json!([]));
    assert!(!stranger::objects(site, &prefix).is_empty(), "the volume's objects are kept");
    site.run(&["status", "demo"]).refused(&[1], &["demo"]);
}
