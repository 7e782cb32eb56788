//! What is written down about a job.

use std::collections::BTreeMap;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterId, ClusterName, InstanceId, JobId};
use serde::{Deserialize, Serialize};

use super::state::{Ending, JobState};

/// One job, complete: everything that is needed to go on with it after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    pub id: JobId,
    pub cluster: ClusterId,
    pub cluster_name: ClusterName,
    /// Where the process runs: the head for MPI.
    pub node: JobNode,
    /// All nodes that the program needs.
    #[serde(default)]
    pub nodes: Vec<JobNode>,
    /// How long one of them may be out of reach before the job is lost.
    #[serde(default = "default_node_timeout_seconds")]
    pub node_timeout_seconds: u64,
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
    /// Of the boot that the program runs in; empty: not known.
    #[serde(default)]
    pub boot_id: String,
}

/// A network that fails mostly comes back within a minute.
pub const DEFAULT_NODE_TIMEOUT: Duration = Duration::from_secs(60);

fn default_node_timeout_seconds() -> u64 {
    DEFAULT_NODE_TIMEOUT.as_secs()
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
            JobState::Finishing { ending } => self.told(ending),
            JobState::Ended { ending, not_in_s3: None } => self.told(ending),
            JobState::Ended { ending, not_in_s3: Some(why) } => {
                let closing = format!("the closing barrier failed, files may not be in S3: {why}");
                [self.told(ending), closing].into_iter().filter(|m| !m.is_empty()).collect::<Vec<_>>().join("; ")
            }
        }
    }

    /// An ending with what to do next.
    fn told(&self, ending: &Ending) -> String {
        match ending {
            Ending::Lost { node, .. } => {
                format!("{} (`ec2mpi why {} {node}` tells more)", ending.message(), self.cluster_name)
            }
            _ => ending.message(),
        }
    }

    /// The exit code of a program that is over, else 0.
    pub fn exit_code(&self) -> i32 {
        match &self.state {
            JobState::Finishing { ending } | JobState::Ended { ending, .. } => ending.exit_code(),
            JobState::Preparing | JobState::Running | JobState::Cancelling { .. } => 0,
        }
    }

    /// The nodes whose loss ends the job; records of older builds name only the main one.
    pub(super) fn watched(&self) -> &[JobNode] {
        if self.nodes.is_empty() { std::slice::from_ref(&self.node) } else { &self.nodes }
    }

    /// How many ranks; 0 for a plain command.
    pub fn ranks(&self) -> u32 {
        self.mpi.as_ref().map_or(0, |mpi| mpi.ranks)
    }
}
