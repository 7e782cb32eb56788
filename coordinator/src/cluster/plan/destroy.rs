//! Decisions on the way to nothing: drain, end, prove.

use std::time::Duration;

use ec2mpi_proto::id::InstanceId;

use super::{Action, Drain, Intent, Observed, UNREACHABLE_AFTER, node, terminate};
use crate::cluster::host_name;
use crate::provider::{Instance, InstanceState};
use crate::state::NodeRecord;

/// Drains what may hold data, then ends every machine, then waits until the provider lists none.
pub(super) fn destroying(
    intent: &Intent,
    observed: &Observed,
    now: f64,
    discard: bool,
    drain_timeout: Duration,
) -> Vec<Action> {
    if !discard {
        match draining(intent, observed, drain_timeout) {
            Progress::Done => {}
            Progress::Waiting(actions) => return actions,
            Progress::Refused(why) => return vec![Action::RefuseDestroy { why }],
        }
    }
    if let Some(action) = terminate(node::alive(observed), observed, now) {
        return vec![action];
    }
    if is_empty(observed) && is_settled(intent, observed, now) {
        return vec![Action::Remove { terminated: machines(intent, observed) }];
    }
    Vec::new()
}

enum Progress {
    Done,
    Waiting(Vec<Action>),
    Refused(String),
}

fn draining(intent: &Intent, observed: &Observed, timeout: Duration) -> Progress {
    let mut actions = Vec::new();
    let mut failures = Vec::new();
    let mut waiting = false;
    for (node, instance) in data_holders(intent, observed) {
        let name = host_name(&intent.cluster.spec.name, node.index);
        match observed.drains.get(instance) {
            Some(Drain::Done) => {}
            Some(Drain::Failed(why)) => failures.push(format!("{name}: {why}")),
            Some(Drain::Asked) => waiting = true,
            None if is_unreachable(instance, observed) => {
                failures.push(format!("{name}: unreachable, it may hold files that are not in S3"));
            }
            None => actions.push(Action::Drain { instance: instance.clone(), timeout }),
        }
    }
    if waiting || !actions.is_empty() {
        Progress::Waiting(actions)
    } else if failures.is_empty() {
        Progress::Done
    } else {
        Progress::Refused(refusal(intent, &failures))
    }
}

/// Nodes that have been usable and whose machine has not ended or begun to: their cache is all there is of some files.
fn data_holders<'a>(
    intent: &'a Intent,
    observed: &'a Observed,
) -> impl Iterator<Item = (&'a NodeRecord, &'a InstanceId)> {
    let candidates = intent.nodes.iter().filter(|node| !node.gone && node.ready_at.is_some());
    candidates.filter_map(|node| Some((node, node.instance.as_ref()?))).filter(|(_, id)| !is_ending(id, observed))
}

fn is_ending(instance: &InstanceId, observed: &Observed) -> bool {
    let asked = observed.terminations.contains_key(instance);
    let listed = observed.instances.iter().flatten().find(|listed| listed.id == *instance);
    asked || listed.is_some_and(|listed| !listed.state.is_alive())
}

fn is_unreachable(instance: &InstanceId, observed: &Observed) -> bool {
    observed.agents.get(instance).is_some_and(|seen| seen.silence > UNREACHABLE_AFTER)
}

fn refusal(intent: &Intent, failures: &[String]) -> String {
    let name = &intent.cluster.spec.name;
    format!(
        "not destroyed, files would be lost: {}; repair it and try again, or give the files up with `ec2mpi destroy {name} --discard`",
        failures.join("; ")
    )
}

/// The provider has answered and lists no machine that is not ended.
fn is_empty(observed: &Observed) -> bool {
    let ended = |listed: &Instance| listed.state == InstanceState::Terminated;
    observed.instances.as_ref().is_some_and(|listed| listed.iter().all(ended))
}

/// Nothing can show up late: every machine known from an answer was seen or has had the time to be listed, and so
/// has whatever an unanswered call may have made.
fn is_settled(intent: &Intent, observed: &Observed, now: f64) -> bool {
    let settle = observed.settle.as_secs_f64();
    intent.launches.iter().all(|launch| {
        let last_call = observed.calls.get(&launch.id).map_or(observed.started, |call| call.at);
        match launch.answered_at {
            Some(at) => now >= at + settle || is_listed_whole(intent, observed),
            None => now >= last_call.max(launch.created_at) + settle,
        }
    })
}

fn is_listed_whole(intent: &Intent, observed: &Observed) -> bool {
    let listed = |id: &InstanceId| observed.instances.iter().flatten().any(|listed| listed.id == *id);
    intent.nodes.iter().filter_map(|node| node.instance.as_ref()).all(listed)
}

/// Machines that this cluster had, by the records and by the provider's list.
fn machines(intent: &Intent, observed: &Observed) -> u32 {
    let recorded = intent.nodes.iter().filter_map(|node| node.instance.as_ref());
    let listed = observed.instances.iter().flatten().map(|listed| &listed.id);
    let all: std::collections::BTreeSet<_> = recorded.chain(listed).collect();
    u32::try_from(all.len()).unwrap_or(u32::MAX)
}
