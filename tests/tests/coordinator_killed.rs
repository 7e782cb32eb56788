//! The coordinator killed where it hurts most, and started again: the same cluster, no machine launched twice or
//! forgotten, the job's output and exit code complete.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use ec2mpi_tests::coordinator::{Coordinator, FailPoint};
use ec2mpi_tests::site::Site;
use ec2mpi_tests::stranger;
use ec2mpi_tests::wait::{seconds, until};

const NODES: usize = 4;

#[test]
fn before_the_launch_is_asked_for() {
    killed_during_create(FailPoint::LaunchBeforeCall);
}

#[test]
fn before_the_answer_to_the_launch_is_stored() {
    killed_during_create(FailPoint::LaunchAfterCall);
}

#[test]
fn when_half_of_the_nodes_have_joined() {
    killed_during_create(FailPoint::JoinHalf);
}

fn killed_during_create(point: FailPoint) {
    let site = Site::new();
    site.start_cloud(&[]);
    let coordinator = Coordinator::start(&site, Some(point));
    // This client goes on when its coordinator is lost, and starts another.
    let create = site.start(&["create", "demo", "--nodes", &NODES.to_string()]);
    let end = coordinator.wait();
    assert_eq!(end.code, 128 + 9, "the coordinator killed itself: {end}");
    let launched = stranger::instances(&site).len();
    match point {
        // Another coordinator may have come to life and launched in the meantime.
        FailPoint::LaunchBeforeCall => assert!(launched == 0 || launched == NODES, "{launched} instances"),
        FailPoint::LaunchAfterCall | FailPoint::JoinHalf => assert_eq!(launched, NODES),
    }
    let outcome = create.wait(seconds(180));
    assert_eq!(outcome.code, 0, "{outcome}");
    check_cluster(&site);

    let output = site.run(&["run", "demo", "-n", "8", "--", "hostname"]).ok();
    assert_eq!(output.lines().collect::<BTreeSet<_>>().len(), NODES, "{output}");
    site.run(&["destroy", "demo"]).ok();
    let instances = stranger::instances(&site);
    assert_eq!(instances.len(), NODES, "still none besides: {instances:?}");
    assert!(!instances.iter().any(stranger::Instance::is_paid_for), "none is forgotten: {instances:?}");
}

/// The cluster's nodes are the cloud's instances, one for one, all of one launch.
#[track_caller]
fn check_cluster(site: &Site) {
    let status = site.status("demo");
    assert_eq!(status["state"], "ready", "{status}");
    let nodes = status["nodes"].as_array().unwrap();
    let known: BTreeSet<String> = nodes.iter().map(|node| node["instance_id"].as_str().unwrap().to_owned()).collect();
    let instances = stranger::instances(site);
    assert_eq!(instances.len(), NODES, "none was launched twice: {instances:?}");
    assert_eq!(instances.iter().map(|one| one.id.clone()).collect::<BTreeSet<_>>(), known, "none was forgotten");
    assert_eq!(instances.iter().map(|one| &one.client_token).collect::<BTreeSet<_>>().len(), 1, "one launch");
    assert!(instances.iter().all(|one| one.state == "running"), "{instances:?}");
    assert!(instances.iter().all(|one| one.tags.get("ec2mpi:cluster-id").map(String::as_str) == status["id"].as_str()));
}

#[test]
fn while_a_job_has_started_and_before_its_output_came() {
    let site = Site::new();
    let coordinator = ready(&site);
    let script = "sleep 4; echo out $EC2MPI_JOB; echo err >&2; exit 5";
    let mut run = site.start(&["exec", "demo", "--node", "1", "--", "sh", "-c", script]);
    until(seconds(30), "the job is running", || (newest_job(&site)["state"] == "running").then_some(()));
    assert_eq!(run.stdout(), "");
    assert!(run.is_running());
    coordinator.kill();
    let _second = Coordinator::start(&site, None);
    let outcome = run.wait(seconds(90));
    let job = newest_job(&site);
    assert_eq!(outcome.code, 5, "{outcome}");
    assert_eq!(outcome.stdout, format!("out {}\n", job["job_id"].as_str().unwrap()));
    assert!(outcome.stderr.contains("err\n"), "{outcome}");
    assert_eq!((job["state"].as_str(), job["exit_code"].as_i64()), (Some("ended"), Some(5)), "{job}");
}

#[test]
fn while_the_output_of_a_job_streams() {
    let site = Site::new();
    let coordinator = ready(&site);
    site.install("demo", "ticker");
    let mut run = site.start(&["run", "demo", "-n", "4", "--", "./ticker", "60", "100"]);
    run.wait_for_stdout("tick 10 rank 0", seconds(60));
    coordinator.kill();
    assert!(!run.stdout().contains("tick 59"), "killed in the middle");
    // Away for a while: ranks go on and their output waits on the node. The client may start a coordinator meanwhile.
    std::thread::sleep(seconds(2));
    let _second = Coordinator::start(&site, None);
    let outcome = run.wait(seconds(120));
    assert_eq!(outcome.code, 0, "{outcome}");
    for tick in 0..60 {
        for rank in 0..4 {
            let line = format!("tick {tick} rank {rank} of 4 on ");
            assert_eq!(outcome.stdout.matches(&line).count(), 1, "{line:?} once in {}", outcome.stdout);
        }
        let line = format!("ticked {tick}\n");
        assert_eq!(outcome.stderr.matches(&line).count(), 1, "{line:?} once in {}", outcome.stderr);
    }
    let logs = site.run(&["logs", "demo", newest_job(&site)["job_id"].as_str().unwrap(), "-f"]);
    assert_eq!((logs.code, &logs.stdout), (0, &outcome.stdout), "stored as it was shown");
}

#[test]
fn during_destroy() {
    let site = Site::new();
    let coordinator = ready(&site);
    let destroy = site.start(&["destroy", "demo"]);
    until(seconds(30), "the destruction has begun", || {
        let paid_for = stranger::instances(&site).iter().filter(|one| one.is_paid_for()).count();
        (paid_for < 2 || site.run(&["list", "--json"]).json()[0]["state"] == "destroying").then_some(())
    });
    coordinator.kill();
    let _second = Coordinator::start(&site, None);
    let outcome = destroy.wait(seconds(120));
    // When all was over before the kill the client cannot have heard the proof; the cloud decides.
    assert!(outcome.code == 0 || outcome.stderr.contains("no longer known"), "{outcome}");
    until(seconds(60), "no instance is left", || {
        (!stranger::instances(&site).iter().any(stranger::Instance::is_paid_for)).then_some(())
    });
    assert_eq!(site.run(&["list", "--json"]).json(), serde_json::json!([]));
}

/// Two nodes, and the coordinator that a test can kill.
fn ready(site: &Site) -> Coordinator {
    site.start_cloud(&[]);
    let coordinator = Coordinator::start(site, None);
    site.create("demo", 2);
    coordinator
}

fn newest_job(site: &Site) -> serde_json::Value {
    let jobs = site.run(&["jobs", "demo", "--json"]).json();
    let started = |job: &serde_json::Value| job["started_at"].as_f64().unwrap_or(0.0);
    let newest = jobs.as_array().unwrap().iter().max_by(|a, b| started(a).total_cmp(&started(b)));
    newest.cloned().unwrap_or_default()
}
