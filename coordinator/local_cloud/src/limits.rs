//! Limits of this host that all machines share, and that some dozens of them overflow. The first cloud raises them, the
//! last one that is stopped puts them back.
//!
//! Who is first and last is for the caller to know, under one lock for the whole host: see `network`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::durable::{self, Outlive};

/// What 100 machines need, with room. A kernel that lacks a name has no such limit.
const WANTED: [(&str, u64); 7] = [
    // One neighbour table for all machines, each of which is a neighbour of each other one.
    ("net/ipv4/neigh/default/gc_thresh1", 4096),
    ("net/ipv4/neigh/default/gc_thresh2", 16_384),
    ("net/ipv4/neigh/default/gc_thresh3", 32_768),
    // Processes and threads of all machines are this host's as well.
    ("kernel/pid_max", 1 << 18),
    ("kernel/threads-max", 1 << 17),
    // Counted by user, and root or `mpi` of all machines is one user here.
    ("fs/inotify/max_user_instances", 8192),
    ("fs/pipe-user-pages-soft", 1 << 18),
];

/// What one limit was, and what it was raised to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    before: u64,
    raised: u64,
}

/// The limits of a host and the memory of what they were.
#[derive(Debug)]
pub(crate) struct Limits {
    sysctl: PathBuf,
    memory: PathBuf,
}

impl Limits {
    /// Those of this host. A reboot forgets the memory together with the changes.
    pub(crate) fn of_host() -> Self {
        Self { sysctl: "/proc/sys".into(), memory: "/run/ec2mpi-limits.json".into() }
    }

    /// Raises what is lower than wanted. What it was is remembered before it is changed, so that a cloud that is killed
    /// at any instant is cleaned up after.
    pub(crate) fn raise(&self) -> io::Result<()> {
        let mut changes = self.changes()?;
        for (name, raised) in WANTED {
            let Some(current) = self.read(name)? else { continue };
            if current >= raised {
                continue;
            }
            let before = changes.get(name).map_or(current, |change| change.before);
            changes.insert(name.to_owned(), Change { before, raised });
            durable::save(&self.memory, &changes, Outlive::Process)?;
            // A container may show a limit that it may not change: fewer machines fit.
            if let Err(error) = std::fs::write(self.sysctl.join(name), raised.to_string()) {
                tracing::warn!(limit = name, current, raised, %error, "cannot raise a limit of this host");
            }
        }
        Ok(())
    }

    /// Puts back what `raise` changed, but what somebody else has changed since.
    pub(crate) fn restore(&self) -> io::Result<()> {
        for (name, Change { before, raised }) in self.changes()? {
            let is_known = WANTED.iter().any(|(wanted, _)| *wanted == name);
            if is_known && self.read(&name)? == Some(raised) {
                std::fs::write(self.sysctl.join(&name), before.to_string())?;
            }
        }
        durable::remove_file(&self.memory)
    }

    fn changes(&self) -> io::Result<BTreeMap<String, Change>> {
        Ok(durable::load(&self.memory)?.unwrap_or_default())
    }

    fn read(&self, name: &str) -> io::Result<Option<u64>> {
        let text = match std::fs::read_to_string(self.sysctl.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let value = text.trim().parse();
        value.map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {text:?}")))
    }
}

/// How many files this process, and what it starts, may have open: at least `wanted` where that is allowed.
pub(crate) fn raise_open_files(wanted: u64) -> nix::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard.max(wanted));
    raised.or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted.min(hard)), hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: &str = "net/ipv4/neigh/default/gc_thresh3";
    const HIGH: &str = "kernel/pid_max";

    struct Host {
        dir: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            let host = Self { dir: tempfile::tempdir().unwrap() };
            for (name, value) in [(LOW, 1024), (HIGH, 4_194_304)] {
                std::fs::create_dir_all(host.path(name).parent().unwrap()).unwrap();
                host.set(name, value);
            }
            host
        }

        /// As another process would open them.
        fn limits(&self) -> Limits {
            Limits { sysctl: self.dir.path().join("sys"), memory: self.dir.path().join("memory.json") }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.limits().sysctl.join(name)
        }

        fn set(&self, name: &str, value: u64) {
            std::fs::write(self.path(name), format!("{value}\n")).unwrap();
        }

        fn get(&self, name: &str) -> u64 {
            self.limits().read(name).unwrap().unwrap()
        }
    }

    #[test]
    fn only_what_is_lower_is_raised_and_comes_back() {
        let host = Host::new();
        host.limits().raise().unwrap();
        assert_eq!((host.get(LOW), host.get(HIGH)), (32_768, 4_194_304));
        assert!(!host.path("fs/pipe-user-pages-soft").exists(), "what the kernel lacks is left out");
        // A second cloud, or the same one after it was killed.
        host.limits().raise().unwrap();
        host.limits().restore().unwrap();
        assert_eq!((host.get(LOW), host.get(HIGH)), (1024, 4_194_304));
        assert!(!host.limits().memory.exists());
        host.limits().restore().unwrap();
        assert_eq!(host.get(LOW), 1024);
    }

    #[test]
    fn a_cloud_killed_between_memory_and_change_changes_nothing() {
        let host = Host::new();
        host.limits().raise().unwrap();
        host.set(LOW, 1024);
        host.limits().restore().unwrap();
        assert_eq!(host.get(LOW), 1024);
    }

    #[test]
    fn what_somebody_else_has_set_since_stays() {
        let host = Host::new();
        host.limits().raise().unwrap();
        host.set(LOW, 65_536);
        host.limits().restore().unwrap();
        assert_eq!(host.get(LOW), 65_536);
    }
}
