//! The volume: a bucket prefix as a POSIX file system. Knows nothing of clusters. The contract is docs/volume.md.
//!
//! A request of the kernel goes down this list and never up: [`fuse`] decodes it, `ops` does it on the `tree` (names and
//! inodes) and on `content` (bytes in the `cache`), asks S3 through `version` (names, attributes) and `fetch` (bytes),
//! and what changes is written to the [`journal`] and handed to `writeback`, which alone changes S3.
//!
//! Locks, in order: `Content::state`, `Content::flights` and `Content::way`, the tree, the write-back table, the journal's
//! file. All but the first are never held across an await.

pub mod attr;
pub(crate) mod breaker;
pub(crate) mod buffer;
pub mod cache;
pub(crate) mod content;
pub mod control;
pub mod error;
pub mod failpoint;
pub(crate) mod fetch;
pub mod fuse;
pub(crate) mod handle;
pub mod journal;
pub(crate) mod limits;
#[cfg(test)]
mod model;
pub mod mount;
pub(crate) mod name;
pub(crate) mod ops;
pub(crate) mod passthrough;
pub(crate) mod records;
pub mod repair;
pub(crate) mod replay;
pub(crate) mod spill;
pub mod store;
pub(crate) mod tree;
pub(crate) mod version;
pub(crate) mod walk;
pub(crate) mod writeback;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::attr::{Attr, Owner};
use self::breaker::Breaker;
use self::cache::Cache;
use self::control::Failure;
use self::handle::Handles;
use self::journal::Journal;
use self::limits::Limits;
use self::limits::disk::Unsealed;
use self::records::Records;
use self::spill::{Cut, Spills};
use self::store::ObjectStore;
use self::tree::{Ino, Tree};
use self::version::contested::Contested;
use self::writeback::Queue;

/// Names asked about at a time, ahead of who reads directories.
const PARALLEL_READING: usize = 128;

/// Whom `O_EXCL` excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Excl {
    /// Everybody on this node. A creator on another node is found at the upload.
    Node,
    /// Everybody: the create waits for S3.
    Cluster,
}

/// What closing a file that was written to waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Close {
    /// The journal: it brings the file to S3 whatever happens to this process. The local disk has both a second later.
    Local,
    /// The local disk: whatever happens to the machine.
    Disk,
    /// S3.
    S3,
}

/// The object that has the attributes of the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootMarker {
    /// A whole bucket has none: attributes last until the unmount.
    None,
    /// It would be `PREFIX/`, and is not there.
    Missing,
    /// It is there.
    There(Attr, attr::Extra),
}

/// How a volume is to be mounted, all of it decided.
#[derive(Debug, Clone)]
pub struct Options {
    /// The mount point.
    pub dir: PathBuf,
    /// What `mount` and `df` show as the device.
    pub source: String,
    /// Data and journal; one volume at a time.
    pub cache_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// Owner of the root and of objects without metadata.
    pub owner: Owner,
    /// Permissions of the root.
    pub root_mode: u32,
    /// What the root's own marker says, where there is a prefix that may have one.
    pub root: RootMarker,
    /// Name of this node in conflict copies.
    pub node_name: String,
    /// How long S3's word on names and attributes is trusted; zero asks every time.
    pub attr_ttl: Duration,
    /// Whom `O_EXCL` excludes.
    pub excl: Excl,
    /// What closing a file waits for.
    pub close: Close,
    /// The kernel may read complete files by itself, where it can.
    pub passthrough: bool,
    /// Attribute records of directories are read, and written.
    pub attr_records: bool,
    /// How quiet it must have been in a directory before its record is written.
    pub record_after: Duration,
    /// Programs cannot change anything.
    pub read_only: bool,
    /// Programs cannot be run from it.
    pub no_exec: bool,
    /// Hadoop's markers of empty directories (`NAME_$folder$`) are directories.
    pub compat_dir: bool,
    /// Bounds.
    pub bounds: limits::Bounds,
    /// The first pause of write-back after a failure; further ones are longer.
    pub first_pause: Duration,
}

impl Options {
    /// Defaults for a volume at `dir` with its cache in `cache_dir`.
    pub fn new(dir: PathBuf, cache_dir: PathBuf) -> Self {
        Self {
            source: "ec2mpi".to_owned(),
            control: control::default_socket(&dir),
            dir,
            cache_dir,
            owner: Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() },
            root_mode: 0o775,
            root: RootMarker::None,
            node_name: "node".to_owned(),
            attr_ttl: Duration::from_secs(1),
            excl: Excl::Node,
            close: Close::Local,
            passthrough: true,
            attr_records: true,
            record_after: Duration::from_secs(5),
            read_only: false,
            no_exec: false,
            compat_dir: false,
            bounds: limits::Bounds::default(),
            first_pause: writeback::FIRST_BACKOFF,
        }
    }
}

/// How reads that reached this process were answered; the kernel's page cache answers the most of them by itself.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// From the cache file.
    pub(crate) hits: AtomicU64,
    /// After S3 was asked for bytes.
    pub(crate) misses: AtomicU64,
}

type Invalidate = Box<dyn Fn(&[Ino]) + Send + Sync>;

/// One mounted volume: everything the operations share.
pub(crate) struct Volume {
    /// Itself, for tasks.
    pub(crate) this: OnceLock<Weak<Self>>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) options: Options,
    tree: Mutex<Tree>,
    pub(crate) cache: Cache,
    pub(crate) journal: Journal,
    pub(crate) queue: Queue,
    pub(crate) handles: Handles,
    pub(crate) limits: Limits,
    /// How files are cut into parts.
    pub(crate) cut: Cut,
    /// Parts of open files that only S3 has.
    pub(crate) spills: Spills,
    /// Closed files that could not be sealed.
    pub(crate) unsealed: Unsealed,
    pub(crate) reads: Reads,
    /// Names that are asked about ahead of who reads a directory, at a time.
    pub(crate) reading: Semaphore,
    /// Directories whose attribute records are to be written.
    pub(crate) records: Records,
    /// For answers to reads.
    pub(crate) buffers: Arc<buffer::Buffers>,
    /// Names that somebody else replaces while they are opened here.
    pub(crate) contested: Contested,
    /// Directories that somebody walks through.
    pub(crate) walks: Mutex<walk::Walks>,
    /// What S3 is asked about ahead of walkers.
    pub(crate) asking: walk::Asking,
    /// Held by who lists a directory ahead of a walker.
    pub(crate) relisting: tokio::sync::Mutex<()>,
    /// Whether the kernel reads complete files by itself.
    pub(crate) passthrough: AtomicBool,
    /// Files into which programs may store behind our back.
    pub(crate) watched: Mutex<Vec<Ino>>,
    /// There is one.
    pub(crate) watching: tokio::sync::Notify,
    /// When exposed files were last looked through.
    pub(crate) concealed: tokio::sync::Mutex<Option<Instant>>,
    /// Whether S3 is away.
    pub(crate) breaker: Breaker,
    /// What could not be uploaded since the mount.
    pub(crate) failures: Mutex<Vec<Failure>>,
    /// Conflict copies made since the mount.
    pub(crate) conflicts: AtomicU64,
    /// Ends every wait and every background task.
    pub(crate) closing: CancellationToken,
    /// Somebody asked for the unmount.
    pub(crate) leave: CancellationToken,
    /// Makes the kernel forget attributes; set once mounted.
    pub(crate) invalidate: OnceLock<Invalidate>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Volume {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        options: Options,
        cache: Cache,
        journal: Journal,
    ) -> std::io::Result<Self> {
        let spills = Spills::open(&options.cache_dir, cache.frozen())?;
        Ok(Self {
            this: OnceLock::new(),
            store,
            tree: Mutex::new(root_tree(&options)),
            cache,
            journal,
            queue: Queue::default(),
            handles: Handles::new(options.bounds.handles),
            limits: Limits::new(options.bounds),
            cut: Cut::default(),
            spills,
            unsealed: Unsealed::default(),
            reads: Reads::default(),
            reading: Semaphore::new(PARALLEL_READING),
            records: Records::default(),
            buffers: Arc::default(),
            contested: Contested::default(),
            walks: Mutex::default(),
            asking: walk::Asking::default(),
            relisting: tokio::sync::Mutex::default(),
            passthrough: AtomicBool::new(false),
            watched: Mutex::default(),
            watching: tokio::sync::Notify::new(),
            concealed: tokio::sync::Mutex::default(),
            breaker: Breaker::default(),
            failures: Mutex::default(),
            conflicts: AtomicU64::new(0),
            closing: CancellationToken::new(),
            leave: CancellationToken::new(),
            invalidate: OnceLock::new(),
            options,
        })
    }

    /// From now on it can start tasks of its own.
    pub(crate) fn share(self) -> Arc<Self> {
        let volume = Arc::new(self);
        let _ = volume.this.set(Arc::downgrade(&volume));
        volume
    }

    /// Whether the attributes of the root are kept in S3.
    pub(crate) fn has_root_marker(&self) -> bool {
        self.options.root != RootMarker::None
    }

    /// The tree, locked. Never hold it across an await.
    pub(crate) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock()
    }

    /// From now on nothing that S3 said before is trusted: names, attributes, listings, what is not there.
    pub(crate) fn raise_epoch(&self) {
        let known: Vec<Ino> = {
            let mut tree = self.tree();
            tree.raise_epoch();
            tree.nodes().filter(|(_, node)| node.lookups > 0).map(|(ino, _)| ino).collect()
        };
        if let Some(invalidate) = self.invalidate.get() {
            invalidate(&known);
        }
    }
}

fn root_tree(options: &Options) -> Tree {
    let new = Attr::new(libc::S_IFDIR | (options.root_mode & 0o7777), options.owner.uid, options.owner.gid);
    match &options.root {
        RootMarker::There(attr, extra) => Tree::new(*attr, extra.clone(), options.attr_ttl),
        RootMarker::None | RootMarker::Missing => Tree::new(new, attr::Extra::default(), options.attr_ttl),
    }
}
