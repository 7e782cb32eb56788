//! What is written down about a job.

use std::collections::BTreeMap;

use ec2mpi_proto::id::{ClusterId, ClusterName, InstanceId, JobId};
use serde::{Deserialize, Serialize};

use super::state::JobState;

/// One job, complete: everything that is needed to go on with it after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    pub id: JobId,
    pub cluster: ClusterId,
    pub cluster_name: ClusterName,
    /// Where the process runs: the head for MPI.
    pub node: JobNode,
    /// The user's words.
    pub command: Vec<String>,
    pub process: Process,
    /// None: a plain command.
    pub mpi: Option<MpiPart>,
    /// Seconds since the epoch.
    pub started_at: f64,
    pub ended_at: Option<f64>,
    pub state: JobState,
}

/// A node of a job, as requests and messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobNode {
    pub instance: InstanceId,
    pub host_name: String,
}

/// What the agent is asked to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub argv: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub working_directory: String,
}

/// What an MPI job has beside a plain command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MpiPart {
    pub ranks: u32,
    pub hostfile: String,
    pub barrier: bool,
}

impl JobRecord {
    /// What people should know of a job that is over or in trouble; empty when there is nothing.
    pub fn message(&self) -> String {
        match &self.state {
            JobState::Preparing | JobState::Running => String::new(),
            JobState::Cancelling { .. } => "being cancelled".into(),
            JobState::Finishing { ending } => ending.message(),
            JobState::Ended { ending, not_in_s3: None } => ending.message(),
            JobState::Ended { ending, not_in_s3: Some(why) } => {
                let closing = format!("the closing barrier failed, files may not be in S3: {why}");
                [ending.message(), closing].into_iter().filter(|m| !m.is_empty()).collect::<Vec<_>>().join("; ")
            }
        }
    }

    /// The exit code of a program that is over, else 0.
    pub fn exit_code(&self) -> i32 {
        match &self.state {
            JobState::Finishing { ending } | JobState::Ended { ending, .. } => ending.exit_code(),
            JobState::Preparing | JobState::Running | JobState::Cancelling { .. } => 0,
        }
    }

    /// How many ranks; 0 for a plain command.
    pub fn ranks(&self) -> u32 {
        self.mpi.as_ref().map_or(0, |mpi| mpi.ranks)
    }
}
