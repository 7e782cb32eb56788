//! The script that a machine runs at its first boot: stores the agent's settings, fetches the agent, checks it, starts
//! it. Holds no secret. Pure; golden-tested.

use std::collections::BTreeMap;

use ec2mpi_proto::id::{ClusterId, ClusterName, LaunchId};

use crate::error::Error;

/// EC2's limit for user-data before base64, bytes.
pub const LIMIT: usize = 16 * 1024;

/// What a machine must know to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserData {
    /// URL of the agents' TLS listener, `https://ADDRESS:PORT`.
    pub coordinator: String,
    /// DNS name in the listener's certificate.
    pub server_name: String,
    pub cluster: ClusterName,
    pub cluster_id: ClusterId,
    pub launch: LaunchId,
    /// The coordinator's authority, PEM.
    pub ca_pem: String,
    /// The agent's executable by `uname -m`.
    pub agents: BTreeMap<String, AgentBinary>,
}

/// Where an executable of the agent is, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentBinary {
    /// Plain HTTP.
    pub url: String,
    /// 64 hexadecimal digits.
    pub sha256: String,
}

/// The script. Refuses what could break out of it, and a result over [`LIMIT`].
pub fn render(_data: &UserData) -> Result<String, Error> {
    todo!()
}
