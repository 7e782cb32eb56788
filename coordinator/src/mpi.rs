//! From facts to hostfile text, argv and environment of a launch. Pure; golden-tested.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::error::Error;

/// One MPI library on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    pub family: String,
    pub version: String,
    /// Absolute path.
    pub mpirun: String,
}

/// The launchers that differ in hostfile or arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// Open MPI up to 4: ORTE.
    OpenMpi4,
    /// Open MPI 5 and later: PRRTE.
    OpenMpi5,
    /// MPICH: Hydra.
    Mpich,
    /// Intel MPI: its own Hydra.
    Intel,
}

impl Installation {
    /// Which launcher this library has.
    pub fn launcher(&self) -> Result<Launcher, Error> {
        todo!()
    }
}

/// Of the libraries that every one of these nodes has at the same path, the one to use: Open MPI before MPICH before
/// Intel MPI, a later version before an earlier one.
pub fn choose(_nodes: &[&[Installation]]) -> Result<Installation, Error> {
    todo!()
}

/// A node that ranks can run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub address: Ipv4Addr,
    pub slots: u32,
}

/// What a launch depends on beside the user's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFacts {
    pub installation: Installation,
    /// Address block of the nodes, CIDR.
    pub cidr: String,
    /// Physical cores are the nodes' alone; false where machines share cores.
    pub dedicated_cores: bool,
    /// The job, for `EC2MPI_JOB` in the environment of every rank.
    pub job: String,
}

/// What the user asks to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    pub ranks: u32,
    pub environment: BTreeMap<String, String>,
    pub program: String,
    pub arguments: Vec<String>,
    /// Handed to the launcher as they are, before the program.
    pub mpi_arguments: Vec<String>,
}

/// What to start on the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub argv: Vec<String>,
    pub environment: BTreeMap<String, String>,
}

/// The first nodes of `hosts` that hold `ranks`; the launcher starts a daemon on every host that it is told of.
pub fn needed(_hosts: &[Host], _ranks: u32) -> Result<&[Host], Error> {
    todo!()
}

/// The hostfile for `ranks`, with only the nodes that they need, in the order of `hosts`.
/// More ranks than slots is [`Error::Invalid`] and says how many slots there are.
pub fn hostfile(_launcher: Launcher, _hosts: &[Host], _ranks: u32) -> Result<String, Error> {
    todo!()
}

/// The launcher's command and environment.
pub fn launch(_facts: &LaunchFacts, _hostfile_path: &str, _program: &Program) -> Result<Launch, Error> {
    todo!()
}
