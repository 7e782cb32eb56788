//! The connected agents: request and reply by command id, liveness, output of processes.
//!
//! Sessions come and go; a request is bound to the node, not to the session: it waits (up to its deadline) for the
//! node to come back and is sent again under the same id, so that the agent answers it once.

mod node;
mod session;
mod transfer;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ec2mpi_proto::id::{ClusterId, ClusterName, InstanceId, JobId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::node::NodeEntry;
pub use self::session::Session;
use self::transfer::Transfers;
pub use self::transfer::{AgentEnd, TransferEnd};

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
    pub cluster: ClusterName,
    pub cluster_id: ClusterId,
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
    Output {
        stderr: bool,
        offset: u64,
        data: Bytes,
    },
    Exit {
        code: i32,
        signal: i32,
        error: String,
    },
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

/// What was last heard of a node, or of its attempt to become one.
#[derive(Debug, Clone, PartialEq)]
pub struct LastWord {
    /// Seconds since the epoch.
    pub at: f64,
    pub text: String,
}

/// The longest last word that is kept, characters.
const WORD_LIMIT: usize = 500;

/// Requests of one node that may wait at a time.
const MAX_PENDING: usize = 1024;

/// Events of one process that may wait for their subscriber.
const EVENT_QUEUE: usize = 64;

/// The connected agents. Cheap to clone; clones share.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    nodes: Mutex<HashMap<InstanceId, NodeEntry>>,
    transfers: Transfers,
    changes: watch::Sender<u64>,
    /// Silence of nodes that never connected to this process counts from here.
    started: Instant,
}

impl Default for Registry {
    fn default() -> Self {
        let inner = Inner {
            nodes: Mutex::default(),
            transfers: Transfers::default(),
            changes: watch::Sender::new(0),
            started: Instant::now(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl Registry {
    /// Asks a node and waits for its answer; the text is the reply's value.
    pub async fn request(
        &self,
        node: &InstanceId,
        request: Request,
        deadline: Duration,
    ) -> Result<String, RequestError> {
        let (id, answer) = self.enqueue(node, request)?;
        // Withdraws the request when this future ends without an answer, cancelled or late.
        let _withdraw = Withdraw { registry: self, node, id };
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RequestError::Gone(node.clone())),
            Err(_) => Err(RequestError::Timeout(node.clone(), deadline)),
        }
    }

    fn enqueue(&self, node: &InstanceId, request: Request) -> Result<(String, Answer), RequestError> {
        let mut nodes = self.inner.nodes.lock();
        let entry = nodes.entry(node.clone()).or_insert_with(|| NodeEntry::new(self.inner.started));
        if entry.gone.is_some() {
            return Err(RequestError::Gone(node.clone()));
        }
        if entry.pending() >= MAX_PENDING {
            return Err(RequestError::Failed(node.clone(), format!("{MAX_PENDING} requests wait for it already")));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let (sender, answer) = oneshot::channel();
        entry.push(id.clone(), request, sender);
        Ok((id, answer))
    }

    /// What is known of a node's connection; none when it never connected to this process.
    pub fn liveness(&self, node: &InstanceId) -> Option<Liveness> {
        self.inner.nodes.lock().get(node).filter(|entry| entry.has_connected()).map(NodeEntry::liveness)
    }

    /// How long a node has had no session; zero while it has one. A node that never connected to this process is
    /// silent since the process began.
    pub fn silence(&self, node: &InstanceId) -> Duration {
        match self.inner.nodes.lock().get(node) {
            Some(entry) => entry.silence(),
            None => self.inner.started.elapsed(),
        }
    }

    /// Keeps what was heard of a node, for whoever asks why it is not there.
    pub fn note(&self, node: &InstanceId, at: f64, text: &str) {
        let mut nodes = self.inner.nodes.lock();
        let entry = nodes.entry(node.clone()).or_insert_with(|| NodeEntry::new(self.inner.started));
        entry.word = Some(LastWord { at, text: text.chars().take(WORD_LIMIT).collect() });
    }

    /// What was last noted of a node.
    pub fn last_word(&self, node: &InstanceId) -> Option<LastWord> {
        self.inner.nodes.lock().get(node)?.word.clone()
    }

    /// Why a node is gone for good; none as long as it can come back.
    pub fn gone(&self, node: &InstanceId) -> Option<String> {
        self.inner.nodes.lock().get(node)?.gone.clone()
    }

    /// Changes whenever any node's liveness does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Events of one process on one node. At most one subscriber per process: a new one ends the old.
    pub fn subscribe(&self, node: &InstanceId, job: &JobId) -> mpsc::Receiver<ProcessEvent> {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        let mut nodes = self.inner.nodes.lock();
        let entry = nodes.entry(node.clone()).or_insert_with(|| NodeEntry::new(self.inner.started));
        if entry.gone.is_some() {
            // A fresh queue has room.
            let _ = sender.try_send(ProcessEvent::Gone);
        } else {
            entry.subscribe(job.clone(), sender);
        }
        receiver
    }

    /// Registers a copy that an agent is about to call for: the two ends of its byte stream.
    pub fn open_transfer(&self, id: &str, direction: Direction) -> TransferEnd {
        self.inner.transfers.open(id, direction)
    }

    /// The agent's end of a registered copy, once.
    pub fn take_transfer(&self, id: &str) -> Option<AgentEnd> {
        self.inner.transfers.take(id)
    }

    /// Begins a session; the former one of the same node ends. Waiting requests are sent again under their old ids
    /// and subscribers are told. None for a node that was retired.
    pub fn attach(&self, node: &InstanceId, facts: Facts) -> Option<Session> {
        let (id, subscribers) = {
            let mut nodes = self.inner.nodes.lock();
            let entry = nodes.entry(node.clone()).or_insert_with(|| NodeEntry::new(self.inner.started));
            if entry.gone.is_some() {
                return None;
            }
            (entry.attach(facts), entry.subscribers())
        };
        tokio::spawn(tell_all(subscribers, ProcessEvent::Reconnected));
        self.changed();
        Some(Session::new(self.clone(), node.clone(), id))
    }

    /// A node is gone for good: its requests and subscribers are told, its session ends, it cannot come back.
    /// The first reason stays.
    pub fn retire(&self, node: &InstanceId, why: &str) {
        let subscribers = {
            let mut nodes = self.inner.nodes.lock();
            let entry = nodes.entry(node.clone()).or_insert_with(|| NodeEntry::new(self.inner.started));
            if entry.gone.is_some() {
                return;
            }
            entry.retire(node, why)
        };
        if !subscribers.is_empty() {
            tokio::spawn(tell_all(subscribers, ProcessEvent::Gone));
        }
        self.changed();
    }

    /// Forgets everything of these nodes, once nothing can ask for them any more.
    pub fn forget(&self, nodes: &[InstanceId]) {
        self.inner.nodes.lock().retain(|node, _| !nodes.contains(node));
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

type Answer = oneshot::Receiver<Result<String, RequestError>>;

struct Withdraw<'a> {
    registry: &'a Registry,
    node: &'a InstanceId,
    id: String,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.registry.inner.nodes.lock().get_mut(self.node) {
            entry.withdraw(&self.id);
        }
    }
}

/// A subscriber that takes nothing for so long is let go; it can subscribe and follow again.
const SUBSCRIBER_PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 5000 });

async fn tell_all(subscribers: Vec<mpsc::Sender<ProcessEvent>>, event: ProcessEvent) {
    for subscriber in subscribers {
        // One that has gone, or is stuck, misses nothing that it could use.
        let _ = subscriber.send_timeout(event.clone(), SUBSCRIBER_PATIENCE).await;
    }
}

#[cfg(test)]
mod tests;
