//! Copies between a caller of the control API and an agent: two bounded queues, paired by id.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Direction;

/// Chunks of 64 KiB that may wait in each direction.
const QUEUE: usize = 16;

/// The coordinator's end of a copy. For `Direction::In` it sends and awaits `done`; for `Out` it receives.
#[derive(Debug)]
pub struct TransferEnd {
    /// To the node: data, then drop (an error instead of data aborts).
    pub to_node: mpsc::Sender<Result<Bytes, String>>,
    /// From the node: data, or why it failed; closed at the end.
    pub from_node: mpsc::Receiver<Result<Bytes, String>>,
}

/// The agent's end of a copy.
#[derive(Debug)]
pub struct AgentEnd {
    pub direction: Direction,
    /// What goes to the node; closed after the last of it.
    pub to_node: mpsc::Receiver<Result<Bytes, String>>,
    /// What comes from the node; dropped at the end.
    pub from_node: mpsc::Sender<Result<Bytes, String>>,
}

/// Copies that no agent has called for yet.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    waiting: Mutex<HashMap<String, AgentEnd>>,
}

impl Transfers {
    pub(super) fn open(&self, id: &str, direction: Direction) -> TransferEnd {
        let (to_node, for_agent) = mpsc::channel(QUEUE);
        let (by_agent, from_node) = mpsc::channel(QUEUE);
        let mut waiting = self.waiting.lock();
        // A caller that went away before the agent called leaves nothing behind.
        waiting.retain(|_, end| !end.from_node.is_closed());
        waiting.insert(id.to_owned(), AgentEnd { direction, to_node: for_agent, from_node: by_agent });
        TransferEnd { to_node, from_node }
    }

    pub(super) fn take(&self, id: &str) -> Option<AgentEnd> {
        self.waiting.lock().remove(id).filter(|end| !end.from_node.is_closed())
    }
}
