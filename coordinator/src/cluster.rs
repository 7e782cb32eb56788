//! Clusters: what is wanted, what is seen, and the pass that makes the second like the first.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterId, ClusterName, InstanceId};
use tokio::sync::watch;

use crate::registry::VolumeState;

/// What a user asks for, parsed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClusterSpec {
    pub name: ClusterName,
    pub nodes: u32,
    pub min_nodes: u32,
    pub timeout: Duration,
    pub instance_type: String,
    pub slots_per_node: u32,
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
    Gone,
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
    pub cloud: String,
    /// Seconds by phase: launch, boot, join, mount, total.
    pub timings: BTreeMap<String, f64>,
}

/// The clusters of this coordinator. Cheap to clone; clones share.
#[derive(Debug, Clone)]
pub struct Clusters {}

impl Clusters {
    /// Writes the intent down and wakes the reconcile pass.
    pub async fn create(&self, _spec: ClusterSpec) -> Result<ClusterView, crate::error::Error> {
        todo!()
    }

    /// All clusters, by name.
    pub fn list(&self) -> Vec<ClusterView> {
        todo!()
    }

    /// One cluster.
    pub fn get(&self, _name: &ClusterName) -> Result<ClusterView, crate::error::Error> {
        todo!()
    }

    /// One cluster now and after every change; closed after `Destroyed`.
    pub fn watch(&self, _name: &ClusterName) -> Result<watch::Receiver<ClusterView>, crate::error::Error> {
        todo!()
    }

    /// Writes the intent to destroy down and wakes the reconcile pass.
    pub async fn destroy(
        &self,
        _name: &ClusterName,
        _discard: bool,
        _drain_timeout: Duration,
    ) -> Result<ClusterView, crate::error::Error> {
        todo!()
    }
}
