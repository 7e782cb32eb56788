//! Ending what a job has running.

use std::time::Duration;

use futures::future::{join, join_all};
use nix::sys::signal::Signal;
use tokio::time::sleep;
use tracing::debug;

use super::record::{JobNode, JobRecord};
use super::{Parts, barrier};
use crate::cluster::plan::UNREACHABLE_AFTER;
use crate::registry::Request;

/// How long a program may take to end after a signal before a harder one.
const GRACE: Duration = Duration::from_secs(5);
/// How long a node may take to answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long a node that was out of reach at a job's end may take to come back for its processes to be ended.
const LATER: Duration = Duration::from_secs(3600);

/// SIGINT, then SIGTERM, then SIGKILL on the job's node, then every process of the job on every node. Returns when the
/// last has been sent and had its time; drop it when the program's exit is known.
pub(super) async fn escalate(parts: &Parts, job: &JobRecord) {
    for name in [Signal::SIGINT, Signal::SIGTERM] {
        signal(parts, job, name).await;
        sleep(GRACE).await;
    }
    leftovers(parts, job).await;
    sleep(GRACE).await;
}

/// Ends at once whatever the job has running, on every node that answers.
pub(super) async fn leftovers(parts: &Parts, job: &JobRecord) {
    let nodes = nodes(parts, job);
    let kills = nodes.iter().map(|node| ask(parts, job, node, Request::KillJob { job: job.id.clone() }));
    join(signal(parts, job, Signal::SIGKILL), join_all(kills)).await;
}

fn nodes(parts: &Parts, job: &JobRecord) -> Vec<JobNode> {
    match job.mpi {
        // A job of a cluster that is gone has nothing left to end.
        Some(_) => barrier::nodes(parts, job).unwrap_or_default(),
        None => vec![job.node.clone()],
    }
}

/// A node that is cut off goes on with what it runs: that is ended when it comes back, if it does so in time.
pub(super) fn when_they_come_back(parts: &Parts, job: &JobRecord) {
    for node in nodes(parts, job).into_iter().filter(|node| is_out_of_reach(parts, node)) {
        let (registry, id, is_main) = (parts.registry.clone(), job.id.clone(), node.instance == job.node.instance);
        tokio::spawn(async move {
            let killed = registry.request(&node.instance, Request::KillJob { job: id.clone() }, LATER).await;
            debug!(job = %id, node = %node.host_name, ?killed, "leftovers of a node that was out of reach");
            if is_main && killed.is_ok() {
                let forgotten = registry.request(&node.instance, Request::ForgetProcess { job: id }, DEADLINE).await;
                debug!(?forgotten, "the spool of a lost program");
            }
        });
    }
}

fn is_out_of_reach(parts: &Parts, node: &JobNode) -> bool {
    parts.registry.silence(&node.instance) > UNREACHABLE_AFTER
}

async fn signal(parts: &Parts, job: &JobRecord, signal: Signal) {
    let request = Request::SignalProcess { job: job.id.clone(), signal: signal as i32 };
    ask(parts, job, &job.node, request).await;
}

/// A node that does not answer is no reason to stop: its processes end with it, or with the next request.
async fn ask(parts: &Parts, job: &JobRecord, node: &JobNode, request: Request) {
    if is_out_of_reach(parts, node) {
        return;
    }
    if let Err(error) = parts.registry.request(&node.instance, request, DEADLINE).await {
        debug!(job = %job.id, node = %node.host_name, %error, "cannot end processes");
    }
}
