//! One session of one node, as the gRPC edge drives it.

use ec2mpi_proto::id::{InstanceId, JobId};

use super::{ProcessEvent, Registry, Request, RequestError, SUBSCRIBER_PATIENCE, VolumeState};

/// A session that counts until it is dropped or the node begins another.
#[derive(Debug)]
pub struct Session {
    registry: Registry,
    node: InstanceId,
    id: u64,
}

impl Session {
    pub(super) fn new(registry: Registry, node: InstanceId, id: u64) -> Self {
        Self { registry, node, id }
    }

    /// The next request to send, with its command id; none when the session no longer counts. Cancel-safe only
    /// between requests: what it returned must be sent, or the session dropped.
    pub async fn next(&self) -> Option<(String, Request)> {
        loop {
            let notified = {
                let mut nodes = self.registry.inner.nodes.lock();
                let entry = nodes.get_mut(&self.node).filter(|entry| entry.is_current(self.id))?;
                if let Some(next) = entry.next_unsent() {
                    return Some(next);
                }
                // Made under the lock that wakers hold, so that no wake is missed.
                entry.wake.clone().notified_owned()
            };
            notified.await;
        }
    }

    /// Whether the node has begun no other session and was not retired.
    pub fn is_current(&self) -> bool {
        self.registry.inner.nodes.lock().get(&self.node).is_some_and(|entry| entry.is_current(self.id))
    }

    /// Ends when the session no longer counts.
    pub async fn replaced(&self) {
        loop {
            let notified = {
                let nodes = self.registry.inner.nodes.lock();
                let Some(entry) = nodes.get(&self.node).filter(|entry| entry.is_current(self.id)) else { return };
                entry.wake.clone().notified_owned()
            };
            notified.await;
        }
    }

    /// An answer came; a late or repeated one is ignored.
    pub fn reply(&self, command_id: &str, error: String, value: String) {
        let reply = self.registry.inner.nodes.lock().get_mut(&self.node).and_then(|entry| entry.withdraw(command_id));
        let Some(reply) = reply else {
            tracing::debug!(node = %self.node, command = command_id, "reply to no waiting request");
            return;
        };
        let answer = if error.is_empty() { Ok(value) } else { Err(RequestError::Failed(self.node.clone(), error)) };
        // The asker may have stopped waiting.
        let _ = reply.send(answer);
    }

    /// A heartbeat came.
    pub fn heartbeat(&self, volume: VolumeState) {
        let news = {
            let mut nodes = self.registry.inner.nodes.lock();
            nodes.get_mut(&self.node).is_some_and(|entry| entry.heartbeat(self.id, volume))
        };
        if news {
            self.registry.changed();
        }
    }

    /// Output or the end of a process came. Waits a bounded time for a subscriber that is behind, then lets it go.
    pub async fn event(&self, job: &JobId, event: ProcessEvent) {
        let subscriber = self.registry.inner.nodes.lock().get(&self.node).and_then(|entry| entry.subscriber(job));
        let Some(subscriber) = subscriber else { return };
        if subscriber.send_timeout(event, SUBSCRIBER_PATIENCE).await.is_err() {
            tracing::warn!(node = %self.node, job = %job, "subscriber of a process is gone or stuck");
            if let Some(entry) = self.registry.inner.nodes.lock().get_mut(&self.node) {
                entry.unsubscribe(job, &subscriber);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let changed = self.registry.inner.nodes.lock().get_mut(&self.node).is_some_and(|entry| entry.detach(self.id));
        if changed {
            self.registry.changed();
        }
    }
}
