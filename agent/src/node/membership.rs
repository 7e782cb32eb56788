//! What this node is in its cluster: the answer to its join, stored without any secret.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use ec2mpi_proto::id::{ClusterId, ClusterName, InstanceId};
use serde::{Deserialize, Serialize};

use crate::durable;

/// The whole answer but the node's certificate. Its file is written last: where it is, the rest is too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    pub node: Identity,
    pub ssh: Ssh,
    pub user: User,
    pub volume: Volume,
    /// Address block that holds every node of the cluster, CIDR.
    pub cluster_cidr: String,
}

/// Who the node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub cluster: ClusterName,
    pub cluster_id: ClusterId,
    /// 0 is the head.
    pub index: u32,
    pub host_name: String,
    pub instance_id: InstanceId,
    pub address: Ipv4Addr,
}

/// Certificates and trust for SSH; public all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ssh {
    pub host_certificate: String,
    pub user_certificate: String,
    pub authority_public_key: String,
    pub known_hosts: String,
}

/// The user that jobs, commands and copies run as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    /// uid and gid.
    pub id: u32,
    pub home: String,
}

/// What to mount, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    pub bucket: String,
    /// Empty, or ending with a slash.
    pub prefix: String,
    pub region: String,
    /// Empty: AWS's own for the region.
    pub endpoint: String,
    pub mount_point: String,
    pub owner_id: u32,
}

impl Membership {
    /// What is stored; `None` where the node has not joined.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores it, durably.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        durable::overwrite(path, 0o600, &serde_json::to_vec_pretty(self)?)
    }
}
