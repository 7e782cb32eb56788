//! What the registry keeps of one node. Everything here happens under the registry's lock and never waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ec2mpi_proto::id::{InstanceId, JobId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::{Facts, LastWord, Liveness, ProcessEvent, Request, RequestError, VolumeState};

type Reply = oneshot::Sender<Result<String, RequestError>>;

#[derive(Debug)]
struct Pending {
    request: Request,
    reply: Reply,
}

/// One node: its session, if any, and everything that outlives sessions.
#[derive(Debug)]
pub(super) struct NodeEntry {
    /// Why it is gone for good.
    pub(super) gone: Option<String>,
    pub(super) word: Option<LastWord>,
    /// Number of the session that counts; 0 before the first. Another one's words are ignored.
    session: u64,
    connected: bool,
    silent_since: Instant,
    facts: Facts,
    volume: VolumeState,
    pending: HashMap<String, Pending>,
    /// Ids of `pending` in the order of asking.
    order: Vec<String>,
    /// Those of them that the session has still to send.
    unsent: VecDeque<String>,
    subscribers: HashMap<JobId, mpsc::Sender<ProcessEvent>>,
    /// Wakes the session: something to send, or replaced.
    pub(super) wake: Arc<Notify>,
}

impl NodeEntry {
    pub(super) fn new(silent_since: Instant) -> Self {
        Self {
            gone: None,
            word: None,
            session: 0,
            connected: false,
            silent_since,
            facts: Facts::default(),
            volume: VolumeState::default(),
            pending: HashMap::new(),
            order: Vec::new(),
            unsent: VecDeque::new(),
            subscribers: HashMap::new(),
            wake: Arc::default(),
        }
    }

    pub(super) fn has_connected(&self) -> bool {
        self.session > 0
    }

    pub(super) fn is_current(&self, session: u64) -> bool {
        self.connected && self.session == session && self.gone.is_none()
    }

    pub(super) fn liveness(&self) -> Liveness {
        Liveness { connected: self.connected, facts: self.facts.clone(), volume: self.volume.clone() }
    }

    pub(super) fn silence(&self) -> Duration {
        if self.connected { Duration::ZERO } else { self.silent_since.elapsed() }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn push(&mut self, id: String, request: Request, reply: Reply) {
        self.pending.insert(id.clone(), Pending { request, reply });
        self.order.push(id.clone());
        self.unsent.push_back(id);
        self.wake.notify_waiters();
    }

    /// The next request to send, in the order of asking.
    pub(super) fn next_unsent(&mut self) -> Option<(String, Request)> {
        while let Some(id) = self.unsent.pop_front() {
            if let Some(pending) = self.pending.get(&id) {
                return Some((id, pending.request.clone()));
            }
        }
        None
    }

    /// Takes a request out; none when it was answered or withdrawn before.
    pub(super) fn withdraw(&mut self, id: &str) -> Option<Reply> {
        let pending = self.pending.remove(id)?;
        self.order.retain(|other| other != id);
        Some(pending.reply)
    }

    /// A new session: everything unanswered is to be sent again.
    pub(super) fn attach(&mut self, facts: Facts) -> u64 {
        self.session += 1;
        self.connected = true;
        self.facts = facts;
        self.unsent = self.order.iter().cloned().collect();
        self.wake.notify_waiters();
        self.session
    }

    /// Ends a session unless it was replaced; tells whether anything changed.
    pub(super) fn detach(&mut self, session: u64) -> bool {
        let current = self.is_current(session);
        if current {
            self.connected = false;
            self.silent_since = Instant::now();
        }
        current
    }

    /// Takes a heartbeat in; tells whether it said anything new.
    pub(super) fn heartbeat(&mut self, session: u64, volume: VolumeState) -> bool {
        let news = self.is_current(session) && self.volume != volume;
        if news {
            self.volume = volume;
        }
        news
    }

    pub(super) fn subscribe(&mut self, job: JobId, sender: mpsc::Sender<ProcessEvent>) {
        self.subscribers.retain(|_, old| !old.is_closed());
        self.subscribers.insert(job, sender);
    }

    pub(super) fn subscriber(&self, job: &JobId) -> Option<mpsc::Sender<ProcessEvent>> {
        self.subscribers.get(job).cloned()
    }

    /// Lets a stuck subscriber go, unless another took its place.
    pub(super) fn unsubscribe(&mut self, job: &JobId, sender: &mpsc::Sender<ProcessEvent>) {
        if self.subscribers.get(job).is_some_and(|current| current.same_channel(sender)) {
            self.subscribers.remove(job);
        }
    }

    pub(super) fn subscribers(&self) -> Vec<mpsc::Sender<ProcessEvent>> {
        self.subscribers.values().cloned().collect()
    }

    pub(super) fn retire(&mut self, node: &InstanceId, why: &str) -> Vec<mpsc::Sender<ProcessEvent>> {
        self.gone = Some(why.to_owned());
        self.connected = false;
        for (_, pending) in self.pending.drain() {
            // The asker may have stopped waiting.
            let _ = pending.reply.send(Err(RequestError::Gone(node.clone())));
        }
        self.order.clear();
        self.unsent.clear();
        self.wake.notify_waiters();
        self.subscribers.drain().map(|(_, sender)| sender).collect()
    }
}
