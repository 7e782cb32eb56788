//! Every state that a cluster can be in, and what is to be done in it.

mod creating;
mod destroying;
mod steady;

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
        ttl: None,
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
        gone_at: None,
        gone_why: None,
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
        listed_at: NOW,
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
