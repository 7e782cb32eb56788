//! The JSON that `--json` prints.

use ec2mpi_proto::v1;
use serde_json::{Value, json};

/// A cluster, as create, status and list print it.
pub(super) fn cluster(cluster: &v1::Cluster) -> Value {
    json!({
        "name": cluster.name,
        "id": cluster.cluster_id,
        "state": cluster_state(cluster.state()),
        "message": cluster.message,
        "nodes_wanted": cluster.nodes_wanted,
        "min_nodes": cluster.min_nodes,
        "nodes": cluster.nodes.iter().map(node).collect::<Vec<_>>(),
        "volume": cluster.volume,
        "created_at": cluster.created_at,
        "expires_at": (cluster.expires_at > 0.0).then_some(cluster.expires_at),
        "cloud": cluster.cloud,
        "instance_type": cluster.instance_type,
        "timings": cluster.timings.iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

fn node(node: &v1::Node) -> Value {
    let volume = node.volume.clone().unwrap_or_default();
    json!({
        "index": node.index,
        "host_name": node.host_name,
        "instance_id": node.instance_id,
        "address": node.address,
        "state": node_state(node.state()),
        "message": node.message,
        "slots": node.slots,
        "volume": {
            "state": volume.state,
            "dirty_files": volume.dirty_files,
            "dirty_bytes": volume.dirty_bytes,
            "failed_files": volume.failed_files,
            "message": volume.message,
        },
    })
}

/// What is known of a node, as why prints it.
pub(super) fn report(report: &v1::NodeReport) -> Value {
    let moments = report.history.iter().map(|moment| json!({ "phase": moment.phase, "at": moment.at }));
    let words = report.words.iter().map(|word| json!({ "at": word.at, "text": word.text }));
    json!({
        "node": node(&report.node.clone().unwrap_or_default()),
        "instance_state": report.instance_state,
        "instance_reason": report.instance_reason,
        "cloud_problem": report.cloud_problem,
        "last_phase": report.history.last().map(|moment| moment.phase.as_str()),
        "history": moments.collect::<Vec<_>>(),
        "words": words.collect::<Vec<_>>(),
        "console": report.console,
        "console_problem": report.console_problem,
        "next": report.next,
    })
}

/// How a destroy ended.
pub(super) fn destruction(name: &str, proof: &v1::DestructionProof) -> Value {
    json!({
        "name": name,
        "terminated": proof.terminated,
        "remaining": proof.remaining,
        "query": proof.query,
        "volume_kept": proof.volume_kept,
    })
}

/// A job, as jobs prints it.
pub(super) fn job(job: &v1::Job) -> Value {
    json!({
        "job_id": job.job_id,
        "cluster": job.cluster,
        "state": job_state(job.state()),
        "exit_code": job.exit_code,
        "message": job.message,
        "command": job.command,
        "ranks": job.ranks,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
    })
}

pub(super) fn cluster_state(state: v1::cluster::State) -> &'static str {
    use v1::cluster::State;
    match state {
        State::Unspecified => "unknown",
        State::Creating => "creating",
        State::Ready => "ready",
        State::Failed => "failed",
        State::Destroying => "destroying",
        State::Destroyed => "destroyed",
    }
}

pub(super) fn node_state(state: v1::node::State) -> &'static str {
    use v1::node::State;
    match state {
        State::Unspecified => "unknown",
        State::Requested => "requested",
        State::Booting => "booting",
        State::Joined => "joined",
        State::Ready => "ready",
        State::Unreachable => "unreachable",
        State::Leaving => "leaving",
        State::Gone => "gone",
        State::Failed => "failed",
    }
}

pub(super) fn job_state(state: v1::job::State) -> &'static str {
    use v1::job::State;
    match state {
        State::Unspecified => "unknown",
        State::Preparing => "preparing",
        State::Running => "running",
        State::Finishing => "finishing",
        State::Ended => "ended",
        State::Cancelled => "cancelled",
        State::Lost => "lost",
    }
}
