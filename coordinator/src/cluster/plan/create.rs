//! Decisions on the way to a ready cluster.

use std::time::Duration;

use super::{Action, Call, Intent, Observed, deadline, node};
use crate::provider::{Instance, ProviderError};
use crate::state::{LaunchRecord, NodeRecord};

/// The first wait between two launch calls; it doubles with every failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// The longest wait between two launch calls.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

/// How long after the deadline a usable node may take to acknowledge its peers.
const PEERS_ALLOWANCE: Duration = Duration::from_secs(30);

/// Launches without an answer first: until they have one, nothing is known of any node.
pub(super) fn creating(intent: &Intent, observed: &Observed, now: f64) -> Vec<Action> {
    let late_by = now - deadline(intent, observed);
    let unanswered: Vec<_> = intent.launches.iter().filter(|launch| launch.answered_at.is_none()).collect();
    if !unanswered.is_empty() {
        return unanswered.into_iter().filter_map(|launch| launching(launch, observed, now, late_by > 0.0)).collect();
    }
    let given_up = give_up(intent, observed, late_by);
    if !given_up.is_empty() {
        return given_up;
    }
    completing(intent, observed)
}

fn launching(launch: &LaunchRecord, observed: &Observed, now: f64, overdue: bool) -> Option<Action> {
    let machines = machines_of(launch, observed);
    if u32::try_from(machines.len()) == Ok(launch.request.max) {
        return Some(adopt(launch, machines));
    }
    let Some(call) = observed.calls.get(&launch.id) else { return Some(Action::Launch(launch.id.clone())) };
    if is_hopeless(&call.error) || overdue {
        let failed = || Action::Fail { why: call.error.to_string() };
        return Some(if machines.is_empty() { failed() } else { adopt(launch, machines) });
    }
    (now >= call.at + backoff(call)).then(|| Action::Launch(launch.id.clone()))
}

/// What the provider lists of a launch, ended machines included: they are part of its answer.
fn machines_of(launch: &LaunchRecord, observed: &Observed) -> Vec<Instance> {
    let listed = observed.instances.iter().flatten();
    listed.filter(|instance| instance.launch.as_ref() == Some(&launch.id)).cloned().collect()
}

fn adopt(launch: &LaunchRecord, instances: Vec<Instance>) -> Action {
    Action::Adopt { launch: launch.id.clone(), instances }
}

/// Whether repeating the call cannot help.
fn is_hopeless(error: &ProviderError) -> bool {
    match error {
        ProviderError::Refused(_) | ProviderError::Unauthorized(_) | ProviderError::Gone(_) => true,
        ProviderError::Capacity(_) | ProviderError::Throttled(_) | ProviderError::Unknown(_) => false,
    }
}

/// Seconds.
fn backoff(call: &Call) -> f64 {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << call.attempts.saturating_sub(1).min(10));
    doubled.min(LONGEST_BACKOFF).as_secs_f64()
}

/// Nodes that will not come: no machine was left for them, theirs ended, or their time is over. Usable ones get some
/// more of it: they hear of their peers only when the late ones have been given up.
fn give_up(intent: &Intent, observed: &Observed, late_by: f64) -> Vec<Action> {
    let spec = &intent.cluster.spec;
    let peers = node::peers(intent);
    let machines = intent.nodes.iter().filter(|node| node.instance.is_some()).count();
    let reason = |node: &NodeRecord| {
        if node.instance.is_none() {
            Some(format!("the cloud had only {machines} of {} machines", spec.nodes))
        } else if node.gone {
            Some(node::end_of(node, observed))
        } else if late_by > allowance(node, observed) && !node::is_settled(node, &peers, observed) {
            Some(format!("not ready within {} s: {}", spec.timeout.as_secs(), node::failure_of(node, observed)))
        } else {
            None
        }
    };
    let candidates = intent.nodes.iter().filter(|node| node.given_up.is_none());
    candidates.filter_map(|node| Some(Action::GiveUp { index: node.index, why: reason(node)? })).collect()
}

/// Seconds beyond the deadline.
fn allowance(node: &NodeRecord, observed: &Observed) -> f64 {
    let seen = node.instance.as_ref().and_then(|id| observed.agents.get(id));
    if node::is_usable(seen) { PEERS_ALLOWANCE.as_secs_f64() } else { 0.0 }
}

/// All nodes that can still come are machines now.
fn completing(intent: &Intent, observed: &Observed) -> Vec<Action> {
    let members = node::members(intent).count();
    let minimum = intent.cluster.spec.min_nodes as usize;
    if members < minimum {
        return vec![Action::Fail { why: too_few(intent, members) }];
    }
    // Until all have joined, each would only be told again.
    if node::members(intent).any(|node| node.joined_at.is_none() || node.address.is_none()) {
        return Vec::new();
    }
    let peers = node::peers(intent);
    if node::members(intent).all(|node| node::is_settled(node, &peers, observed)) {
        return vec![Action::Ready];
    }
    node::tell_peers(intent, observed)
}

/// Names the first nodes' reasons; a thousand nodes mostly fail for the same one.
fn too_few(intent: &Intent, members: usize) -> String {
    const SHOWN: usize = 3;
    let reasons = intent.nodes.iter().filter_map(|node| Some((node.index, node.given_up.as_ref()?)));
    let mut reasons: Vec<_> = reasons.map(|(index, why)| format!("node {index}: {why}")).collect();
    let more = reasons.len().saturating_sub(SHOWN);
    reasons.truncate(SHOWN);
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    let minimum = intent.cluster.spec.min_nodes;
    format!("only {members} nodes could become ready, at least {minimum} are needed: {}{tail}", reasons.join("; "))
}
