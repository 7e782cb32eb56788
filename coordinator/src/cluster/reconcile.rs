//! The reconcile loop of one cluster: observe, plan, act; the same pass at start-up and ever after.
//!
//! Each cluster has a loop of its own, so that one whose cloud calls fail holds no other. A pass is idempotent: it may
//! be cut anywhere, by SIGKILL too, and the next one goes on from what was written down.

mod act;
mod board;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterId, InstanceId, LaunchId};
use parking_lot::Mutex;
use tokio::time::Instant;

pub(super) use self::board::Board;
pub(super) use self::report::report;
use super::plan::{Call, Drain, Intent, Observed, Seen, Told, is_busy, is_worried, plan};
use super::{Inner, now, view};
use crate::error::Error;
use crate::provider::Instance;

/// Between two passes of one cluster, so that a thousand joins are not a thousand passes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// After a pass that failed (records or cloud out of order).
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// How long a destroyed cluster can still be watched.
const DEPARTED_FOR: Duration = Duration::from_secs(60);

/// What this process knows of one cluster beside its records. Background steps write their outcome here.
#[derive(Debug, Default)]
struct Memory {
    drains: BTreeMap<InstanceId, Drain>,
    told: BTreeMap<InstanceId, Told>,
    calls: BTreeMap<LaunchId, Call>,
    terminations: BTreeMap<InstanceId, f64>,
}

/// The reconcile loop of one cluster.
#[derive(Debug)]
pub(super) struct Worker {
    inner: Arc<Inner>,
    cluster: ClusterId,
    board: Arc<Board>,
    memory: Arc<Mutex<Memory>>,
    instances: Option<Vec<Instance>>,
    /// When that list was asked for, seconds since the epoch.
    listed_at: f64,
    asked: Option<Instant>,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Something was done: look again at once.
    Again,
    /// Nothing to do now; the provider is to be asked after so long.
    Rest(Duration),
    /// The cluster is no more.
    Over,
}

impl Worker {
    pub(super) fn new(inner: Arc<Inner>, cluster: &ClusterId) -> Result<Self, Error> {
        let intent = load(&inner, cluster)?
            .ok_or_else(|| Error::Internal(format!("the record of cluster {cluster} has gone")))?;
        // A new process does not know of those that ended before it began.
        for node in intent.nodes.iter().filter(|node| node.gone) {
            if let Some(instance) = &node.instance {
                inner.registry.retire(instance, node.gone_why.as_deref().unwrap_or("its machine has ended"));
            }
        }
        let memory = Arc::new(Mutex::new(Memory::default()));
        let observed = observe(&inner, &intent, &memory.lock(), None, 0.0);
        let board = Arc::new(Board::new(view::view(&intent, &observed, &inner.place)));
        Ok(Self { inner, cluster: cluster.clone(), board, memory, instances: None, listed_at: 0.0, asked: None })
    }

    pub(super) fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// Until the cluster is no more or the coordinator ends.
    #[tracing::instrument(name = "reconcile", skip_all, fields(cluster = %self.board.name()))]
    pub(super) async fn run(mut self) {
        let stop = self.inner.stop.clone();
        let mut changes = self.inner.registry.changes();
        loop {
            let pause = match self.pass().await {
                Ok(Pass::Over) => return self.depart().await,
                Ok(Pass::Again) => Duration::ZERO,
                Ok(Pass::Rest(pause)) => pause,
                Err(error) => {
                    tracing::warn!(%error, "reconcile pass failed");
                    PAUSE_AFTER_FAILURE
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.board.woken() => {}
                // The registry outlives this loop.
                _ = changes.changed() => {}
            }
            tokio::time::sleep(SHORTEST_PAUSE).await;
        }
    }

    async fn pass(&mut self) -> Result<Pass, Error> {
        let generation = self.board.generation();
        if self.board.take_destroy_news() {
            self.memory.lock().drains.clear();
        }
        let Some(intent) = load(&self.inner, &self.cluster)? else { return Ok(Pass::Over) };
        self.ask_provider(&intent).await;
        let observed = observe(&self.inner, &intent, &self.memory.lock(), self.instances.clone(), self.listed_at);
        self.board.publish(generation, view::view(&intent, &observed, &self.inner.place));
        let actions = plan(&intent, &observed, now());
        if actions.is_empty() {
            return Ok(Pass::Rest(self.pause(&intent, &observed)));
        }
        for action in actions {
            if self.act(&intent, &observed, action).await? == Pass::Over {
                return Ok(Pass::Over);
            }
        }
        Ok(Pass::Again)
    }

    fn pause(&self, intent: &Intent, observed: &Observed) -> Duration {
        let pace = self.inner.place.pace;
        if is_busy(intent, observed) {
            pace.busy
        } else if is_worried(intent, observed) {
            pace.worried
        } else {
            pace.idle
        }
    }

    /// Lists the cluster's machines anew when the last list is older than the pace allows. A cloud that does not
    /// answer leaves the last list as it is.
    async fn ask_provider(&mut self, intent: &Intent) {
        let observed = observe(&self.inner, intent, &self.memory.lock(), self.instances.clone(), self.listed_at);
        let pause = self.pause(intent, &observed);
        if self.asked.is_some_and(|asked| asked.elapsed() < pause) {
            return;
        }
        let asked_at = now();
        let answer = self.inner.provider.describe(&self.cluster).await;
        self.asked = Some(Instant::now());
        match answer {
            Ok(instances) => (self.instances, self.listed_at) = (Some(instances), asked_at),
            Err(error) => tracing::warn!(%error, "the cloud did not list the cluster's machines"),
        }
    }

    /// The end of a destroyed cluster: it can be watched for a while, then its name is forgotten.
    async fn depart(self) {
        let stop = self.inner.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(DEPARTED_FOR) => {}
        }
        let mut boards = self.inner.boards.lock();
        if boards.get(&self.board.name()).is_some_and(|board| Arc::ptr_eq(board, &self.board)) {
            boards.remove(&self.board.name());
        }
    }
}

fn load(inner: &Inner, cluster: &ClusterId) -> Result<Option<Intent>, Error> {
    let Some(record) = inner.state.cluster(cluster)? else { return Ok(None) };
    let launches = inner.state.launches(cluster)?;
    let nodes = inner.state.nodes(cluster)?;
    Ok(Some(Intent { cluster: record, launches, nodes }))
}

fn observe(
    inner: &Inner,
    intent: &Intent,
    memory: &Memory,
    instances: Option<Vec<Instance>>,
    listed_at: f64,
) -> Observed {
    let known = intent.nodes.iter().filter(|node| !node.gone).filter_map(|node| node.instance.as_ref());
    let seen = |id: &InstanceId| Seen {
        liveness: inner.registry.liveness(id).unwrap_or_default(),
        silence: inner.registry.silence(id),
        told: memory.told.get(id).cloned(),
        word: inner.registry.last_word(id).map(|word| word.text),
    };
    Observed {
        instances,
        listed_at,
        agents: known.map(|id| (id.clone(), seen(id))).collect(),
        calls: memory.calls.clone(),
        drains: memory.drains.clone(),
        terminations: memory.terminations.clone(),
        started: inner.started,
        settle: inner.place.pace.settle,
    }
}
