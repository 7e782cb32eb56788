//! Clusters: what is wanted, what is seen, and the pass that makes the second like the first.

pub mod launch;
pub mod plan;
mod reconcile;
mod view;
mod why;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterId, ClusterName, InstanceId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::launch::{Coordinates, Place};
use self::reconcile::{Board, Worker};
pub use self::why::{Moment, NodeReport};
use crate::error::Error;
use crate::identity::ssh::SshAuthority;
use crate::provider::Provider;
use crate::registry::{Registry, VolumeState};
use crate::state::{Goal, NewCluster, State};

/// What a user asks for, parsed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClusterSpec {
    pub name: ClusterName,
    pub nodes: u32,
    pub min_nodes: u32,
    pub timeout: Duration,
    pub instance_type: String,
    pub slots_per_node: u32,
    /// How long its machines live; they end themselves. None: the cloud's default, for ever where there is none.
    #[serde(default)]
    pub ttl: Option<Duration>,
}

/// Where a cluster stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterPhase {
    Creating,
    Ready,
    Failed { why: String },
    Destroying { waiting_for: String },
    Destroyed { proof: Proof },
}

/// What the provider said at the end of a destroy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub terminated: u32,
    pub remaining: u32,
    pub query: String,
    pub volume_kept: Option<String>,
}

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePhase {
    Requested,
    Booting,
    Joined,
    Ready,
    Unreachable,
    Leaving,
    Gone { why: String },
    Failed { why: String },
}

/// One node, as users and jobs see it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    pub index: u32,
    pub host_name: String,
    pub instance: Option<InstanceId>,
    pub address: Option<Ipv4Addr>,
    pub phase: NodePhase,
    pub slots: u32,
    pub volume: VolumeState,
    /// Physical cores are this node's alone; false on the local cloud.
    pub dedicated_cores: bool,
    /// Of its present boot; empty until its agent has told it to this process.
    pub boot_id: String,
    pub mpi: Vec<crate::mpi::Installation>,
}

/// One cluster, as users and jobs see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterView {
    pub spec: ClusterSpec,
    pub id: ClusterId,
    pub phase: ClusterPhase,
    pub message: String,
    pub nodes: Vec<NodeView>,
    /// `s3://bucket/prefix/`.
    pub volume: String,
    /// Address block of the nodes, CIDR.
    pub cidr: String,
    /// Seconds since the epoch.
    pub created_at: f64,
    /// When its machines end themselves, seconds since the epoch.
    pub expires_at: Option<u64>,
    pub cloud: String,
    /// Seconds by phase: launch, boot, join, mount, total.
    pub timings: BTreeMap<String, f64>,
}

/// The most nodes a cluster can have.
pub const MAX_NODES: u32 = 1000;

/// How long a node may take to become ready, unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// The unique name of a node in its cluster, legal as a DNS label.
pub fn host_name(cluster: &ClusterName, index: u32) -> String {
    format!("{cluster}-{index}")
}

/// Seconds since the epoch.
pub fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// The clusters of this coordinator. Cheap to clone; clones share.
#[derive(Debug, Clone)]
pub struct Clusters {
    inner: Arc<Inner>,
}

/// What the reconcile passes of all clusters share.
#[derive(Debug)]
struct Inner {
    state: State,
    provider: Arc<dyn Provider>,
    registry: Registry,
    place: Place,
    coordinates: Coordinates,
    /// When this process began, seconds since the epoch.
    started: f64,
    boards: Mutex<BTreeMap<ClusterName, Arc<Board>>>,
    workers: TaskTracker,
    stop: CancellationToken,
}

impl Clusters {
    /// Goes on with every cluster that was written down. Call inside the runtime.
    pub fn start(
        state: State,
        provider: Arc<dyn Provider>,
        registry: Registry,
        place: Place,
        coordinates: Coordinates,
    ) -> Result<Self, Error> {
        let inner = Arc::new(Inner {
            state,
            provider,
            registry,
            place,
            coordinates,
            started: now(),
            boards: Mutex::default(),
            workers: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let clusters = Self { inner };
        for record in clusters.inner.state.clusters()? {
            clusters.attend(&record.id)?;
        }
        Ok(clusters)
    }

    /// Gives a cluster its reconcile loop.
    fn attend(&self, id: &ClusterId) -> Result<Arc<Board>, Error> {
        let worker = Worker::new(self.inner.clone(), id)?;
        let board = worker.board();
        self.inner.boards.lock().insert(board.name(), board.clone());
        self.inner.workers.spawn(worker.run());
        Ok(board)
    }

    /// Writes the intent down and wakes the reconcile pass.
    pub async fn create(&self, spec: ClusterSpec) -> Result<ClusterView, Error> {
        let spec = self.complete(spec).await?;
        let id = ClusterId::random();
        let ssh = SshAuthority::generate(&format!("ec2mpi cluster {}", spec.name))?;
        let created_at = now();
        let launch = launch::request(&spec, &id, &self.inner.place, &self.inner.coordinates, created_at)?;
        self.inner.state.insert_cluster(&NewCluster {
            id: &id,
            spec: &spec,
            created_at,
            ssh_authority: &ssh.to_openssh()?,
            launch: &launch,
        })?;
        tracing::info!(cluster = %spec.name, id = %id, launch = %launch.launch, nodes = spec.nodes, "cluster written down");
        Ok(self.attend(&id)?.view())
    }

    /// Fills in what the user left open, and refuses what cannot be.
    async fn complete(&self, mut spec: ClusterSpec) -> Result<ClusterSpec, Error> {
        check_counts(&mut spec)?;
        if spec.instance_type.is_empty() {
            spec.instance_type.clone_from(&self.inner.place.default_instance_type);
        }
        spec.ttl = spec.ttl.or(self.inner.place.default_ttl);
        let facts = self.inner.provider.instance_type(&spec.instance_type).await?;
        if !self.inner.coordinates.agents.contains_key(&facts.architecture) {
            return Err(Error::Invalid(format!(
                "{} machines are {}, and this coordinator has no agent for that; choose another type with --type",
                spec.instance_type, facts.architecture
            )));
        }
        if spec.slots_per_node == 0 {
            spec.slots_per_node = facts.cores;
        }
        Ok(spec)
    }

    /// All clusters, by name.
    pub fn list(&self) -> Vec<ClusterView> {
        let boards: Vec<_> = self.inner.boards.lock().values().cloned().collect();
        boards.iter().map(|board| board.view()).filter(is_present).collect()
    }

    /// One cluster.
    pub fn get(&self, name: &ClusterName) -> Result<ClusterView, Error> {
        let view = self.board(name)?.view();
        if is_present(&view) { Ok(view) } else { Err(self.unknown(name)) }
    }

    /// What is known of a node, by its index or its name. Asks the cloud.
    pub async fn why(&self, name: &ClusterName, node: &str) -> Result<NodeReport, Error> {
        let board = self.board(name)?;
        reconcile::report(&self.inner, &board, node).await
    }

    /// One cluster now and after every change; closed after `Destroyed`. A cluster destroyed a short while ago can
    /// still be watched, so that nobody misses its end.
    pub fn watch(&self, name: &ClusterName) -> Result<watch::Receiver<ClusterView>, Error> {
        Ok(self.board(name)?.subscribe())
    }

    /// Writes the intent to destroy down and wakes the reconcile pass.
    pub async fn destroy(
        &self,
        name: &ClusterName,
        discard: bool,
        drain_timeout: Duration,
    ) -> Result<ClusterView, Error> {
        let board = self.board(name)?;
        if !is_present(&board.view()) {
            return Err(self.unknown(name));
        }
        self.inner.state.set_goal(board.id(), &Goal::Destroy { discard, drain_timeout })?;
        tracing::info!(cluster = %name, id = %board.id(), discard, "destroy written down");
        Ok(board.announce_destroy())
    }

    /// Whether any cluster exists.
    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// Wakes a cluster's pass, for news that the registry does not carry (a join).
    pub fn wake(&self, name: &ClusterName) {
        if let Ok(board) = self.board(name) {
            board.wake();
        }
    }

    /// Ends all reconcile loops between two steps, within `limit`. Touches no cluster.
    pub async fn shut_down(&self, limit: Duration) {
        self.inner.stop.cancel();
        self.inner.workers.close();
        if tokio::time::timeout(limit, self.inner.workers.wait()).await.is_err() {
            tracing::warn!("a call to the cloud was still under way at shutdown; it is repeated at the next start");
        }
    }

    fn board(&self, name: &ClusterName) -> Result<Arc<Board>, Error> {
        self.inner.boards.lock().get(name).cloned().ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &ClusterName) -> Error {
        Error::NotFound(format!("there is no cluster {name}; `ec2mpi list` shows those there are"))
    }
}

fn is_present(view: &ClusterView) -> bool {
    !matches!(view.phase, ClusterPhase::Destroyed { .. })
}

fn check_counts(spec: &mut ClusterSpec) -> Result<(), Error> {
    if spec.nodes == 0 || spec.nodes > MAX_NODES {
        return Err(Error::Invalid(format!("a cluster has 1 to {MAX_NODES} nodes, not {}", spec.nodes)));
    }
    if spec.min_nodes == 0 {
        spec.min_nodes = spec.nodes;
    }
    if spec.min_nodes > spec.nodes {
        return Err(Error::Invalid(format!(
            "a cluster of {} nodes cannot have at least {} of them",
            spec.nodes, spec.min_nodes
        )));
    }
    if spec.timeout.is_zero() {
        spec.timeout = DEFAULT_TIMEOUT;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
