//! A cluster that is ready, or has failed.

use super::*;

#[test]
fn a_ready_cluster_is_left_alone() {
    let (intent, observed) = ready(3);
    assert_eq!(plan(&intent, &observed, NOW), []);
    assert!(!is_busy(&intent, &observed) && !is_worried(&intent, &observed));
}

#[test]
fn a_lost_machine_is_written_down_and_the_others_are_told() {
    let (mut intent, mut observed) = ready(3);
    observed.instances.as_mut().unwrap()[1].state = InstanceState::Terminated;
    observed.agents.get_mut(&id(1)).unwrap().liveness.connected = false;
    assert!(is_worried(&intent, &observed));
    let why = "its machine ended".to_owned();
    assert_eq!(plan(&intent, &observed, NOW), [Action::NodeGone { index: 1, instance: id(1), why }]);
    intent.nodes[1].gone = true;
    let peers = node::peers(&intent);
    assert_eq!(peers.iter().map(|peer| peer.index).collect::<Vec<_>>(), [0, 2]);
    let tell = |index| Action::TellPeers { instance: id(index), peers: peers.clone() };
    assert_eq!(plan(&intent, &observed, NOW), [tell(0), tell(2)]);
}

#[test]
fn a_machine_that_is_no_longer_listed_has_ended_unless_its_agent_speaks() {
    let (intent, mut observed) = ready(2);
    observed.instances.as_mut().unwrap().pop();
    assert_eq!(plan(&intent, &observed, NOW), [], "lists are sometimes short");
    observed.agents.get_mut(&id(1)).unwrap().liveness.connected = false;
    let why = "its machine has ended, the cloud no longer lists it".to_owned();
    assert_eq!(plan(&intent, &observed, NOW), [Action::NodeGone { index: 1, instance: id(1), why }]);
    observed.instances = None;
    assert_eq!(plan(&intent, &observed, NOW), [], "the cloud has not answered");
}

#[test]
fn a_list_may_be_older_than_a_join_or_late_with_it() {
    let (mut intent, mut observed) = ready(1);
    observed.instances = Some(vec![]);
    observed.agents.clear();
    for (joined, listed, gone) in [(NOW, NOW - 1.0, false), (NOW, NOW + 2.9, false), (NOW, NOW + 3.0, true)] {
        intent.nodes[0].joined_at = Some(joined);
        observed.listed_at = listed;
        assert_eq!(node::bookkeeping(&intent, &observed).len(), usize::from(gone), "listed {}", listed - joined);
    }
}

#[test]
fn strays_are_ended_once_in_a_while() {
    let (intent, mut observed) = ready(1);
    observed.instances.as_mut().unwrap().push(instance(7, InstanceState::Running));
    assert!(is_busy(&intent, &observed));
    assert_eq!(plan(&intent, &observed, NOW), [Action::Terminate(vec![id(7)])]);
    observed.terminations.insert(id(7), NOW);
    assert_eq!(plan(&intent, &observed, NOW + 9.0), []);
    assert_eq!(plan(&intent, &observed, NOW + 10.0), [Action::Terminate(vec![id(7)])]);
}

#[test]
fn a_late_address_is_taken() {
    let (mut intent, observed) = ready(1);
    intent.nodes[0].address = None;
    let found = instance(0, InstanceState::Running);
    let actions = plan(&intent, &observed, NOW);
    assert_eq!(actions, [Action::Adopt { launch: launch_id(), instances: vec![found] }]);
}

#[test]
fn a_failed_cluster_costs_nothing() {
    let (mut intent, mut observed) = launched(2, 2);
    intent.cluster.milestone = Milestone::Failed { why: "late".into() };
    assert_eq!(plan(&intent, &observed, NOW), [Action::Terminate(vec![id(0), id(1)])]);
    set_states(&mut observed, InstanceState::ShuttingDown);
    assert_eq!(plan(&intent, &observed, NOW), []);
    assert!(is_busy(&intent, &observed));
}
