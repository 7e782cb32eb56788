//! Every state that a cluster can be in, and what is to be done in it.

use std::net::Ipv4Addr;

use super::*;
use crate::cluster::ClusterSpec;
use crate::provider::{InstanceState, LaunchRequest};
use crate::registry::{Facts, VolumeCondition, VolumeState};

/// When the sample cluster was written down; its nodes have ten minutes.
pub(in crate::cluster) const CREATED: f64 = 1000.0;
const NOW: f64 = CREATED + 30.0;
const LATE: f64 = CREATED + 601.0;

pub(in crate::cluster) fn id(index: u32) -> InstanceId {
    format!("i-{index:017x}").parse().unwrap()
}

fn launch_id() -> LaunchId {
    "l-00000000000000000000000000000001".parse().unwrap()
}

fn spec(nodes: u32, min_nodes: u32) -> ClusterSpec {
    ClusterSpec {
        name: "demo".parse().unwrap(),
        nodes,
        min_nodes,
        timeout: Duration::from_secs(600),
        instance_type: "local.machine".into(),
        slots_per_node: 2,
    }
}

fn node(index: u32) -> NodeRecord {
    NodeRecord {
        index,
        launch: launch_id(),
        instance: None,
        address: None,
        joined_at: None,
        ready_at: None,
        given_up: None,
        gone: false,
    }
}

pub(in crate::cluster) fn instance(index: u32, state: InstanceState) -> Instance {
    Instance {
        id: id(index),
        launch: Some(launch_id()),
        launch_index: index,
        state,
        address: Some(Ipv4Addr::from(0x0ad5_0002 + index)),
        reason: String::new(),
    }
}

/// A cluster that was just written down.
pub(in crate::cluster) fn written_down(nodes: u32, min_nodes: u32) -> (Intent, Observed) {
    let spec = spec(nodes, min_nodes);
    let request = LaunchRequest {
        launch: launch_id(),
        min: min_nodes,
        max: nodes,
        image: "ami-1".into(),
        instance_type: spec.instance_type.clone(),
        subnet: None,
        security_groups: vec![],
        instance_profile: None,
        user_data: String::new(),
        tags: BTreeMap::new(),
    };
    let cluster = "c-00000000000000000000000000000001".parse().unwrap();
    let launch = LaunchRecord { id: launch_id(), cluster, request, created_at: CREATED, answered_at: None };
    let cluster = ClusterRecord {
        id: launch.cluster.clone(),
        spec,
        goal: Goal::Run,
        milestone: Milestone::Creating,
        note: String::new(),
        created_at: CREATED,
    };
    let intent = Intent { cluster, launches: vec![launch], nodes: (0..nodes).map(node).collect() };
    let observed = Observed {
        instances: Some(vec![]),
        agents: BTreeMap::new(),
        calls: BTreeMap::new(),
        drains: BTreeMap::new(),
        terminations: BTreeMap::new(),
        started: CREATED - 100.0,
        settle: Duration::from_secs(3),
    };
    (intent, observed)
}

/// Its launch is answered with all machines, which run.
fn launched(nodes: u32, min_nodes: u32) -> (Intent, Observed) {
    let (mut intent, mut observed) = written_down(nodes, min_nodes);
    intent.launches[0].answered_at = Some(CREATED + 1.0);
    for node in &mut intent.nodes {
        node.instance = Some(id(node.index));
        node.address = instance(node.index, InstanceState::Running).address;
    }
    observed.instances = Some((0..nodes).map(|index| instance(index, InstanceState::Running)).collect());
    (intent, observed)
}

fn connect(observed: &mut Observed, index: u32, condition: VolumeCondition) {
    let volume = VolumeState { condition, message: "no bucket".into(), ..VolumeState::default() };
    let liveness = Liveness { connected: true, facts: Facts::default(), volume };
    observed.agents.insert(id(index), Seen { liveness, ..Seen::default() });
}

/// All nodes have joined and mounted, nobody was told of anybody.
fn mounted(nodes: u32, min_nodes: u32) -> (Intent, Observed) {
    let (mut intent, mut observed) = launched(nodes, min_nodes);
    for index in 0..nodes {
        intent.nodes[index as usize].joined_at = Some(CREATED + 5.0);
        intent.nodes[index as usize].ready_at = Some(CREATED + 6.0);
        connect(&mut observed, index, VolumeCondition::Mounted);
    }
    (intent, observed)
}

fn told(intent: &Intent, observed: &mut Observed) {
    let peers = node::peers(intent);
    for seen in observed.agents.values_mut() {
        seen.told = Some(Told { peers: peers.clone(), boot_id: String::new(), done: true });
    }
}

/// The cluster is ready.
pub(in crate::cluster) fn ready(nodes: u32) -> (Intent, Observed) {
    let (mut intent, mut observed) = mounted(nodes, nodes);
    told(&intent, &mut observed);
    intent.cluster.milestone = Milestone::Ready { timings: BTreeMap::new() };
    (intent, observed)
}

fn destroy(intent: &mut Intent, discard: bool) {
    intent.cluster.goal = Goal::Destroy { discard, drain_timeout: Duration::from_secs(7) };
}

fn set_states(observed: &mut Observed, state: InstanceState) {
    observed.instances.iter_mut().flatten().for_each(|instance| instance.state = state);
}

fn failed_call(observed: &mut Observed, error: ProviderError, at: f64, attempts: u32) {
    observed.calls.insert(launch_id(), Call { error, at, attempts });
}

fn drain_failed(intent: &Intent, observed: &mut Observed, why: &str) {
    for node in &intent.nodes {
        observed.drains.insert(id(node.index), Drain::Done);
    }
    observed.drains.insert(id(0), Drain::Failed(why.into()));
}

fn give_ups(actions: &[Action]) -> Vec<(u32, &str)> {
    let given_up = |action| match action {
        &Action::GiveUp { index, ref why } => Some((index, why.as_str())),
        _ => None,
    };
    actions.iter().filter_map(given_up).collect()
}

mod creating {
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
}

mod steady {
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
        assert_eq!(plan(&intent, &observed, NOW), [Action::NodeGone { index: 1, instance: id(1) }]);
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
        assert_eq!(plan(&intent, &observed, NOW), [Action::NodeGone { index: 1, instance: id(1) }]);
        observed.instances = None;
        assert_eq!(plan(&intent, &observed, NOW), [], "the cloud has not answered");
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
}

mod destroying {
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
}
