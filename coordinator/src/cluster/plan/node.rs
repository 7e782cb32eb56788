//! Decisions about single nodes.

use ec2mpi_proto::id::InstanceId;

use super::{Action, Intent, Observed, Seen};
use crate::cluster::host_name;
use crate::provider::{Instance, InstanceState};
use crate::registry::{Peer, VolumeCondition};
use crate::state::{Goal, LaunchRecord, Milestone, NodeRecord};

/// Writes down what happened to nodes, whatever is wanted of them.
pub(super) fn bookkeeping(intent: &Intent, observed: &Observed, now: f64) -> Vec<Action> {
    let mut actions = Vec::new();
    for node in intent.nodes.iter().filter(|node| !node.gone) {
        let Some(instance) = &node.instance else { continue };
        if has_ended(node, instance, intent, observed, now) {
            actions.push(Action::NodeGone { index: node.index, instance: instance.clone() });
        } else if node.ready_at.is_none() && is_usable(observed.agents.get(instance)) {
            actions.push(Action::NodeReady { index: node.index });
        }
    }
    actions.extend(addresses(intent, observed));
    actions
}

/// Whether a node's agent is there and its volume mounted.
pub(in crate::cluster) fn is_usable(seen: Option<&Seen>) -> bool {
    seen.is_some_and(|seen| seen.liveness.connected && seen.liveness.volume.condition == VolumeCondition::Mounted)
}

fn listed<'a>(observed: &'a Observed, instance: &InstanceId) -> Option<&'a Instance> {
    observed.instances.as_ref()?.iter().find(|listed| listed.id == *instance)
}

/// The provider says that the machine has ended, or does not list one that it has had the time to list.
fn has_ended(node: &NodeRecord, instance: &InstanceId, intent: &Intent, observed: &Observed, now: f64) -> bool {
    if observed.instances.is_none() {
        return false;
    }
    match listed(observed, instance) {
        Some(listed) => listed.state == InstanceState::Terminated,
        None => {
            let is_missed = node.joined_at.is_some() && !is_connected(observed, instance);
            (is_missed && has_settled(node, intent, observed, now)) || was_ended(node, intent, observed)
        }
    }
}

/// Whether the provider must list the node's machine by now: a machine can join before that.
fn has_settled(node: &NodeRecord, intent: &Intent, observed: &Observed, now: f64) -> bool {
    let launch = intent.launches.iter().find(|launch| launch.id == node.launch);
    let answered = launch.and_then(|launch| launch.answered_at);
    answered.is_none_or(|at| now >= at + observed.settle.as_secs_f64())
}

fn is_connected(observed: &Observed, instance: &InstanceId) -> bool {
    observed.agents.get(instance).is_some_and(|seen| seen.liveness.connected)
}

/// Its end was asked for, which only happens to listed machines and to those of an answer.
fn was_ended(node: &NodeRecord, intent: &Intent, observed: &Observed) -> bool {
    let asked = node.instance.as_ref().is_some_and(|id| observed.terminations.contains_key(id));
    asked && intent.launches.iter().all(|launch| launch.answered_at.is_some())
}

/// Machines whose address the provider did not tell when they were launched.
fn addresses(intent: &Intent, observed: &Observed) -> Vec<Action> {
    let wanting = intent.nodes.iter().filter(|node| node.address.is_none() && !node.gone);
    wanting
        .filter_map(|node| {
            let found = listed(observed, node.instance.as_ref()?).filter(|listed| listed.address.is_some())?;
            Some(Action::Adopt { launch: node.launch.clone(), instances: vec![found.clone()] })
        })
        .collect()
}

/// All machines that exist or will.
pub(super) fn alive(observed: &Observed) -> Vec<InstanceId> {
    let listed = observed.instances.iter().flatten();
    listed.filter(|instance| instance.state.is_alive()).map(|instance| instance.id.clone()).collect()
}

/// Machines alive that belong to no node that is counted on. Those of a launch without an answer may yet be wanted.
pub(super) fn unwanted(intent: &Intent, observed: &Observed) -> Vec<InstanceId> {
    let unanswered = |launch: &LaunchRecord| launch.answered_at.is_none();
    if intent.launches.iter().any(unanswered) {
        return Vec::new();
    }
    let wanted =
        |id: &InstanceId| intent.nodes.iter().any(|node| node.instance.as_ref() == Some(id) && node.given_up.is_none());
    alive(observed).into_iter().filter(|id| !wanted(id)).collect()
}

/// Whether a machine is on its way to its end.
pub(super) fn is_any_ending(observed: &Observed) -> bool {
    observed.instances.iter().flatten().any(|listed| listed.state == InstanceState::ShuttingDown)
}

/// Machines alive that should not be, whatever the goal.
pub(super) fn superfluous(intent: &Intent, observed: &Observed) -> Vec<InstanceId> {
    match (&intent.cluster.goal, &intent.cluster.milestone) {
        (Goal::Destroy { .. }, _) | (_, Milestone::Failed { .. }) => alive(observed),
        _ => unwanted(intent, observed),
    }
}

/// Nodes that the cluster counts on.
pub(super) fn members(intent: &Intent) -> impl Iterator<Item = &NodeRecord> {
    intent.nodes.iter().filter(|node| node.given_up.is_none() && !node.gone)
}

/// Who should know whom: the members that have joined.
pub(super) fn peers(intent: &Intent) -> Vec<Peer> {
    let joined = members(intent).filter(|node| node.joined_at.is_some());
    joined
        .filter_map(|node| {
            Some(Peer {
                cluster: intent.cluster.spec.name.clone(),
                cluster_id: intent.cluster.id.clone(),
                index: node.index,
                host_name: host_name(&intent.cluster.spec.name, node.index),
                instance: node.instance.clone()?,
                address: node.address?,
            })
        })
        .collect()
}

/// Nodes that have not been told of the present members, as long as they can be.
pub(super) fn tell_peers(intent: &Intent, observed: &Observed) -> Vec<Action> {
    let peers = peers(intent);
    let stale = |peer: &&Peer| match observed.agents.get(&peer.instance) {
        Some(seen) => seen.liveness.connected && !was_told(seen, &peers),
        None => false,
    };
    let tell = |peer: &Peer| Action::TellPeers { instance: peer.instance.clone(), peers: peers.clone() };
    peers.iter().filter(stale).map(tell).collect()
}

fn was_told(seen: &Seen, peers: &[Peer]) -> bool {
    seen.told.as_ref().is_some_and(|told| told.peers == peers && told.boot_id == seen.liveness.facts.boot_id)
}

/// Whether a node is usable and has acknowledged the present members.
pub(super) fn is_settled(node: &NodeRecord, peers: &[Peer], observed: &Observed) -> bool {
    let seen = node.instance.as_ref().and_then(|id| observed.agents.get(id));
    let acknowledged =
        seen.is_some_and(|seen| was_told(seen, peers) && seen.told.as_ref().is_some_and(|told| told.done));
    is_usable(seen) && acknowledged
}

/// Why a node is not ready yet, for people.
pub(in crate::cluster) fn failure_of(node: &NodeRecord, observed: &Observed) -> String {
    let Some(instance) = &node.instance else { return "the cloud has not made its machine".to_owned() };
    if node.joined_at.is_none() {
        return "its machine was launched but its agent has not joined".to_owned();
    }
    match observed.agents.get(instance) {
        Some(seen) if !seen.liveness.connected => "it joined but its agent is not connected".to_owned(),
        Some(seen) if !is_usable(Some(seen)) => match seen.liveness.volume.message.as_str() {
            "" => "its volume is not mounted".to_owned(),
            message => format!("its volume is not mounted: {message}"),
        },
        Some(_) => "it has not acknowledged the names of its peers".to_owned(),
        None => "it joined but its agent is not connected".to_owned(),
    }
}

/// Why a machine ended, as the provider says.
pub(super) fn end_of(node: &NodeRecord, observed: &Observed) -> String {
    let reason = node.instance.as_ref().and_then(|id| listed(observed, id)).map(|listed| listed.reason.as_str());
    match reason {
        None | Some("") => "its machine ended".to_owned(),
        Some(reason) => format!("its machine ended: {reason}"),
    }
}
