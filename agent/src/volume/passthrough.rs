//! Files that the kernel reads by itself: while a file is open that was clean and complete in the cache, reads and
//! mappings go to its cache file, and this process does not see them.
//!
//! The kernel takes one way for an inode as long as it is open: through its own page cache, or straight to the cache
//! file. Whoever opens a file first decides; a writer decides for the page cache. Writers who come to a file that goes
//! straight write by this process all the same, but what they store into a shared mapping it does not see: such a file is
//! *watched*, by its time of change, for as long as anybody may have it mapped.
//!
//! A cache file that the kernel knows is *exposed*, also when it is closed again: a mapping outlives its descriptor.
//! Until it is known that nobody has it, no hole is made in it, no other file takes its place, and uploads read a copy.

use std::any::Any;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, fstatfs};

use super::Volume;
use super::cache::DataFile;
use super::content::{Content, State};
use super::error::Result;
use super::tree::Ino;

/// Where a store into a mapping shows in a file's times, and where it can be asked whether anybody has a file.
const FILE_SYSTEMS: [FsType; 3] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];
/// How often watched files are looked at.
const WATCH: Duration = Duration::from_secs(1);
/// Exposed files cannot be evicted: they have this share of the cache at most.
const EXPOSED_PERCENT: u64 = 50;

/// What the kernel knows a cache file by. Only the FUSE side knows what is in it.
pub(crate) type Backing = Arc<dyn Any + Send + Sync>;

/// Makes a cache file known to the kernel.
pub(crate) type Register<'a> = dyn Fn(&File) -> std::io::Result<Backing> + Send + Sync + 'a;

/// What an opener wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) write: bool,
    /// It may store into a shared mapping: that takes reading and writing.
    pub(crate) map: bool,
    /// It needs what is there: it reads, or adds to it.
    pub(crate) old: bool,
}

#[cfg(test)]
impl Access {
    pub(crate) const READ: Self = Self { write: false, map: false, old: true };
    pub(crate) const WRITE: Self = Self { write: true, map: true, old: true };
}

/// How an open is to be answered.
#[derive(Debug, Clone)]
pub(crate) enum How {
    /// Through the kernel's page cache; `keep`: what it has of the file is right.
    Cached { keep: bool },
    /// Straight to the cache file; `direct`: reads and writes come to this process all the same.
    Through { backing: Backing, direct: bool },
}

/// The way the kernel takes for one inode.
#[derive(Debug, Default)]
enum Mode {
    #[default]
    Closed,
    Cached {
        opens: u32,
    },
    Through {
        opens: u32,
        backing: Backing,
    },
}

/// The way, and whether it left something old in the kernel's page cache.
#[derive(Debug, Default)]
pub(crate) struct Way {
    mode: Mode,
    stale: bool,
}

impl Way {
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.mode, Mode::Closed)
    }

    pub(crate) fn is_through(&self) -> bool {
        matches!(self.mode, Mode::Through { .. })
    }

    fn begin(&mut self, backing: Backing) {
        self.mode = Mode::Through { opens: 0, backing };
    }

    /// One more open.
    pub(crate) fn enter(&mut self, access: Access) -> How {
        if self.is_closed() {
            self.mode = Mode::Cached { opens: 0 };
        }
        match &mut self.mode {
            Mode::Through { opens, backing } => {
                *opens += 1;
                How::Through { backing: backing.clone(), direct: access.write }
            }
            Mode::Cached { opens } => {
                *opens += 1;
                How::Cached { keep: !self.stale }
            }
            Mode::Closed => How::Cached { keep: false },
        }
    }

    /// One open less.
    pub(crate) fn leave(&mut self) {
        match &mut self.mode {
            Mode::Cached { opens } | Mode::Through { opens, .. } if *opens > 1 => *opens -= 1,
            Mode::Cached { .. } => *self = Self::default(),
            Mode::Through { .. } | Mode::Closed => self.mode = Mode::Closed,
        }
    }

    /// The bytes change: pages that the kernel has from before it went straight are old then.
    pub(crate) fn note_change(&mut self) {
        self.stale |= self.is_through();
    }
}

impl Volume {
    /// Whether the kernel may read cache files by itself; asked once, at the mount.
    pub(crate) fn allow_passthrough(&self, kernel_can: bool) {
        let known = || {
            let dir = File::open(&self.options.cache_dir).ok();
            dir.and_then(|dir| fstatfs(&dir).ok()).is_some_and(|found| FILE_SYSTEMS.contains(&found.filesystem_type()))
        };
        let allowed = self.options.passthrough && kernel_can && nix::unistd::geteuid().is_root() && known();
        tracing::debug!(allowed, "passthrough");
        self.passthrough.store(allowed, Ordering::Relaxed);
    }

    /// One more open of a file: by which way.
    pub(crate) async fn enter(&self, ino: Ino, content: &Content, access: Access, register: &Register<'_>) -> How {
        if !access.write && self.cache.usage().exposed() * 2 > self.exposed_limit() {
            self.conceal_unused().await;
        }
        let state = content.state.read().await;
        if let Some(data) = state.data.as_ref().filter(|_| access.map && !state.dirty)
            && let Err(error) = self.await_release(data).await
        {
            tracing::warn!(%ino, %error, "the journal cannot be synced before a file is mapped");
        }
        let mut way = content.way.lock();
        if way.is_closed() && !access.write {
            let backing = self.passable(ino, &state).and_then(|data| self.expose(data, register));
            backing.into_iter().for_each(|backing| way.begin(backing));
        }
        if way.is_through() && access.map {
            self.watch(ino, &state);
        }
        way.enter(access)
    }

    fn exposed_limit(&self) -> u64 {
        self.options.bounds.cache_bytes / 100 * EXPOSED_PERCENT
    }

    /// The cache file, if it is all there is to know of the file.
    fn passable<'a>(&self, ino: Ino, state: &'a State) -> Option<&'a Arc<DataFile>> {
        let whole = state.size > 0 && state.present.contains(0..state.size);
        let data = state.data.as_ref().filter(|_| whole && self.passthrough.load(Ordering::Relaxed))?;
        let room = data.is_exposed() || self.cache.usage().exposed() + data.bytes() <= self.exposed_limit();
        (room && self.is_clean(ino, state)).then_some(data)
    }

    fn expose(&self, data: &DataFile, register: &Register<'_>) -> Option<Backing> {
        match register(&data.file) {
            Ok(backing) => {
                self.reads.hits.fetch_add(1, Ordering::Relaxed);
                data.expose();
                Some(backing)
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel does not take a cache file: no more passthrough");
                self.passthrough.store(false, Ordering::Relaxed);
                None
            }
        }
    }

    /// Somebody may store into the file behind our back from now on.
    fn watch(&self, ino: Ino, state: &State) {
        let Some(data) = state.data.as_ref().filter(|data| !data.is_watched()) else { return };
        if let Err(error) = data.watch() {
            tracing::warn!(%ino, %error, "stores into mappings will be uploaded though nobody made any");
        }
        self.watched.lock().push(ino);
        self.watching.notify_one();
    }

    /// Makes what was stored into mappings of a watched file a write like any other.
    pub(crate) async fn note_stores(&self, ino: Ino, content: &Content) -> Result<()> {
        let watched = || content.state.try_read().is_ok_and(|state| !state.is_watched());
        if watched() {
            return Ok(());
        }
        let mut state = content.state.write().await;
        let Some(data) = state.data.clone().filter(|data| data.is_watched()) else { return Ok(()) };
        if !data.was_stored_to()? {
            return Ok(());
        }
        data.watch()?;
        self.begin_writing(ino, &mut state)?;
        let whole = 0..state.size;
        state.note_touched(&self.cut, &whole);
        content.way.lock().note_change();
        self.note_change(ino, &state)
    }

    /// [`Volume::note_stores`] of all files; those that nobody has any more are not watched any longer.
    pub(crate) async fn note_all_stores(&self) {
        let watched: Vec<Ino> = self.watched.lock().clone();
        for ino in watched {
            if let Err(error) = self.note_stores_behind(ino).await {
                tracing::warn!(%ino, %error, "what was stored into mappings of a file is not known");
            }
        }
    }

    async fn note_stores_behind(&self, ino: Ino) -> Result<()> {
        let content = match self.tree().get(ino).and_then(|node| node.content()) {
            Ok(content) => content,
            Err(_) => {
                self.watched.lock().retain(|other| *other != ino);
                return Ok(());
            }
        };
        // In this order: what nobody has cannot be stored to after the last look.
        let over = content.state.write().await.is_given_back(&content);
        self.note_stores(ino, &content).await?;
        let unheld = self.tree().get(ino).is_ok_and(|node| node.writers == 0);
        if unheld {
            self.seal(ino).await?;
        }
        if over {
            content.state.write().await.data.iter().for_each(|data| data.unwatch());
            self.watched.lock().retain(|other| *other != ino);
        }
        Ok(())
    }

    /// Looks after watched files, as long as there are any.
    pub(crate) async fn watch_stores(self: Arc<Self>) {
        loop {
            let idle = self.watched.lock().is_empty();
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = self.watching.notified(), if idle => {}
                () = tokio::time::sleep(WATCH), if !idle => self.note_all_stores().await,
            }
        }
    }

    /// Whether a cache file may be changed under those who read: none of them has it from the kernel. Cheap, but not free.
    pub(crate) fn is_ours_alone(&self, content: &Content, data: &DataFile) -> bool {
        if !data.is_exposed() {
            return true;
        }
        let way = content.way.lock();
        if way.is_through() || data.is_watched() || !data.is_alone() {
            return false;
        }
        data.conceal();
        true
    }

    /// Frees the share of exposed files from those that nobody has any more.
    pub(crate) async fn conceal_unused(&self) {
        let mut last = self.concealed.lock().await;
        if last.is_some_and(|at: Instant| at.elapsed() < WATCH) {
            return;
        }
        *last = Some(Instant::now());
        let files: Vec<Arc<Content>> = self.tree().nodes().filter_map(|(_, node)| node.content().ok()).collect();
        for content in files {
            let data = content.state.read().await.data.clone();
            let _ = data.is_some_and(|data| self.is_ours_alone(&content, &data));
        }
    }
}

impl State {
    fn is_watched(&self) -> bool {
        self.data.as_ref().is_some_and(|data| data.is_watched())
    }

    /// Whether nobody has the watched cache file open or mapped any more.
    fn is_given_back(&self, content: &Content) -> bool {
        let way = content.way.lock();
        !way.is_through() && self.data.as_ref().is_none_or(|data| data.is_alone())
    }
}
