//! What users and jobs see of a cluster. Pure: from intent and observation.

use std::collections::BTreeMap;

use super::launch::{Place, expires_at, volume_url};
use super::plan::{Drain, Intent, Observed, Seen, UNREACHABLE_AFTER, failure_of, is_usable};
use super::{ClusterPhase, ClusterView, NodePhase, NodeView, Proof, host_name};
use crate::provider::tag;
use crate::registry::{Facts, Liveness};
use crate::state::{Goal, Milestone, NodeRecord};

/// A cluster as it is now.
pub(super) fn view(intent: &Intent, observed: &Observed, place: &Place) -> ClusterView {
    let cluster = &intent.cluster;
    ClusterView {
        spec: cluster.spec.clone(),
        id: cluster.id.clone(),
        phase: phase(intent, observed),
        message: message(intent, observed),
        nodes: intent.nodes.iter().map(|node| node_view(node, intent, observed, place)).collect(),
        volume: volume_url(place, &cluster.spec.name),
        cidr: place.cidr.clone(),
        created_at: cluster.created_at,
        expires_at: expires_at(&cluster.spec, cluster.created_at),
        cloud: place.cloud.clone(),
        timings: match &cluster.milestone {
            Milestone::Ready { timings } => timings.clone(),
            Milestone::Creating | Milestone::Failed { .. } => BTreeMap::new(),
        },
    }
}

/// The proof that a destroyed cluster leaves no machine.
pub(super) fn proof(intent: &Intent, terminated: u32, place: &Place) -> Proof {
    Proof {
        terminated,
        remaining: 0,
        query: format!("DescribeInstances tag:{}={}", tag::CLUSTER_ID, intent.cluster.id),
        volume_kept: Some(volume_url(place, &intent.cluster.spec.name)),
    }
}

fn phase(intent: &Intent, observed: &Observed) -> ClusterPhase {
    match (&intent.cluster.goal, &intent.cluster.milestone) {
        (Goal::Destroy { .. }, _) => ClusterPhase::Destroying { waiting_for: destroy_waits_for(intent, observed) },
        (Goal::Run, Milestone::Creating) => ClusterPhase::Creating,
        (Goal::Run, Milestone::Ready { .. }) => ClusterPhase::Ready,
        (Goal::Run, Milestone::Failed { why }) => ClusterPhase::Failed { why: why.clone() },
    }
}

fn destroy_waits_for(intent: &Intent, observed: &Observed) -> String {
    let draining = observed.drains.values().filter(|drain| **drain == Drain::Asked).count();
    if draining > 0 {
        return format!("{draining} nodes to upload what is dirty");
    }
    let left = intent.nodes.iter().filter(|node| node.instance.is_some() && !node.gone).count();
    format!("{left} machines to end")
}

fn message(intent: &Intent, observed: &Observed) -> String {
    match (&intent.cluster.goal, &intent.cluster.milestone) {
        (Goal::Destroy { .. }, _) => format!("waits for {}", destroy_waits_for(intent, observed)),
        (Goal::Run, Milestone::Failed { why }) => format!("{why}; its machines are ended, remove it with destroy"),
        (Goal::Run, Milestone::Creating | Milestone::Ready { .. }) if !intent.cluster.note.is_empty() => {
            intent.cluster.note.clone()
        }
        (Goal::Run, Milestone::Creating) => creating_message(intent, observed),
        (Goal::Run, Milestone::Ready { .. }) => missing_message(intent),
    }
}

fn creating_message(intent: &Intent, observed: &Observed) -> String {
    let unanswered = intent.launches.iter().filter(|launch| launch.answered_at.is_none());
    if let Some(call) = unanswered.filter_map(|launch| observed.calls.get(&launch.id)).next() {
        return format!("{}; trying again", call.error);
    }
    let usable = |node: &&NodeRecord| is_usable(node.instance.as_ref().and_then(|id| observed.agents.get(id)));
    let ready = intent.nodes.iter().filter(usable).count();
    format!("{ready} of {} nodes are ready", intent.cluster.spec.nodes)
}

fn missing_message(intent: &Intent) -> String {
    let lost = intent.nodes.iter().filter(|node| node.gone || node.given_up.is_some()).count();
    if lost == 0 { String::new() } else { format!("{lost} of {} nodes are missing", intent.cluster.spec.nodes) }
}

fn node_view(node: &NodeRecord, intent: &Intent, observed: &Observed, place: &Place) -> NodeView {
    let seen = node.instance.as_ref().and_then(|id| observed.agents.get(id));
    let Liveness { facts, volume, .. } = seen.map(|seen| seen.liveness.clone()).unwrap_or_default();
    NodeView {
        index: node.index,
        host_name: host_name(&intent.cluster.spec.name, node.index),
        instance: node.instance.clone(),
        address: node.address,
        phase: node_phase(node, seen, &intent.cluster.goal),
        slots: intent.cluster.spec.slots_per_node,
        volume,
        dedicated_cores: place.dedicated_cores,
        boot_id: facts.boot_id,
        mpi: facts.mpi,
    }
}

pub(super) fn node_phase(node: &NodeRecord, seen: Option<&Seen>, goal: &Goal) -> NodePhase {
    if let Some(why) = &node.given_up {
        return NodePhase::Failed { why: why.clone() };
    }
    if node.gone {
        return NodePhase::Gone { why: node.gone_why.clone().unwrap_or_default() };
    }
    if matches!(goal, Goal::Destroy { .. }) && node.instance.is_some() {
        return NodePhase::Leaving;
    }
    match (&node.instance, node.joined_at, node.ready_at) {
        (None, _, _) => NodePhase::Requested,
        (Some(_), None, _) => NodePhase::Booting,
        (Some(_), Some(_), None) => NodePhase::Joined,
        (Some(_), Some(_), Some(_)) => usable_phase(seen),
    }
}

/// Of a node that has been ready before.
fn usable_phase(seen: Option<&Seen>) -> NodePhase {
    match seen {
        Some(seen) if seen.silence > UNREACHABLE_AFTER => NodePhase::Unreachable,
        // Its session may come back any moment, as after a restart of the coordinator.
        Some(seen) if !seen.liveness.connected => NodePhase::Ready,
        seen if is_usable(seen) => NodePhase::Ready,
        Some(_) => NodePhase::Joined,
        None => NodePhase::Unreachable,
    }
}

/// Where the time went, seconds by phase, along the slowest node; `now` is when the cluster became ready.
pub(super) fn timings(intent: &Intent, observed: &Observed, now: f64) -> BTreeMap<String, f64> {
    let created = intent.cluster.created_at;
    let mut timings = BTreeMap::from([("total".to_owned(), now - created)]);
    let Some(answered) = intent.launches.iter().filter_map(|launch| launch.answered_at).reduce(f64::max) else {
        return timings;
    };
    timings.insert("launch".to_owned(), answered - created);
    if let Some(facts) = slowest(intent, observed) {
        let phase = |name: &str| facts.phases.get(name).copied();
        let mut add = |name: &str, from: Option<f64>, to: Option<f64>| {
            if let (Some(from), Some(to)) = (from, to) {
                // Clocks differ a little between machines.
                timings.insert(name.to_owned(), (to - from).max(0.0));
            }
        };
        add("boot", Some(answered), phase("agent"));
        add("join", phase("agent"), phase("join"));
        add("mount", phase("join"), phase("mount").or(Some(now)));
    }
    timings
}

/// The node that came last.
fn slowest<'a>(intent: &Intent, observed: &'a Observed) -> Option<&'a Facts> {
    let members = intent.nodes.iter().filter(|node| node.given_up.is_none() && !node.gone);
    let facts =
        members.filter_map(|node| observed.agents.get(node.instance.as_ref()?)).map(|seen| &seen.liveness.facts);
    let last = |facts: &&Facts| facts.phases.values().copied().fold(f64::MIN, f64::max);
    facts.max_by(|a, b| last(a).total_cmp(&last(b)))
}

/// Nodes that keep a cluster from becoming ready, with their reasons; for logs.
pub(super) fn laggards(intent: &Intent, observed: &Observed) -> Vec<String> {
    let waiting = intent.nodes.iter().filter(|node| node.given_up.is_none() && node.ready_at.is_none());
    waiting.map(|node| format!("node {}: {}", node.index, failure_of(node, observed))).collect()
}
