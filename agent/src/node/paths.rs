//! Where a node keeps its things. Under another root than `/` nothing outside that root is touched, for tests.

use std::path::{Path, PathBuf};

use super::spool::ProcessId;

/// All places, under one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

macro_rules! places {
    ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {
        impl Paths {
            $($(#[$doc])* pub fn $name(&self) -> PathBuf { self.at($path) })*
        }
    };
}

places! {
    /// What user-data wrote.
    agent_toml = "/etc/ec2mpi/agent.toml";
    /// Configuration that everyone on the node may read.
    config_dir = "/etc/ec2mpi";
    /// sshd's and ssh's configuration, host key, certificates.
    ssh_dir = "/etc/ec2mpi/ssh";
    /// What must survive a reboot; root only.
    state_dir = "/var/lib/ec2mpi";
    /// The node's private key, PEM; made before the first join.
    node_key = "/var/lib/ec2mpi/node.key";
    /// The node's client certificate, PEM.
    node_certificate = "/var/lib/ec2mpi/node.crt";
    /// What Join answered, without the certificate. Its presence means: joined.
    join_json = "/var/lib/ec2mpi/join.json";
    /// The private key of the user mpi, root's copy; mpi's own is in its home.
    user_key = "/var/lib/ec2mpi/ssh_user_ed25519_key";
    /// One directory a process.
    jobs_dir = "/var/lib/ec2mpi/jobs";
    /// The volume's cache and journal.
    volume_cache = "/var/lib/ec2mpi/volume";
    /// Sockets, locks, hostfiles; gone after a reboot.
    run_dir = "/run/ec2mpi";
    /// One hostfile a job, readable by mpi.
    hostfiles_dir = "/run/ec2mpi/hostfiles";
    /// The volume's control socket.
    volume_socket = "/run/ec2mpi/volume.sock";
    /// When this node reached its milestones.
    phases_json = "/run/ec2mpi/phases.json";
    /// sshd's privilege separation directory.
    sshd_empty_dir = "/run/sshd";
    /// What the supervised processes print.
    log_dir = "/var/log/ec2mpi";
    /// Names of the peers.
    hosts = "/etc/hosts";
    /// Accounts.
    passwd = "/etc/passwd";
    /// Groups.
    group = "/etc/group";
}

impl Paths {
    /// Places under `root`; `/` is the real machine.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// An absolute path of the machine, under the root.
    pub fn at(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let path = absolute.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether host name, accounts and sshd of this machine may be changed.
    pub fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The spool directory of a process.
    pub fn job(&self, id: &ProcessId) -> PathBuf {
        self.jobs_dir().join(id.as_str())
    }

    /// The lock that a supervised process holds while it lives.
    pub fn lock(&self, service: &str) -> PathBuf {
        self.run_dir().join(format!("{service}.lock"))
    }

    /// Where a supervised process prints.
    pub fn log(&self, service: &str) -> PathBuf {
        self.log_dir().join(format!("{service}.log"))
    }
}
