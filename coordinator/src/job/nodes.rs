//! Whether the nodes that a program needs are still there. One is lost when its machine has ended, when it was
//! rebooted, which ends what ran on it, or when it has been out of reach for longer than the job waits.

use std::time::Duration;

use tokio::time::sleep;

use super::Parts;
use super::record::{JobNode, JobRecord};
use super::state::Event;
use crate::error::Error;

/// How often is looked while all nodes are there; a change of the registry is looked at when it happens.
const CALM: Duration = Duration::from_secs(5);
/// The same while one is out of reach.
const WORRIED: Duration = Duration::from_millis(500);

/// What is seen of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sight {
    /// Why it is gone for good.
    gone: Option<String>,
    silence: Duration,
    /// None: it has not connected to this process.
    boot_id: Option<String>,
}

/// What that means for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    There,
    /// It may come back.
    Waits,
    Lost(String),
}

/// Returns when a node of the job is lost, and names it.
pub(super) async fn lost(parts: &Parts, job: &JobRecord) -> Event {
    let mut changes = parts.registry.changes();
    loop {
        // Marked before the look, so that what changes during it is looked at.
        changes.borrow_and_update();
        let (verdict, event) = look(parts, job);
        if let Some(event) = event {
            return event;
        }
        tokio::select! {
            () = sleep(if verdict == Verdict::There { CALM } else { WORRIED }) => {}
            // The registry outlives every job.
            _ = changes.changed() => {}
        }
    }
}

/// After a program failed by itself: the node that was lost under it. Waits until it is known of every node whether it
/// is there; none when all are.
pub(super) async fn to_blame(parts: &Parts, job: &JobRecord) -> Option<Event> {
    loop {
        match look(parts, job) {
            (_, Some(event)) => return Some(event),
            (Verdict::There, None) => return None,
            (_, None) => sleep(WORRIED).await,
        }
    }
}

/// The end of a job whose node is gone for good.
pub(super) fn gone(parts: &Parts, node: &JobNode) -> Event {
    let why = parts.registry.gone(&node.instance).unwrap_or_default();
    Event::NodeLost { node: node.host_name.clone(), why }
}

/// The worst of all nodes, and the event when one is lost.
fn look(parts: &Parts, job: &JobRecord) -> (Verdict, Option<Event>) {
    let lost = |node: &JobNode, why| Some(Event::NodeLost { node: node.host_name.clone(), why });
    if is_destroyed(parts, job) {
        let why = format!("cluster {} was destroyed", job.cluster_name);
        return (Verdict::Waits, lost(&job.node, why));
    }
    let mut worst = Verdict::There;
    for node in job.watched() {
        match judge(&node.boot_id, &sight(parts, node), Duration::from_secs(job.node_timeout_seconds)) {
            Verdict::There => {}
            Verdict::Waits => worst = Verdict::Waits,
            Verdict::Lost(why) => return (Verdict::Waits, lost(node, why)),
        }
    }
    (worst, None)
}

/// Only certainty ends a job.
fn is_destroyed(parts: &Parts, job: &JobRecord) -> bool {
    match parts.clusters.get(&job.cluster_name) {
        Ok(view) => view.id != job.cluster,
        Err(error) => matches!(error, Error::NotFound(_)),
    }
}

fn sight(parts: &Parts, node: &JobNode) -> Sight {
    let registry = &parts.registry;
    Sight {
        gone: registry.gone(&node.instance),
        silence: registry.silence(&node.instance),
        boot_id: registry.liveness(&node.instance).map(|live| live.facts.boot_id),
    }
}

fn judge(boot_id: &str, sight: &Sight, timeout: Duration) -> Verdict {
    if let Some(why) = &sight.gone {
        return Verdict::Lost(why.clone());
    }
    if !boot_id.is_empty() && sight.boot_id.as_ref().is_some_and(|now| now != boot_id) {
        return Verdict::Lost("it was rebooted".to_owned());
    }
    if sight.silence >= timeout {
        return Verdict::Lost(format!("it has been out of reach for {} s", timeout.as_secs()));
    }
    if sight.silence.is_zero() { Verdict::There } else { Verdict::Waits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_lost_when_it_ended_rebooted_or_was_away_too_long() {
        let limit = Duration::from_secs(60);
        let seen = |silence: u64, boot: Option<&str>| Sight {
            gone: None,
            silence: Duration::from_secs(silence),
            boot_id: boot.map(str::to_owned),
        };
        let cases = [
            ("boot-1", seen(0, Some("boot-1")), Verdict::There),
            ("boot-1", seen(59, Some("boot-1")), Verdict::Waits),
            ("boot-1", seen(60, Some("boot-1")), Verdict::Lost("it has been out of reach for 60 s".into())),
            ("boot-1", seen(0, Some("boot-2")), Verdict::Lost("it was rebooted".into())),
            // After a restart of the coordinator nothing is known until it connects.
            ("boot-1", seen(5, None), Verdict::Waits),
            // A record of an older build.
            ("", seen(0, Some("boot-2")), Verdict::There),
        ];
        for (boot_id, sight, expected) in cases {
            assert_eq!(judge(boot_id, &sight, limit), expected, "{sight:?}");
        }
        let gone = Sight { gone: Some("its machine ended".into()), ..Sight::default() };
        assert_eq!(judge("boot-1", &gone, limit), Verdict::Lost("its machine ended".into()));
    }
}
