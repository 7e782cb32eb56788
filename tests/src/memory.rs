//! The memory of what runs on a site's machines, by kind of process.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::host::{self, Process};
use crate::site::Site;

/// What one kind of process takes, summed up; KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    pub processes: u64,
    /// Resident, shared pages counted in full.
    pub rss: u64,
    /// Resident, each shared page counted in part.
    pub pss: u64,
    /// That part of `pss` that is no file's.
    pub anonymous: u64,
}

impl Share {
    fn add(&mut self, other: Self) {
        self.processes += other.processes;
        self.rss += other.rss;
        self.pss += other.pss;
        self.anonymous += other.anonymous;
    }
}

/// The kinds of process that a node runs; the last two are the local cloud's own.
pub const KINDS: [&str; 6] = ["agent", "supervisor", "volume", "sshd", "process 1", "keeper"];

/// All processes of a site's machines that are of one of [`KINDS`], summed up by kind.
pub fn by_kind(site: &Site) -> BTreeMap<&'static str, Share> {
    let networks = networks(site);
    let keepers = site.path("cloud/instances");
    let mut shares = BTreeMap::new();
    for process in host::processes() {
        let kind = if is_inside(&process, &networks) { kind(&process) } else { keeper(&process, &keepers) };
        if let Some((kind, share)) = kind.zip(share(&process)) {
            shares.entry(kind).or_insert_with(Share::default).add(share);
        }
    }
    shares
}

/// What `shares` come to.
pub fn total<'a>(shares: impl IntoIterator<Item = &'a Share>) -> Share {
    let mut sum = Share::default();
    shares.into_iter().for_each(|share| sum.add(*share));
    sum
}

/// Inode numbers of the machines' network namespaces.
fn networks(site: &Site) -> HashSet<u64> {
    let bridge = site.bridge().expect("a cloud has a bridge");
    let names = host::namespaces(&host::namespace_prefix(&bridge));
    names.iter().filter_map(|name| Some(fs::metadata(format!("/run/netns/{name}")).ok()?.ino())).collect()
}

fn is_inside(process: &Process, networks: &HashSet<u64>) -> bool {
    fs::metadata(format!("/proc/{}/ns/net", process.pid)).is_ok_and(|found| networks.contains(&found.ino()))
}

fn kind(process: &Process) -> Option<&'static str> {
    let is_agent = |verb: &str| process.is("ec2mpi-agent", verb);
    let listens = process.words.first().is_some_and(|word| word.starts_with("sshd: /usr/sbin/sshd"));
    match () {
        () if is_agent("run") => Some("agent"),
        () if is_agent("supervise") => Some("supervisor"),
        () if is_agent("mount") => Some("volume"),
        () if listens => Some("sshd"),
        () if process.words.iter().any(|word| word == "machine-init") => Some("process 1"),
        () => None,
    }
}

fn keeper(process: &Process, instances: &Path) -> Option<&'static str> {
    let is_own = process.words.last().is_some_and(|word| Path::new(word).starts_with(instances));
    (is_own && process.words.iter().any(|word| word == "machine")).then_some("keeper")
}

/// From `smaps_rollup`; none for a process that has ended meanwhile.
fn share(process: &Process) -> Option<Share> {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Share { processes: 1, rss: field("Rss")?, pss: field("Pss")?, anonymous: field("Pss_Anon")? })
}
