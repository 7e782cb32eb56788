//! Where a cloud keeps what it must remember.

use std::io;
use std::path::{Path, PathBuf};

use crate::fleet::InstanceId;

/// The directory of one cloud, absolute and without symbolic links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of an existing directory.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        Ok(Self { root: directory.canonicalize()? })
    }

    /// The same, after making the directory (mode 0700) where it is missing.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        make_private(directory)?;
        let layout = Self::open(directory)?;
        make_private(&layout.instances())?;
        make_private(&layout.launches())?;
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Locked by the process that serves, and by `stop`.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// What clients need to know; there while the cloud answers.
    pub(crate) fn info(&self) -> PathBuf {
        self.root.join("cloud.json")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("cloud.log")
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.root.join("settings.json")
    }

    /// What is to go wrong.
    pub(crate) fn faults(&self) -> PathBuf {
        self.root.join("faults.json")
    }

    /// Socket on which faults are added and cleared; there while the cloud answers.
    pub(crate) fn admin(&self) -> PathBuf {
        self.root.join("admin.sock")
    }

    /// Temporary keys given to machines.
    pub(crate) fn role_keys(&self) -> PathBuf {
        self.root.join("role-keys.json")
    }

    /// Private key (PKCS#8 PEM) of the identity documents.
    pub(crate) fn document_key(&self) -> PathBuf {
        self.root.join("document.key")
    }

    pub(crate) fn document_certificate(&self) -> PathBuf {
        self.root.join("document.crt")
    }

    /// Data of the buckets.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.root.join("bucket")
    }

    /// One directory an instance.
    pub(crate) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    /// One file a launch: written before any of its instances exists.
    pub(crate) fn launches(&self) -> PathBuf {
        self.root.join("launches")
    }

    pub(crate) fn launch(&self, reservation: &str) -> PathBuf {
        self.launches().join(format!("{reservation}.json"))
    }

    pub(crate) fn machine(&self, id: &InstanceId) -> MachineDir {
        MachineDir::new(self.instances().join(id.as_str()))
    }
}

/// The directory of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineDir {
    root: PathBuf,
}

impl MachineDir {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What the EC2 API knows of the instance.
    pub(crate) fn instance(&self) -> PathBuf {
        self.root.join("instance.json")
    }

    /// What the keeper needs to start the machine.
    pub(crate) fn spec(&self) -> PathBuf {
        self.root.join("machine.json")
    }

    /// What the keeper says of the machine.
    pub(crate) fn status(&self) -> PathBuf {
        self.root.join("keeper.json")
    }

    /// Locked by the keeper for as long as it lives.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("keeper.lock")
    }

    pub(crate) fn keeper_log(&self) -> PathBuf {
        self.root.join("keeper.log")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.root.join("console.log")
    }

    /// What the machine changed of its disk.
    pub(crate) fn upper(&self) -> PathBuf {
        self.root.join("upper")
    }

    /// Scratch directory of the overlay file system.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Where the machine's root is mounted, in its own mount namespace only.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.root.join("root")
    }
}

fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
