//! From views and records to the wire.

use std::collections::HashMap;

use ec2mpi_proto::v1;

use crate::cluster::{ClusterPhase, ClusterView, Moment, NodePhase, NodeReport, NodeView, Proof};
use crate::job::{Ending, Explanation, JobRecord, JobState};
use crate::registry::{VolumeCondition, VolumeState};

pub(super) fn cluster(view: &ClusterView) -> v1::Cluster {
    v1::Cluster {
        name: view.spec.name.to_string(),
        cluster_id: view.id.to_string(),
        state: cluster_state(&view.phase).into(),
        message: cluster_message(view),
        nodes_wanted: view.spec.nodes,
        min_nodes: view.spec.min_nodes,
        nodes: view.nodes.iter().map(node).collect(),
        volume: view.volume.clone(),
        created_at: view.created_at,
        #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch have far less than 52 bits")]
        expires_at: view.expires_at.unwrap_or(0) as f64,
        cloud: view.cloud.clone(),
        instance_type: view.spec.instance_type.clone(),
        proof: match &view.phase {
            ClusterPhase::Destroyed { proof } => Some(destruction(proof)),
            _ => None,
        },
        timings: view.timings.clone().into_iter().collect(),
    }
}

fn cluster_state(phase: &ClusterPhase) -> v1::cluster::State {
    match phase {
        ClusterPhase::Creating => v1::cluster::State::Creating,
        ClusterPhase::Ready => v1::cluster::State::Ready,
        ClusterPhase::Failed { .. } => v1::cluster::State::Failed,
        ClusterPhase::Destroying { .. } => v1::cluster::State::Destroying,
        ClusterPhase::Destroyed { .. } => v1::cluster::State::Destroyed,
    }
}

fn cluster_message(view: &ClusterView) -> String {
    match &view.phase {
        ClusterPhase::Failed { why } if view.message.is_empty() => why.clone(),
        ClusterPhase::Destroying { waiting_for } if view.message.is_empty() => waiting_for.clone(),
        _ => view.message.clone(),
    }
}

fn destruction(proof: &Proof) -> v1::DestructionProof {
    v1::DestructionProof {
        terminated: proof.terminated,
        remaining: proof.remaining,
        query: proof.query.clone(),
        volume_kept: proof.volume_kept.clone().unwrap_or_default(),
    }
}

fn node(view: &NodeView) -> v1::Node {
    v1::Node {
        index: view.index,
        host_name: view.host_name.clone(),
        instance_id: view.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
        address: view.address.map(|address| address.to_string()).unwrap_or_default(),
        state: node_state(&view.phase).into(),
        message: match &view.phase {
            NodePhase::Failed { why } | NodePhase::Gone { why } => why.clone(),
            _ => String::new(),
        },
        slots: view.slots,
        volume: Some(volume(&view.volume)),
    }
}

pub(super) fn report(report: NodeReport) -> v1::NodeReport {
    let (state, reason, cloud_problem) = match report.machine {
        Ok(Some(machine)) => (machine.state.name(), machine.reason, String::new()),
        Ok(None) => ("", String::new(), String::new()),
        Err(error) => ("", String::new(), error.to_string()),
    };
    let (console, console_problem) = match report.console {
        Ok(text) => (text, String::new()),
        Err(error) => (String::new(), error.to_string()),
    };
    let moment = |moment: Moment| v1::NodeMoment { phase: moment.phase.to_owned(), at: moment.at };
    v1::NodeReport {
        node: Some(node(&report.view)),
        instance_state: state.to_owned(),
        instance_reason: reason,
        cloud_problem,
        history: report.history.into_iter().map(moment).collect(),
        words: report.words.into_iter().map(|word| v1::NodeWord { at: word.at, text: word.text }).collect(),
        console,
        console_problem,
        next: report.next,
    }
}

fn node_state(phase: &NodePhase) -> v1::node::State {
    match phase {
        NodePhase::Requested => v1::node::State::Requested,
        NodePhase::Booting => v1::node::State::Booting,
        NodePhase::Joined => v1::node::State::Joined,
        NodePhase::Ready => v1::node::State::Ready,
        NodePhase::Unreachable => v1::node::State::Unreachable,
        NodePhase::Leaving => v1::node::State::Leaving,
        NodePhase::Gone { .. } => v1::node::State::Gone,
        NodePhase::Failed { .. } => v1::node::State::Failed,
    }
}

fn volume(state: &VolumeState) -> v1::VolumeSummary {
    let condition = match state.condition {
        VolumeCondition::Starting => "starting",
        VolumeCondition::Mounted => "mounted",
        VolumeCondition::Failed => "failed",
    };
    v1::VolumeSummary {
        state: condition.to_owned(),
        dirty_files: state.dirty_files,
        dirty_bytes: state.dirty_bytes,
        failed_files: state.failed_files,
        message: state.message.clone(),
    }
}

pub(super) fn job(record: &JobRecord) -> v1::Job {
    v1::Job {
        job_id: record.id.to_string(),
        cluster: record.cluster_name.to_string(),
        state: job_state(&record.state).into(),
        exit_code: record.exit_code(),
        message: record.message(),
        command: record.command.clone(),
        ranks: record.ranks(),
        started_at: record.started_at,
        ended_at: record.ended_at.unwrap_or(0.0),
    }
}

fn job_state(state: &JobState) -> v1::job::State {
    match state {
        JobState::Preparing | JobState::Cancelling { started: false } => v1::job::State::Preparing,
        JobState::Running | JobState::Cancelling { started: true } => v1::job::State::Running,
        JobState::Finishing { .. } => v1::job::State::Finishing,
        JobState::Ended { ending, .. } => match ending {
            Ending::Exited { .. } | Ending::Failed { .. } => v1::job::State::Ended,
            Ending::Cancelled => v1::job::State::Cancelled,
            Ending::Lost { .. } => v1::job::State::Lost,
        },
    }
}

pub(super) fn explanation(explanation: Explanation) -> v1::ExplainJobResponse {
    v1::ExplainJobResponse {
        hostfile: explanation.hostfile,
        argv: explanation.launch.argv,
        environment: explanation.launch.environment.into_iter().collect::<HashMap<_, _>>(),
        node: explanation.node.host_name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::fixtures::{record, view};

    #[test]
    fn a_destroyed_cluster_carries_its_proof_and_no_other_does() {
        let mut view = view(2);
        assert_eq!(cluster(&view).proof, None);
        let proof = Proof { terminated: 2, remaining: 0, query: "q".into(), volume_kept: Some("s3://b/demo/".into()) };
        view.phase = ClusterPhase::Destroyed { proof };
        let wire = cluster(&view);
        assert_eq!(wire.state(), v1::cluster::State::Destroyed);
        assert_eq!(wire.proof.unwrap().volume_kept, "s3://b/demo/");
    }

    #[test]
    fn why_a_cluster_or_node_failed_is_told() {
        let mut view = view(1);
        view.phase = ClusterPhase::Failed { why: "no capacity".into() };
        view.nodes[0].phase = NodePhase::Failed { why: "never booted".into() };
        let wire = cluster(&view);
        assert_eq!((wire.message.as_str(), wire.nodes[0].message.as_str()), ("no capacity", "never booted"));
    }

    #[test]
    fn every_end_of_a_job_has_its_state_code_and_message() {
        use v1::job::State;
        let lost = Ending::Lost { node: "demo-0".into(), why: "it ended".into() };
        let cases = [
            (Ending::Exited { code: 7 }, State::Ended, 7, ""),
            (Ending::Failed { why: "no such file".into(), code: 127 }, State::Ended, 127, "no such file"),
            (Ending::Cancelled, State::Cancelled, 130, "cancelled"),
            (lost, State::Lost, 75, "node demo-0 is lost, and the program with it: it ended (`ec2mpi why demo demo-0`"),
        ];
        for (ending, state, code, message) in cases {
            let mut job_record = record("demo", 1.0);
            job_record.state = JobState::Ended { ending, not_in_s3: None };
            let wire = job(&job_record);
            assert_eq!((wire.state(), wire.exit_code), (state, code));
            assert!(wire.message.starts_with(message), "{}", wire.message);
        }
    }

    #[test]
    fn a_failed_closing_barrier_is_told() {
        let mut job_record = record("demo", 1.0);
        let not_in_s3 = Some("demo-2: /shared/x: 403".to_owned());
        job_record.state = JobState::Ended { ending: Ending::Exited { code: 0 }, not_in_s3 };
        let wire = job(&job_record);
        assert!(wire.message.contains("may not be in S3: demo-2: /shared/x: 403"), "{}", wire.message);
        assert_eq!(wire.exit_code, 0);
    }
}
