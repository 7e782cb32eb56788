//! The connected agents: request and reply by command id, liveness, output of processes.
//!
//! Sessions come and go; a request is bound to the node, not to the session: it waits (up to its deadline) for the
//! node to come back and is sent again under the same id, so that the agent answers it once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ec2mpi_proto::id::{InstanceId, JobId};
use tokio::sync::{mpsc, watch};

/// What a node can be asked to do. See `agent.proto` for the meaning of each.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    SetPeers(Vec<Peer>),
    Drain { timeout: Duration },
    RaiseEpoch,
    StartProcess { job: JobId, argv: Vec<String>, environment: BTreeMap<String, String>, working_directory: String },
    SignalProcess { job: JobId, signal: i32 },
    KillJob { job: JobId },
    FollowProcess { job: JobId, stdout_offset: u64, stderr_offset: u64 },
    ForgetProcess { job: JobId },
    WriteHostfile { job: JobId, text: String },
    Transfer { id: String, direction: Direction, path: String },
}

/// Which way a copy goes, seen from the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// A node as its peers see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Peer {
    pub index: u32,
    pub host_name: String,
    pub instance: InstanceId,
    pub address: std::net::Ipv4Addr,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No session within the deadline, or no answer on it.
    #[error("node {0} did not answer within {1:?}")]
    Timeout(InstanceId, Duration),
    /// The agent tried and failed.
    #[error("node {0}: {1}")]
    Failed(InstanceId, String),
    /// The node is gone for good.
    #[error("node {0} is gone")]
    Gone(InstanceId),
}

/// What a followed process sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    Output { stderr: bool, offset: u64, data: Bytes },
    Exit { code: i32, signal: i32, error: String },
    /// A new session began: follow again from what was received.
    Reconnected,
    /// The node is gone for good.
    Gone,
}

/// What an agent told of its node in Hello.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub boot_id: String,
    pub cores: u32,
    pub memory_bytes: u64,
    pub architecture: String,
    pub mpi: Vec<crate::mpi::Installation>,
    /// Seconds since the epoch by phase.
    pub phases: BTreeMap<String, f64>,
}

/// The volume of a node, from its last heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeState {
    pub condition: VolumeCondition,
    pub dirty_files: u64,
    pub dirty_bytes: u64,
    pub failed_files: u64,
    pub message: String,
}

/// Whether `/shared` can be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VolumeCondition {
    #[default]
    Starting,
    Mounted,
    Failed,
}

/// A node's connection as it is now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Liveness {
    pub connected: bool,
    pub facts: Facts,
    pub volume: VolumeState,
}

/// The connected agents. Cheap to clone; clones share.
#[derive(Debug, Clone, Default)]
pub struct Registry {}

impl Registry {
    /// Asks a node and waits for its answer; the text is the reply's value.
    pub async fn request(
        &self,
        _node: &InstanceId,
        _request: Request,
        _deadline: Duration,
    ) -> Result<String, RequestError> {
        todo!()
    }

    /// What is known of a node's connection; none when it never connected to this process.
    pub fn liveness(&self, _node: &InstanceId) -> Option<Liveness> {
        todo!()
    }

    /// Changes whenever any node's liveness does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// Events of one process on one node. At most one subscriber per process: a new one ends the old.
    pub fn subscribe(&self, _node: &InstanceId, _job: &JobId) -> mpsc::Receiver<ProcessEvent> {
        todo!()
    }

    /// Registers a copy that an agent is about to call for: the two ends of its byte stream.
    pub fn open_transfer(&self, _id: &str, _direction: Direction) -> TransferEnd {
        todo!()
    }
}

/// The coordinator's end of a copy. For `Direction::In` it sends and awaits `done`; for `Out` it receives.
#[derive(Debug)]
pub struct TransferEnd {
    /// To the node: data, then drop (an error instead of data aborts).
    pub to_node: mpsc::Sender<Result<Bytes, String>>,
    /// From the node: data, or why it failed; closed at the end.
    pub from_node: mpsc::Receiver<Result<Bytes, String>>,
}
