//! On the way to a ready cluster.

use super::*;

#[test]
fn what_was_written_down_is_launched() {
    let (intent, observed) = written_down(2, 2);
    assert_eq!(plan(&intent, &observed, NOW), [Action::Launch(launch_id())]);
}

#[test]
fn a_launch_without_an_answer_is_repeated_even_after_its_time() {
    let (intent, mut observed) = written_down(2, 2);
    observed.started = LATE - 1.0;
    assert_eq!(plan(&intent, &observed, LATE), [Action::Launch(launch_id())]);
}

#[test]
fn machines_of_an_unanswered_launch_are_adopted_by_their_tag_when_all_are_listed() {
    let (intent, mut observed) = written_down(2, 2);
    let machines: Vec<_> = (0..2).map(|index| instance(index, InstanceState::Pending)).collect();
    observed.instances = Some(machines.clone());
    assert_eq!(plan(&intent, &observed, NOW), [Action::Adopt { launch: launch_id(), instances: machines }]);
    observed.instances.as_mut().unwrap().pop();
    assert_eq!(plan(&intent, &observed, NOW), [Action::Launch(launch_id())], "the answer may name more");
}

#[test]
fn a_call_that_may_work_later_is_repeated_with_growing_pauses() {
    let cases = [
        (ProviderError::Unknown("reset".into()), 1, 0.4, false),
        (ProviderError::Unknown("reset".into()), 1, 0.5, true),
        (ProviderError::Throttled("slow".into()), 3, 1.9, false),
        (ProviderError::Throttled("slow".into()), 3, 2.0, true),
        (ProviderError::Capacity("none".into()), 60, 14.9, false),
        (ProviderError::Capacity("none".into()), 60, 15.0, true),
    ];
    for (error, attempts, after, again) in cases {
        let (intent, mut observed) = written_down(2, 2);
        failed_call(&mut observed, error.clone(), NOW, attempts);
        let expected = if again { vec![Action::Launch(launch_id())] } else { vec![] };
        assert_eq!(plan(&intent, &observed, NOW + after), expected, "{error} {attempts} {after}");
    }
}

#[test]
fn a_call_that_cannot_work_fails_the_cluster_and_so_does_the_deadline() {
    let cases = [
        (ProviderError::Refused("no such type".into()), NOW),
        (ProviderError::Unauthorized("who?".into()), NOW),
        (ProviderError::Gone("token".into()), NOW),
        (ProviderError::Capacity("none".into()), LATE),
    ];
    for (error, now) in cases {
        let (intent, mut observed) = written_down(2, 2);
        failed_call(&mut observed, error.clone(), now, 1);
        assert_eq!(plan(&intent, &observed, now), [Action::Fail { why: error.to_string() }]);
    }
}

#[test]
fn a_refused_repetition_takes_what_the_tag_finds() {
    let (intent, mut observed) = written_down(3, 1);
    let machines = vec![instance(0, InstanceState::Running)];
    observed.instances = Some(machines.clone());
    failed_call(&mut observed, ProviderError::Refused("token mismatch".into()), NOW, 1);
    assert_eq!(plan(&intent, &observed, NOW), [Action::Adopt { launch: launch_id(), instances: machines }]);
}

#[test]
fn machines_that_boot_are_waited_for() {
    let (intent, observed) = launched(2, 2);
    assert_eq!(plan(&intent, &observed, NOW), []);
    assert!(is_busy(&intent, &observed));
}

#[test]
fn nodes_without_a_machine_are_given_up_at_once() {
    let (mut intent, observed) = launched(3, 2);
    intent.nodes[2].instance = None;
    let actions = plan(&intent, &observed, NOW);
    assert_eq!(give_ups(&actions), [(2, "the cloud had only 2 of 3 machines")]);
}

#[test]
fn nodes_that_are_late_are_given_up_with_the_reason() {
    let (mut intent, mut observed) = mounted(4, 1);
    told(&intent, &mut observed);
    (intent.nodes[1].joined_at, intent.nodes[1].ready_at) = (None, None);
    observed.agents.remove(&id(1));
    intent.nodes[2].ready_at = None;
    connect(&mut observed, 2, VolumeCondition::Failed);
    observed.agents.get_mut(&id(3)).unwrap().liveness.connected = false;
    told(&intent, &mut observed);
    assert_eq!(give_ups(&plan(&intent, &observed, NOW)), []);
    let actions = plan(&intent, &observed, LATE);
    assert_eq!(
        give_ups(&actions),
        [
            (1, "not ready within 600 s: its machine was launched but its agent has not joined"),
            (2, "not ready within 600 s: its volume is not mounted: no bucket"),
            (3, "not ready within 600 s: it joined but its agent is not connected"),
        ]
    );
}

#[test]
fn usable_nodes_are_not_late_because_others_were() {
    let (mut intent, mut observed) = mounted(2, 1);
    intent.nodes[1].joined_at = None;
    observed.agents.remove(&id(1));
    assert_eq!(give_ups(&plan(&intent, &observed, LATE)).iter().map(|given| given.0).collect::<Vec<_>>(), [1]);
    intent.nodes[1].given_up = Some("late".into());
    assert!(matches!(plan(&intent, &observed, LATE)[..], [Action::TellPeers { .. }, Action::Terminate(_)]));
    let why = "not ready within 600 s: it has not acknowledged the names of its peers";
    assert_eq!(give_ups(&plan(&intent, &observed, LATE + 30.0)), [(0, why)]);
}

#[test]
fn downtime_of_the_coordinator_does_not_count() {
    let (intent, mut observed) = launched(1, 1);
    observed.started = LATE;
    assert_eq!(give_ups(&plan(&intent, &observed, LATE + 59.0)), []);
    assert_eq!(give_ups(&plan(&intent, &observed, LATE + 61.0)).len(), 1);
}

#[test]
fn given_up_nodes_are_ended_and_too_few_fail_the_cluster() {
    let (mut intent, observed) = launched(2, 2);
    intent.nodes[1].given_up = Some("late".into());
    let actions = plan(&intent, &observed, NOW);
    let why = "only 1 nodes could become ready, at least 2 are needed: node 1: late".to_owned();
    assert_eq!(actions, [Action::Fail { why }, Action::Terminate(vec![id(1)])]);
}

#[test]
fn a_machine_that_ends_early_is_written_down_then_given_up() {
    let (mut intent, mut observed) = launched(2, 1);
    let ended = &mut observed.instances.as_mut().unwrap()[1];
    (ended.state, ended.reason) = (InstanceState::Terminated, "Client.UserInitiatedShutdown".into());
    assert_eq!(plan(&intent, &observed, NOW), [Action::NodeGone { index: 1, instance: id(1) }]);
    intent.nodes[1].gone = true;
    let actions = plan(&intent, &observed, NOW);
    assert_eq!(give_ups(&actions), [(1, "its machine ended: Client.UserInitiatedShutdown")]);
}

#[test]
fn a_mounted_node_is_written_down_as_ready() {
    let (mut intent, observed) = mounted(2, 2);
    intent.nodes[1].ready_at = None;
    assert!(plan(&intent, &observed, NOW).contains(&Action::NodeReady { index: 1 }));
}

#[test]
fn peers_are_told_when_all_have_joined() {
    let (mut intent, mut observed) = mounted(2, 2);
    let peers = node::peers(&intent);
    let tell = |index| Action::TellPeers { instance: id(index), peers: peers.clone() };
    assert_eq!(plan(&intent, &observed, NOW), [tell(0), tell(1)]);
    told(&intent, &mut observed);
    observed.agents.get_mut(&id(0)).unwrap().told.as_mut().unwrap().done = false;
    assert_eq!(plan(&intent, &observed, NOW), [], "one is being told");
    observed.agents.get_mut(&id(0)).unwrap().liveness.facts.boot_id = "rebooted".into();
    assert_eq!(plan(&intent, &observed, NOW), [tell(0)]);
    intent.nodes[1].joined_at = None;
    assert_eq!(plan(&intent, &observed, NOW), []);
}

#[test]
fn ready_is_all_that_can_still_come_and_enough_of_them() {
    let (mut intent, mut observed) = mounted(3, 2);
    told(&intent, &mut observed);
    assert_eq!(plan(&intent, &observed, NOW), [Action::Ready]);
    intent.nodes[2].given_up = Some("late".into());
    told(&intent, &mut observed);
    assert_eq!(plan(&intent, &observed, NOW), [Action::Ready, Action::Terminate(vec![id(2)])]);
}

/// A machine can join before DescribeInstances lists it.
#[test]
fn a_machine_that_is_not_listed_yet_has_not_ended() {
    let (mut intent, mut observed) = launched(2, 2);
    observed.instances = Some(vec![]);
    intent.nodes[1].joined_at = Some(CREATED + 2.0);
    let ended = |now| plan(&intent, &observed, now).iter().any(|action| matches!(action, Action::NodeGone { .. }));
    let listed_by = CREATED + 1.0 + observed.settle.as_secs_f64();
    assert!(!ended(listed_by - 0.5));
    assert!(ended(listed_by + 0.5));
}
