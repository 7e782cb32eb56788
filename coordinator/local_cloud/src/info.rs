//! What a running cloud tells its clients.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::{durable, lock};

/// `cloud.json`: endpoints, keys and defaults of a cloud that answers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudInfo {
    /// Process that serves.
    pub pid: u32,
    /// The cloud's directory.
    pub directory: PathBuf,
    /// The only region.
    pub region: String,
    /// The EC2 API on loopback.
    pub ec2_endpoint: String,
    /// S3 on loopback.
    pub s3_endpoint: String,
    /// S3 as instances reach it.
    pub node_s3_endpoint: String,
    /// Address of this machine on the bridge.
    pub gateway: Ipv4Addr,
    /// The bridge's network.
    pub cidr: String,
    /// Name of the bridge.
    pub bridge: String,
    /// A bucket that exists.
    pub bucket: String,
    /// Access key of the owner.
    pub access_key: String,
    /// Secret key of the owner.
    pub secret_key: String,
    /// The instance type to use when none is asked for.
    pub default_instance_type: String,
    /// Signs the instance identity documents.
    pub document_certificate_pem: String,
}

impl std::fmt::Debug for CloudInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudInfo")
            .field("pid", &self.pid)
            .field("directory", &self.directory)
            .field("ec2_endpoint", &self.ec2_endpoint)
            .field("bridge", &self.bridge)
            .finish_non_exhaustive()
    }
}

/// Why there is nothing to say about a cloud.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// No process holds the directory's lock, or it is not ready yet.
    #[error("no cloud is running in {0}: start one with `ec2mpi cloud start`")]
    NotRunning(PathBuf),
    /// The directory or the file in it cannot be read.
    #[error("cannot read the cloud's directory: {0}")]
    Io(#[from] std::io::Error),
}

impl CloudInfo {
    /// What the cloud of that directory says, if it is running.
    pub fn load(directory: &Path) -> Result<Self, InfoError> {
        let not_running = || InfoError::NotRunning(directory.to_owned());
        let layout = match Layout::open(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(not_running()),
            layout => layout?,
        };
        if !lock::is_held(&layout.lock())? {
            return Err(not_running());
        }
        durable::load(&layout.info())?.ok_or_else(not_running)
    }
}
