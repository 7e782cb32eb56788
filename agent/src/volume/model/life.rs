//! The volume under test: one life after another over the same store and cache directory. A life is a runtime of its
//! own: dropped, everything in it ends where it stands, as in a killed process.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::reference::{Item, Reference, parent};
use super::steps::{self, Check};
use crate::volume::cache::Cache;
use crate::volume::error::{Result, VolumeError};
use crate::volume::journal::Journal;
use crate::volume::ops::Caller;
use crate::volume::ops::attributes::Change;
use crate::volume::ops::namespace::IfThere;
use crate::volume::ops::rename::{End, Replacing};
use crate::volume::passthrough::{Access, Backing};
use crate::volume::spill::{self, Cut};
use crate::volume::store::memory::MemoryStore;
use crate::volume::store::retry::{RetryPolicy, Retrying};
use crate::volume::tree::Ino;
use crate::volume::{Options, Volume, replay};

const CALLER: Caller = Caller { uid: 7, gid: 7, umask: 0 };
/// Parts of a few pages, so that small files have several.
const CUT: Cut = Cut { single_put: 65_536, part: 16_384, single_copy: 100_000, copy_part: 65_536 };
/// Less than the largest file: parts are spilled and evicted all the time.
const CACHE_BYTES: u64 = 320 << 10;
/// How long the deletion of discarded objects may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the kernel asks for at a time.
const REQUEST: u32 = 128 << 10;
/// What it hands over at a time.
const WRITE: usize = 16 << 10;

pub(super) struct World {
    pub(super) store: MemoryStore,
    dir: tempfile::TempDir,
    life: Option<Life>,
}

struct Life {
    runtime: Runtime,
    volume: Arc<Volume>,
    slots: BTreeMap<usize, u64>,
    /// References that a kernel would hold.
    known: parking_lot::Mutex<HashMap<Ino, u64>>,
}

/// There is no kernel that could read cache files.
fn refuse(_: &std::fs::File) -> std::io::Result<Backing> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// A directory in memory where there is one: a sync costs nothing there.
fn directory() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("ec2mpi-model-").tempdir_in(place).expect("a directory for the cache")
}

impl World {
    pub(super) fn new() -> Self {
        let store = MemoryStore::new();
        store.set_turns(3);
        store.set_min_part(1);
        let mut world = Self { store, dir: directory(), life: None };
        world.life = Some(world.begin("a"));
        world
    }

    fn begin(&self, name: &str) -> Life {
        let mut options = Options::new(self.dir.path().join("none"), self.dir.path().join(name));
        options.attr_ttl = Duration::ZERO;
        options.first_pause = Duration::from_millis(1);
        options.bounds.cache_bytes = CACHE_BYTES;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let cache = Cache::open(&options.cache_dir).expect("a cache");
        let (journal, left) = Journal::open(&options.cache_dir).expect("a journal");
        cache.collect(&replay::needed(&left)).expect("a clean cache");
        let policy =
            RetryPolicy { base: Duration::from_millis(1), cap: Duration::from_millis(2), ..Default::default() };
        let store = Arc::new(Retrying::new(self.store.clone(), policy));
        let spills = replay::needed_spills(&left, &cache).expect("a lost+found");
        let mut volume = Volume::new(store, options, cache, journal).expect("a volume");
        volume.cut = CUT;
        let volume = volume.share();
        volume.replay(left).expect("a replay");
        runtime.spawn(volume.clone().write_back());
        runtime.spawn(volume.clone().bring_to_disk());
        runtime.spawn(volume.clone().sweep_spills(spills));
        Life { runtime, volume, slots: BTreeMap::new(), known: parking_lot::Mutex::default() }
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("a life")
    }

    fn life_mut(&mut self) -> &mut Life {
        self.life.as_mut().expect("a life")
    }

    pub(super) fn reboot(&mut self) {
        self.life = None;
        self.life = Some(self.begin("a"));
    }

    pub(super) fn epoch(&self) {
        self.life().volume.raise_epoch();
    }

    /// The kernel forgets what is not open, and the cache all that S3 has.
    pub(super) fn evict(&self) {
        let life = self.life();
        life.forget();
        life.runtime.block_on(life.volume.evict_all());
    }

    pub(super) fn wait(&self, turns: usize) {
        self.life().runtime.block_on(async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        });
    }

    pub(super) fn write(&self, path: &str, offset: u64, bytes: &[u8]) -> std::result::Result<(), i32> {
        self.life().run(|life| async move {
            let handle = life.open(path).await?;
            let written = life.write_all(handle, offset, bytes).await;
            let flushed = life.volume.flush(handle).await;
            let released = life.volume.release(handle).await;
            written.and(flushed).and(released)
        })
    }

    pub(super) fn open(&mut self, slot: usize, path: &str) -> std::result::Result<(), i32> {
        let handle = self.life().run(|life| async move { life.open(path).await })?;
        self.life_mut().slots.insert(slot, handle);
        Ok(())
    }

    pub(super) fn write_slot(&self, slot: usize, offset: u64, bytes: &[u8]) -> std::result::Result<(), i32> {
        let handle = self.life().slots[&slot];
        self.life().run(|life| async move { life.write_all(handle, offset, bytes).await })
    }

    pub(super) fn read_slot(&self, slot: usize) -> std::result::Result<Vec<u8>, i32> {
        let handle = self.life().slots[&slot];
        self.life().run(|life| async move { life.read_all(handle).await })
    }

    /// After it returns S3 has the file under its name.
    pub(super) fn fsync(&self, slot: usize, expected: &[u8], name: Option<&str>) -> Check {
        let handle = self.life().slots[&slot];
        self.life()
            .run(|life| async move { life.volume.fsync(handle).await })
            .map_err(|errno| format!("fsync says {errno}"))?;
        let Some(name) = name else { return Ok(()) };
        // A directory above it may still be on its way.
        if name.contains('/') {
            return Ok(());
        }
        match self.store.object(name) {
            Some((_, body)) if body == expected => Ok(()),
            Some((_, body)) => Err(format!("after fsync S3 has {} bytes, other than written", body.len())),
            None => Err("after fsync S3 does not have the file".to_owned()),
        }
    }

    pub(super) fn close(&mut self, slot: usize) -> std::result::Result<(), i32> {
        let Some(handle) = self.life_mut().slots.remove(&slot) else { return Ok(()) };
        self.life().run(|life| async move {
            life.volume.flush(handle).await?;
            life.volume.release(handle).await
        })
    }

    pub(super) fn stat(&self, path: &str) -> std::result::Result<(u32, u64), i32> {
        self.life().run(|life| async move { life.stat(path).await })
    }

    pub(super) fn read(&self, path: &str) -> std::result::Result<Vec<u8>, i32> {
        self.life().run(|life| async move { life.read(path).await })
    }

    pub(super) fn read_link(&self, path: &str) -> std::result::Result<String, i32> {
        self.life().run(|life| async move {
            let ino = life.walk(path).await?;
            Ok(life.volume.read_link(ino).await?.to_owned())
        })
    }

    pub(super) fn truncate(&self, path: &str, size: u64) -> std::result::Result<(), i32> {
        self.change(path, Change { size: Some(size), ..Change::default() })
    }

    pub(super) fn chmod(&self, path: &str, mode: u32) -> std::result::Result<(), i32> {
        self.change(path, Change { mode: Some(mode), ..Change::default() })
    }

    fn change(&self, path: &str, change: Change) -> std::result::Result<(), i32> {
        self.life().run(|life| async move {
            let ino = life.walk(path).await?;
            life.volume.set_attributes_of(ino, change, false).await.map(drop)
        })
    }

    pub(super) fn unlink(&self, path: &str) -> std::result::Result<(), i32> {
        self.life().run(|life| async move {
            let (parent, name) = life.parent(path).await?;
            life.volume.unlink(parent, name).await
        })
    }

    pub(super) fn rmdir(&self, path: &str) -> std::result::Result<(), i32> {
        self.life().run(|life| async move {
            let (parent, name) = life.parent(path).await?;
            life.volume.rmdir(parent, name).await
        })
    }

    pub(super) fn mkdir(&self, path: &str, mode: u32) -> std::result::Result<(), i32> {
        self.life().run(|life| async move {
            let (parent, name) = life.parent(path).await?;
            let made = life.volume.mkdir(parent, name, mode, CALLER).await?;
            life.know(made.ino);
            Ok(())
        })
    }

    pub(super) fn symlink(&self, path: &str, target: &str) -> std::result::Result<(), i32> {
        self.life().run(|life| async move {
            let (parent, name) = life.parent(path).await?;
            let made = life.volume.symlink(parent, name, target, CALLER).await?;
            life.know(made.ino);
            Ok(())
        })
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> std::result::Result<(), i32> {
        self.life().run(|life| async move {
            let (from_parent, from_name) = life.parent(from).await?;
            let (to_parent, to_name) = life.parent(to).await?;
            let (from, to) = (End { parent: from_parent, name: from_name }, End { parent: to_parent, name: to_name });
            life.volume.rename(from, to, Replacing::Replace).await
        })
    }

    pub(super) fn list(&self, path: &str) -> std::result::Result<Vec<String>, i32> {
        self.life().run(|life| async move { life.list(path).await })
    }

    /// Everything the reference has, and nothing else.
    pub(super) fn check_tree(&self, reference: &Reference) -> Check {
        let same = |dir: &str| {
            let found = self.list(dir).map_err(|errno| format!("listing {dir:?} says {errno}"))?;
            let expected = reference.names(dir);
            if found == expected { Ok(()) } else { Err(format!("{dir:?} has {found:?} instead of {expected:?}")) }
        };
        same("")?;
        for (path, item) in reference.items() {
            if matches!(item, Item::Dir { .. }) {
                same(path)?;
            }
            steps::read(self, reference, path).map_err(|difference| format!("{path}: {difference}"))?;
        }
        Ok(())
    }

    /// After a drain S3 has the reference's files, and another node sees them all.
    pub(super) fn check_s3(&mut self, reference: &Reference) -> Check {
        let life = self.life();
        life.runtime.block_on(life.volume.drain(Duration::from_secs(20))).map_err(|error| format!("drain: {error}"))?;
        let status = life.volume.status();
        if status.conflicts != 0 || status.failed_files != 0 || status.dirty_files != 0 {
            return Err(format!("after a drain: {status:?}"));
        }
        let mut expected: Vec<&str> = Vec::new();
        for (path, item) in reference.items() {
            let body = match item {
                Item::Dir { .. } => continue,
                Item::File { id, .. } => reference.bytes(*id),
                Item::Link { target } => target.as_bytes(),
            };
            let (_, found) = self.store.object(path).ok_or_else(|| format!("S3 does not have {path}"))?;
            if found != body {
                return Err(format!("S3 has {} bytes under {path}, other than written", found.len()));
            }
            expected.push(path);
        }
        // An inode without a name has its spilled parts as long as somebody may reach it.
        self.life().forget();
        let begun = Instant::now();
        // An open file that was unlinked needs its own to the end.
        while self.has_spills() && self.life().slots.is_empty() && begun.elapsed() < PATIENCE {
            self.life().runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        }
        let keys = self.store.keys();
        let spills_may_be = !self.life().slots.is_empty();
        let ours = |key: &&str| !(key.ends_with('/') || spills_may_be && key.starts_with(spill::DIRECTORY));
        let files: Vec<&str> = keys.iter().map(String::as_str).filter(ours).collect();
        if files != expected {
            return Err(format!("S3 has {files:?} instead of {expected:?}"));
        }
        if self.store.open_uploads() != 0 {
            return Err("a multipart upload was left".to_owned());
        }
        let other = format!("other-{}", uuid::Uuid::new_v4());
        let mine = self.life.replace(self.begin(&other));
        let result = self.check_tree(reference).map_err(|difference| format!("elsewhere: {difference}"));
        self.life = mine;
        result
    }
}

impl World {
    fn has_spills(&self) -> bool {
        self.store.keys().iter().any(|key| key.starts_with(spill::DIRECTORY))
    }
}

impl Life {
    /// Runs an operation as the VFS does: after ESTALE the names are looked up again, once.
    fn run<'a, T, F>(&'a self, work: impl Fn(&'a Self) -> F) -> std::result::Result<T, i32>
    where
        F: Future<Output = Result<T>>,
    {
        let result = self.runtime.block_on(async {
            match work(self).await {
                Err(VolumeError::Stale) => work(self).await,
                result => result,
            }
        });
        result.map_err(|error| error.errno())
    }

    /// What the kernel does with names that it does not need.
    fn forget(&self) {
        let known: Vec<(Ino, u64)> = self.known.lock().drain().collect();
        known.into_iter().for_each(|(ino, references)| self.volume.forget(ino, references));
    }

    fn know(&self, ino: Ino) {
        *self.known.lock().entry(ino).or_default() += 1;
    }

    async fn walk(&self, path: &str) -> Result<Ino> {
        let mut at = Ino::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.volume.lookup(at, name).await?.ino;
            self.know(at);
        }
        Ok(at)
    }

    async fn parent<'p>(&self, path: &'p str) -> Result<(Ino, &'p str)> {
        let dir = self.walk(parent(path)).await?;
        self.volume.tree().get(dir)?.dir()?;
        Ok((dir, path.rsplit('/').next().unwrap_or(path)))
    }

    async fn open(&self, path: &str) -> Result<u64> {
        let (parent, name) = self.parent(path).await?;
        match self.volume.lookup(parent, name).await {
            Ok(found) => {
                self.know(found.ino);
                self.volume.open(found.ino, Access::WRITE, &refuse).await.map(|opened| opened.handle)
            }
            Err(VolumeError::NotFound) => {
                let made =
                    self.volume.create(parent, name, 0o644, CALLER, (IfThere::Open, Access::WRITE), &refuse).await?;
                self.know(made.stat.ino);
                Ok(made.opened.handle)
            }
            Err(error) => Err(error),
        }
    }

    async fn stat(&self, path: &str) -> Result<(u32, u64)> {
        let ino = self.walk(path).await?;
        let stat = self.volume.attributes(ino).await?;
        Ok((stat.attr.mode, stat.size))
    }

    async fn read(&self, path: &str) -> Result<Vec<u8>> {
        let ino = self.walk(path).await?;
        let handle = self.volume.open(ino, Access::READ, &refuse).await?.handle;
        let bytes = self.read_all(handle).await;
        self.volume.release(handle).await?;
        bytes
    }

    /// As the kernel does, in pieces that are far smaller than the bounds.
    async fn write_all(&self, handle: u64, offset: u64, bytes: &[u8]) -> Result<()> {
        for (piece, at) in bytes.chunks(WRITE).zip((offset..).step_by(WRITE)) {
            self.volume.write(handle, at, piece, false).await?;
        }
        Ok(())
    }

    async fn read_all(&self, handle: u64) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let some = self.volume.read(handle, all.len() as u64, REQUEST).await?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&some);
        }
    }

    async fn list(&self, path: &str) -> Result<Vec<String>> {
        let ino = self.walk(path).await?;
        let handle = self.volume.open_directory(ino)?;
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let mut entries = Vec::new();
            let some = |entry| {
                entries.push(entry);
                entries.len() > 3
            };
            self.volume.read_directory(ino, handle, offset, some).await?;
            let Some(last) = entries.last() else { break };
            offset = last.next;
            names.extend(entries.into_iter().map(|entry| entry.name).filter(|name| name != "." && name != ".."));
        }
        self.volume.handles.remove(handle);
        names.sort();
        Ok(names)
    }
}

impl Drop for Life {
    /// Nothing is cleaned up: the next life finds what a killed process leaves.
    fn drop(&mut self) {
        self.volume.cache.freeze();
    }
}
