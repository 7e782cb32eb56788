//! What a job becomes of a cluster and a request. What it does with nodes is in `scripted_tests`.

use super::fixtures::view;
use super::*;
use crate::cluster::{ClusterPhase, NodePhase};

fn spec(ranks: u32) -> RunSpec {
    RunSpec {
        ranks,
        working_directory: "/shared".into(),
        environment: [("K".to_owned(), "V".to_owned())].into(),
        program: "./prog".into(),
        arguments: vec!["a".into()],
        barrier: true,
        mpi_arguments: vec![],
        node_timeout: DEFAULT_NODE_TIMEOUT,
    }
}

fn refused(view: &crate::cluster::ClusterView, ranks: u32) -> String {
    resolve::explain(view, &JobId::random(), &spec(ranks)).unwrap_err().to_string()
}

#[test]
fn a_run_uses_only_the_nodes_it_needs_and_starts_on_the_head() {
    let job = resolve::run(&view(4), JobId::random(), spec(3), 5.0).unwrap();
    assert_eq!(job.node.host_name, "demo-0");
    let mpi = job.mpi.as_ref().unwrap();
    assert_eq!(mpi.hostfile.lines().count(), 2, "{}", mpi.hostfile);
    assert!(job.process.argv.iter().any(|word| *word == resolve::hostfile_path(&job.id)), "{:?}", job.process.argv);
    assert_eq!(job.command, ["./prog", "a"]);
    assert_eq!(job.state, JobState::Preparing);
}

#[test]
fn more_ranks_than_slots_is_refused_with_the_numbers() {
    let message = refused(&view(4), 9);
    assert!(message.contains("9 ranks") && message.contains("8 slots on 4 ready nodes"), "{message}");
}

#[test]
fn slots_of_nodes_that_are_not_ready_do_not_count() {
    let mut view = view(4);
    view.nodes[2].phase = NodePhase::Unreachable;
    let message = refused(&view, 7);
    assert!(message.contains("6 slots on 3 ready nodes"), "{message}");
}

#[test]
fn a_node_without_mpi_is_named() {
    let mut view = view(2);
    view.nodes[1].mpi.clear();
    let message = refused(&view, 4);
    assert!(message.contains("Open MPI is not installed on demo-1") && message.contains("apt-get"), "{message}");
    assert!(resolve::explain(&view, &JobId::random(), &spec(2)).is_ok(), "the first node is enough for two ranks");
}

#[test]
fn a_cluster_or_a_head_that_is_not_ready_says_so() {
    let mut creating = view(2);
    creating.phase = ClusterPhase::Creating;
    creating.nodes[1].phase = NodePhase::Booting;
    assert!(refused(&creating, 1).contains("1 of 2 nodes are ready"), "{}", refused(&creating, 1));
    let mut headless = view(2);
    headless.nodes[0].phase = NodePhase::Unreachable;
    assert!(refused(&headless, 1).contains("demo-0 is unreachable"), "{}", refused(&headless, 1));
    headless.nodes[0].phase = NodePhase::Gone { why: "it ended".into() };
    let job = resolve::run(&headless, JobId::random(), spec(2), 5.0).unwrap();
    assert_eq!(job.node.host_name, "demo-1", "the next one takes the place of a head that is gone");
    let mut failed = view(2);
    failed.phase = ClusterPhase::Failed { why: "no capacity".into() };
    let message = refused(&failed, 1);
    assert!(message.contains("no capacity") && message.contains("ec2mpi destroy demo"), "{message}");
}

#[test]
fn a_command_goes_to_the_node_asked_for() {
    let spec = ExecSpec {
        node: 1,
        working_directory: "/tmp".into(),
        environment: Default::default(),
        program: "gcc".into(),
        arguments: vec!["-v".into()],
        node_timeout: DEFAULT_NODE_TIMEOUT,
    };
    let job = resolve::exec(&view(2), JobId::random(), spec.clone(), 0.0).unwrap();
    assert_eq!(job.node.host_name, "demo-1");
    assert_eq!(job.process.argv, ["gcc", "-v"]);
    let unknown = resolve::exec(&view(2), JobId::random(), ExecSpec { node: 2, ..spec }, 0.0).unwrap_err();
    assert!(matches!(&unknown, Error::NotFound(why) if why.contains("no node 2")), "{unknown}");
}

#[test]
fn the_hostfile_of_all_slots_lists_every_ready_node() {
    assert_eq!(resolve::hostfile(&view(3), None).unwrap().lines().count(), 3);
    assert_eq!(resolve::hostfile(&view(3), Some(1)).unwrap().lines().count(), 1);
}

#[test]
fn long_lists_are_cut() {
    assert_eq!(resolve::list(&["a", "b"]), "a, b");
    assert_eq!(resolve::list(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
}
