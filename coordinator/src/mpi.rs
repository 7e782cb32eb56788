//! From facts to hostfile text, argv and environment of a launch. Pure; golden-tested.

mod arguments;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::error::Error;

/// The ssh client configuration on every node, which the launchers must use.
pub const SSH_CONFIG: &str = "/etc/ec2mpi/ssh/ssh_config";

/// In the environment of every rank: how what an aborted job left behind is found.
pub const JOB_VARIABLE: &str = "EC2MPI_JOB";

/// One MPI library on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// `openmpi`, `mpich` or `intel`.
    pub family: String,
    /// Begins with the major version: `4.1.4`.
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
        match (self.family.as_str(), self.version_numbers().first()) {
            ("openmpi", Some(5..)) => Ok(Launcher::OpenMpi5),
            ("openmpi", Some(_)) => Ok(Launcher::OpenMpi4),
            ("mpich", _) => Ok(Launcher::Mpich),
            ("intel", _) => Ok(Launcher::Intel),
            (family, _) => {
                Err(Error::NotNow(format!("MPI library {family:?}, version {:?}, is not known", self.version)))
            }
        }
    }

    /// `4.1.4rc2` is 4, 1, 4.
    fn version_numbers(&self) -> Vec<u32> {
        let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
        self.version.split('.').map_while(digits).collect()
    }

    /// Greater is better: Open MPI before MPICH before Intel MPI, then the later version.
    fn preference(&self) -> (u8, Vec<u32>) {
        let family = match self.family.as_str() {
            "openmpi" => 3,
            "mpich" => 2,
            "intel" => 1,
            _ => 0,
        };
        (family, self.version_numbers())
    }
}

/// Of the libraries that every one of these nodes has, same version at the same path, the one to use: Open MPI before
/// MPICH before Intel MPI, a later version before an earlier one.
pub fn choose(nodes: &[&[Installation]]) -> Result<Installation, Error> {
    let everywhere = |found: &&Installation| nodes.iter().all(|node| node.contains(found)) && found.launcher().is_ok();
    let candidates = nodes.first().copied().unwrap_or_default().iter().filter(everywhere);
    candidates.max_by_key(|installation| installation.preference()).cloned().ok_or_else(|| {
        Error::NotNow(
            "the nodes have no MPI library in common: install the same one on all of them, such as the package \
             openmpi-bin"
                .to_owned(),
        )
    })
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
    /// The job, for [`JOB_VARIABLE`].
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
/// More ranks than slots is [`Error::Invalid`] and says how many slots there are, also where cores are shared: there
/// the slots may be more than the cores.
pub fn needed(hosts: &[Host], ranks: u32) -> Result<&[Host], Error> {
    if ranks == 0 {
        return Err(Error::Invalid("at least one rank must run".to_owned()));
    }
    let mut slots = 0_u64;
    for (index, host) in hosts.iter().enumerate() {
        slots += u64::from(host.slots);
        if slots >= u64::from(ranks) {
            return Ok(&hosts[..=index]);
        }
    }
    Err(Error::Invalid(format!(
        "{ranks} ranks are more than the {slots} slots of the {} nodes that are ready: ask for fewer ranks, or create a \
         cluster with more nodes or slots",
        hosts.len()
    )))
}

/// The hostfile for `ranks`, with only the nodes that they need, in the order of `hosts`. Errors as [`needed`].
pub fn hostfile(launcher: Launcher, hosts: &[Host], ranks: u32) -> Result<String, Error> {
    let mut text = String::new();
    for Host { address, slots } in needed(hosts, ranks)?.iter().filter(|host| host.slots > 0) {
        // Writing to a String cannot fail.
        let _ = match launcher {
            Launcher::OpenMpi4 | Launcher::OpenMpi5 => writeln!(text, "{address} slots={slots}"),
            Launcher::Mpich | Launcher::Intel => writeln!(text, "{address}:{slots}"),
        };
    }
    Ok(text)
}

/// The launcher's command and environment.
pub fn launch(facts: &LaunchFacts, hostfile_path: &str, program: &Program) -> Result<Launch, Error> {
    check(program)?;
    let launcher = facts.installation.launcher()?;
    let mut environment = arguments::environment(launcher, facts);
    environment.extend(program.environment.clone());
    environment.insert(JOB_VARIABLE.to_owned(), facts.job.clone());

    let mut argv = vec![facts.installation.mpirun.clone()];
    argv.extend(["-n".to_owned(), program.ranks.to_string()]);
    argv.extend(arguments::launcher(launcher, facts, hostfile_path));
    argv.extend(arguments::exported(launcher, program.environment.keys()));
    argv.extend(program.mpi_arguments.iter().cloned());
    argv.push(program.program.clone());
    argv.extend(program.arguments.iter().cloned());
    Ok(Launch { argv, environment })
}

/// What no launcher would pass on as it is meant.
fn check(program: &Program) -> Result<(), Error> {
    let invalid = |why: String| Err(Error::Invalid(why));
    if program.ranks == 0 {
        return invalid("at least one rank must run".to_owned());
    }
    if program.program.is_empty() || program.program.starts_with('-') {
        return invalid(format!("{:?} cannot be a program: it is empty or begins with -", program.program));
    }
    if program.arguments.iter().any(|argument| argument == ":") {
        return invalid("the argument \":\" cannot be passed on: to mpirun it separates programs".to_owned());
    }
    match program.environment.keys().find(|name| !is_variable_name(name)) {
        Some(name) => invalid(format!("{name:?} is not the name of an environment variable: [A-Za-z_][A-Za-z0-9_]*")),
        None => Ok(()),
    }
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests;
