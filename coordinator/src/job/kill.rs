//! Ending what a job has running.

use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use tokio::time::sleep;
use tracing::debug;

use super::record::{JobNode, JobRecord};
use super::{Parts, barrier};
use crate::registry::Request;

/// How long a program may take to end after a signal before a harder one.
const GRACE: Duration = Duration::from_secs(5);
/// How long a node may take to answer.
const DEADLINE: Duration = Duration::from_secs(15);

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
    signal(parts, job, Signal::SIGKILL).await;
    let nodes = match job.mpi {
        // A job of a cluster that is gone has nothing left to end.
        Some(_) => barrier::nodes(parts, job).unwrap_or_default(),
        None => vec![job.node.clone()],
    };
    join_all(nodes.iter().map(|node| ask(parts, job, node, Request::KillJob { job: job.id.clone() }))).await;
}

async fn signal(parts: &Parts, job: &JobRecord, signal: Signal) {
    let request = Request::SignalProcess { job: job.id.clone(), signal: signal as i32 };
    ask(parts, job, &job.node, request).await;
}

/// A node that does not answer is no reason to stop: its processes end with it, or with the next request.
async fn ask(parts: &Parts, job: &JobRecord, node: &JobNode, request: Request) {
    if let Err(error) = parts.registry.request(&node.instance, request, DEADLINE).await {
        debug!(job = %job.id, node = %node.host_name, %error, "cannot end processes");
    }
}
