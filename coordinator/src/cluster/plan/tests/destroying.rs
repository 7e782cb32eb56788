//! On the way to nothing.

use super::*;

#[test]
fn all_nodes_that_may_hold_data_drain_first() {
    let (mut intent, mut observed) = ready(3);
    destroy(&mut intent, false);
    intent.nodes[2].ready_at = None;
    connect(&mut observed, 2, VolumeCondition::Starting);
    let timeout = Duration::from_secs(7);
    let drain = |index| Action::Drain { instance: id(index), timeout };
    assert_eq!(plan(&intent, &observed, NOW), [drain(0), drain(1)]);
    observed.drains.insert(id(0), Drain::Asked);
    assert_eq!(plan(&intent, &observed, NOW), [drain(1)]);
    observed.drains.insert(id(1), Drain::Done);
    assert_eq!(plan(&intent, &observed, NOW), [], "one is still draining");
    observed.drains.insert(id(0), Drain::Done);
    assert_eq!(plan(&intent, &observed, NOW), [Action::Terminate(vec![id(0), id(1), id(2)])]);
}

#[test]
fn a_failed_drain_refuses_the_destroy_and_says_what_and_how() {
    let (mut intent, mut observed) = ready(2);
    destroy(&mut intent, false);
    drain_failed(&intent, &mut observed, "results.dat: access denied");
    let [Action::RefuseDestroy { why }] = &plan(&intent, &observed, NOW)[..] else { panic!("not refused") };
    for part in ["demo-0: results.dat: access denied", "ec2mpi destroy demo --discard"] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn an_unreachable_node_refuses_the_destroy_unless_its_machine_has_ended() {
    let (mut intent, mut observed) = ready(1);
    destroy(&mut intent, false);
    let seen = observed.agents.get_mut(&id(0)).unwrap();
    (seen.liveness.connected, seen.silence) = (false, Duration::from_secs(11));
    let [Action::RefuseDestroy { why }] = &plan(&intent, &observed, NOW)[..] else { panic!("not refused") };
    assert!(why.contains("demo-0: unreachable"), "{why}");
    set_states(&mut observed, InstanceState::ShuttingDown);
    assert_eq!(plan(&intent, &observed, NOW), [], "its end is waited for");
    set_states(&mut observed, InstanceState::Terminated);
    assert!(plan(&intent, &observed, NOW).contains(&Action::Remove { terminated: 1 }));
}

#[test]
fn a_node_away_for_a_moment_is_asked_to_drain() {
    let (mut intent, mut observed) = ready(1);
    destroy(&mut intent, false);
    let seen = observed.agents.get_mut(&id(0)).unwrap();
    (seen.liveness.connected, seen.silence) = (false, Duration::from_secs(9));
    assert!(matches!(plan(&intent, &observed, NOW)[..], [Action::Drain { .. }]));
}

#[test]
fn discard_asks_nobody() {
    let (mut intent, mut observed) = ready(2);
    destroy(&mut intent, true);
    drain_failed(&intent, &mut observed, "dirty");
    assert_eq!(plan(&intent, &observed, NOW), [Action::Terminate(vec![id(0), id(1)])]);
}

#[test]
fn the_record_goes_when_the_provider_lists_no_machine_that_lives() {
    let (mut intent, mut observed) = ready(2);
    destroy(&mut intent, true);
    for (state, over) in
        [(InstanceState::ShuttingDown, false), (InstanceState::Stopped, false), (InstanceState::Terminated, true)]
    {
        set_states(&mut observed, state);
        observed.terminations = BTreeMap::from([(id(0), NOW), (id(1), NOW)]);
        let actions = plan(&intent, &observed, NOW);
        assert_eq!(actions.contains(&Action::Remove { terminated: 2 }), over, "{state:?}");
    }
    observed.instances = None;
    assert_eq!(plan(&intent, &observed, NOW), [], "no proof without an answer");
}

#[test]
fn a_cluster_without_machines_goes_at_once_when_nothing_can_show_up_late() {
    let (mut intent, mut observed) = written_down(2, 2);
    destroy(&mut intent, false);
    assert_eq!(plan(&intent, &observed, CREATED + 2.9), [], "a call may have been under way");
    assert_eq!(plan(&intent, &observed, CREATED + 3.0), [Action::Remove { terminated: 0 }]);
    failed_call(&mut observed, ProviderError::Unknown("reset".into()), NOW, 1);
    assert_eq!(plan(&intent, &observed, NOW + 2.9), []);
    assert_eq!(plan(&intent, &observed, NOW + 3.0), [Action::Remove { terminated: 0 }]);
    observed.started = NOW + 10.0;
    observed.calls.clear();
    assert_eq!(plan(&intent, &observed, NOW + 12.0), [], "the process before may have called");
}

#[test]
fn machines_of_an_unanswered_launch_are_ended_too() {
    let (mut intent, mut observed) = written_down(2, 2);
    destroy(&mut intent, false);
    observed.instances = Some(vec![instance(0, InstanceState::Pending)]);
    assert_eq!(plan(&intent, &observed, NOW), [Action::Terminate(vec![id(0)])]);
}

#[test]
fn an_answered_machine_that_is_not_listed_yet_is_waited_for() {
    let (mut intent, mut observed) = launched(2, 2);
    destroy(&mut intent, true);
    observed.instances = Some(vec![]);
    assert_eq!(plan(&intent, &observed, CREATED + 2.0), []);
    assert_eq!(plan(&intent, &observed, CREATED + 4.0), [Action::Remove { terminated: 2 }]);
}
