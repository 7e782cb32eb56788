//! A machine: a keeper process on this machine, and behind it pid 1 of a set of namespaces.
//!
//! The keeper (`ec2mpi cloud machine`) outlives the cloud. It makes the network and the disk, starts pid 1
//! (`ec2mpi cloud machine-init`) and starts it again when the machine reboots. When pid 1 powers off, the keeper says so
//! in its status file and ends; when the keeper is killed, pid 1 and everything inside dies with it.
//!
//! Signals to the keeper: SIGTERM powers the machine off (by force after some seconds), SIGHUP reboots it, SIGUSR1
//! reboots it as a power failure would.

pub(crate) mod init;
pub(crate) mod keeper;
pub(crate) mod process;
mod root;
mod user_data;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::durable::{self, Outlive};
use crate::layout::MachineDir;
use crate::network::Port;

/// Exit code of a keeper that found another one at work.
pub(crate) const EXIT_LOCKED: u8 = 75;

/// What the keeper and pid 1 must know; written before the keeper starts, holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineSpec {
    pub(crate) host_name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) bridge: String,
    pub(crate) netns: String,
    pub(crate) veth: String,
    /// Base URL of the instance metadata service.
    pub(crate) imds_endpoint: String,
    /// Paths of this machine that do not exist in the instance.
    pub(crate) masks: Vec<PathBuf>,
    /// Runs no user-data: a fault was asked for.
    #[serde(default)]
    pub(crate) is_deaf: bool,
}

impl MachineSpec {
    pub(crate) fn load(dir: &MachineDir) -> io::Result<Self> {
        durable::load(&dir.spec())?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no machine.json"))
    }

    pub(crate) fn save(&self, dir: &MachineDir) -> io::Result<()> {
        durable::save(&dir.spec(), self, Outlive::Process)
    }

    pub(crate) fn port(&self) -> Port<'_> {
        Port { bridge: &self.bridge, netns: &self.netns, veth: &self.veth, address: self.address, prefix: self.prefix }
    }
}

/// How a machine came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// It powered itself off.
    PoweredOff,
    /// The keeper was told to end it.
    Terminated,
    /// Pid 1 ended in another way, or could not be started.
    Failed(String),
}

/// What a keeper says about its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeeperStatus {
    pub(crate) pid: u32,
    /// How often pid 1 was started.
    pub(crate) boots: u32,
    /// Set just before the keeper ends.
    pub(crate) end: Option<End>,
}

impl KeeperStatus {
    /// None where no keeper has said anything yet.
    pub(crate) fn load(dir: &MachineDir) -> io::Result<Option<Self>> {
        durable::load(&dir.status())
    }

    fn save(&self, dir: &MachineDir) -> io::Result<()> {
        durable::save(&dir.status(), self, Outlive::Process)
    }
}
