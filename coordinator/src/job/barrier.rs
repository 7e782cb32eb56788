//! The barrier: every node uploads what was written, then every node forgets what it knew of the others' files.

use std::future::Future;
use std::time::Duration;

use ec2mpi_proto::id::InstanceId;
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::Parts;
use super::record::{JobNode, JobRecord};
use super::resolve::list;
use crate::cluster::NodePhase;
use crate::registry::{Registry, Request, RequestError};

/// How long a drain may take: some ten GB a node at the speed of one connection to S3.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);
/// What an answer may take beyond the work asked for: an agent that is restarted comes back within seconds.
const ANSWER_MARGIN: Duration = Duration::from_secs(30);
/// How long a node without a session may take to come back before the barrier fails.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// A volume that is being restarted refuses for some seconds; failures within this time are tried again.
const RETRY_FOR: Duration = Duration::from_secs(20);
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Drains every node of the job's cluster, then raises every epoch. The error names the nodes and says why.
pub(super) async fn barrier(parts: &Parts, job: &JobRecord) -> Result<(), String> {
    let nodes = nodes(parts, job)?;
    let is_there = |node: &&JobNode| nodes.iter().any(|there| there.instance == node.instance);
    // What a lost node of this job had not uploaded is lost with it.
    let gone: Vec<_> =
        job.nodes.iter().filter(|node| !is_there(node)).map(|n| format!("{}: gone", n.host_name)).collect();
    if !gone.is_empty() {
        return Err(list(&gone.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    let registry = &parts.registry;
    // A node for which the job waits no longer is not waited for here.
    let patience = SILENCE_LIMIT.min(Duration::from_secs(job.node_timeout_seconds));
    all(&nodes, |node| drain(registry, node, patience)).await?;
    all(&nodes, |node| raise_epoch(registry, node, patience)).await
}

/// The nodes of a job's cluster that exist. An error when the cluster is gone.
pub(super) fn nodes(parts: &Parts, job: &JobRecord) -> Result<Vec<JobNode>, String> {
    let view = parts.clusters.get(&job.cluster_name).map_err(|error| error.to_string())?;
    if view.id != job.cluster {
        return Err(format!("cluster {} of job {} is destroyed", job.cluster_name, job.id));
    }
    let exists = |phase: &NodePhase| !matches!(phase, NodePhase::Gone { .. } | NodePhase::Failed { .. });
    let nodes = view.nodes.into_iter().filter(|node| exists(&node.phase));
    Ok(nodes
        .filter_map(|n| Some(JobNode { instance: n.instance?, host_name: n.host_name, boot_id: n.boot_id }))
        .collect())
}

async fn drain(registry: &Registry, node: &JobNode, patience: Duration) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let request = Request::Drain { timeout: DRAIN_TIMEOUT };
        match ask(registry, node, request, DRAIN_TIMEOUT + ANSWER_MARGIN, patience).await? {
            Ok(_) => return Ok(()),
            Err(RequestError::Failed(..)) if begun.elapsed() < RETRY_FOR => sleep(RETRY_PAUSE).await,
            Err(error) => return Err(reason(error)),
        }
    }
}

async fn raise_epoch(registry: &Registry, node: &JobNode, patience: Duration) -> Result<(), String> {
    ask(registry, node, Request::RaiseEpoch, ANSWER_MARGIN, patience).await?.map(|_| ()).map_err(reason)
}

/// A request that does not wait for its whole deadline when the node is out of reach.
async fn ask(
    registry: &Registry,
    node: &JobNode,
    request: Request,
    deadline: Duration,
    patience: Duration,
) -> Result<Result<String, RequestError>, String> {
    tokio::select! {
        answer = registry.request(&node.instance, request, deadline) => Ok(answer),
        () = silent(registry, &node.instance, patience) => Err(format!("out of reach for {} s", patience.as_secs())),
    }
}

/// Returns when the node has had no session for so long.
async fn silent(registry: &Registry, node: &InstanceId, patience: Duration) {
    while let Some(left) = patience.checked_sub(registry.silence(node)).filter(|left| !left.is_zero()) {
        sleep(left).await;
    }
}

/// Why a node has no answer; the caller names the node.
pub(super) fn reason(error: RequestError) -> String {
    match error {
        RequestError::Timeout(_, limit) => format!("no answer within {} s", limit.as_secs()),
        RequestError::Failed(_, why) => why,
        RequestError::Gone(_) => "gone".into(),
    }
}

/// Asks all nodes at once; the error lists every node that failed.
async fn all<'a, F, W>(nodes: &'a [JobNode], ask: F) -> Result<(), String>
where
    F: Fn(&'a JobNode) -> W,
    W: Future<Output = Result<(), String>>,
{
    let answers = join_all(nodes.iter().map(&ask)).await;
    let failures: Vec<_> = nodes
        .iter()
        .zip(answers)
        .filter_map(|(node, answer)| answer.err().map(|why| format!("{}: {why}", node.host_name)))
        .collect();
    if failures.is_empty() {
        return Ok(());
    }
    Err(list(&failures.iter().map(String::as_str).collect::<Vec<_>>()))
}
