//! Bytes: open, read, write, truncate, flush, fsync, release.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::RwLockWriteGuard;

use super::seal::sync_data;
use crate::volume::buffer::Buffer;
use crate::volume::cache::extents::Extents;
use crate::volume::cache::usage::Hold;
use crate::volume::content::{Content, Origin, State};
use crate::volume::error::{Result, VolumeError};
use crate::volume::fetch::pattern::BULK;
use crate::volume::handle::Handle;
use crate::volume::journal::Base;
use crate::volume::limits::disk::Room;
use crate::volume::limits::is_full;
use crate::volume::passthrough::{Access, How, Register};
use crate::volume::spill::Spilled;
use crate::volume::tree::Ino;
use crate::volume::writeback::FAILING_PATIENCE;
use crate::volume::{Close, Volume};

/// The largest file: what a multipart upload can hold is 5 TiB.
pub(super) const MAX_FILE_BYTES: u64 = 5 << 40;
/// Files up to this size are fetched when they are opened, unless they may be about to be cut.
pub(crate) const SMALL: u64 = 1 << 20;
/// How often what a write needs is fetched again because it was evicted before the write began.
const PREPARATIONS: usize = 20;

/// An open file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) handle: u64,
    pub(crate) how: How,
}

impl Volume {
    /// Opens the version an inode shows; [`VolumeError::Stale`] when its name has another one now.
    pub(crate) async fn open(&self, ino: Ino, access: Access, register: &Register<'_>) -> Result<Opened> {
        let content = self.openable(ino, access).await.inspect_err(|error| self.note_stale(ino, error))?;
        let handle = self.handles.insert(Handle::File { ino, content: content.clone(), write: access.write })?;
        self.count_open(ino, access.write)?;
        let how = self.enter(ino, &content, access, register).await;
        Ok(Opened { handle, how })
    }

    async fn openable(&self, ino: Ino, access: Access) -> Result<Arc<Content>> {
        self.revalidate_open(ino).await?;
        let content = self.tree().get(ino)?.content()?;
        if access.old {
            self.walk_reads(ino);
            self.fetch_small(ino, &content).await?;
        }
        Ok(content)
    }

    /// S3 keeps no old versions: what is small is fetched before somebody can replace it. The kernel looks the name up
    /// again when this version is gone already. Without S3 the reading will tell.
    async fn fetch_small(&self, ino: Ino, content: &Arc<Content>) -> Result<()> {
        let size = content.state.read().await.size;
        if size > SMALL {
            return Ok(());
        }
        match self.ensure(ino, content, 0..size).await {
            Err(VolumeError::Stale) => Err(VolumeError::Stale),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn count_open(&self, ino: Ino, write: bool) -> Result<()> {
        let mut tree = self.tree();
        let node = tree.get_mut(ino)?;
        node.opens += 1;
        node.writers += u32::from(write);
        Ok(())
    }

    pub(super) fn file(&self, handle: u64) -> Result<(Ino, Arc<Content>, bool)> {
        match self.handles.get(handle)? {
            Handle::File { ino, content, write } => Ok((ino, content, write)),
            Handle::Dir(_) => Err(VolumeError::BadHandle),
        }
    }

    /// Bytes of the version; fewer than asked at its end only.
    pub(crate) async fn read(&self, handle: u64, offset: u64, length: u32) -> Result<Buffer> {
        let (ino, content, _) = self.file(handle)?;
        let asked = offset..offset.saturating_add(length.into());
        content.note_use(&self.cut, &asked);
        let Some(found) = self.read_cached(&content, asked.clone()).await? else {
            self.reads.misses.fetch_add(1, Ordering::Relaxed);
            return self.read_missing(ino, &content, asked).await;
        };
        self.reads.hits.fetch_add(1, Ordering::Relaxed);
        if !found.complete {
            self.read_ahead(ino, &content, &found.range, found.size);
        }
        Ok(found.bytes)
    }

    async fn read_missing(&self, ino: Ino, content: &Arc<Content>, asked: Range<u64>) -> Result<Buffer> {
        let (range, size) = {
            let state = content.state.read().await;
            (state.clamp(asked.clone()), state.size)
        };
        // Who reads much gets more at the same time; who wants a little gets that first.
        let bulk = range.end - range.start >= BULK;
        if bulk {
            self.read_ahead(ino, content, &range, size);
        }
        loop {
            self.ensure(ino, content, asked.clone()).await?;
            let Some(found) = self.read_cached(content, asked.clone()).await? else { continue };
            if !found.complete && !bulk {
                self.read_ahead(ino, content, &found.range, found.size);
            }
            return Ok(found.bytes);
        }
    }

    /// The bytes, if the cache file has them all.
    async fn read_cached(&self, content: &Content, asked: Range<u64>) -> Result<Option<Found>> {
        let state = content.state.read().await;
        let (range, size) = (state.clamp(asked), state.size);
        let length = usize::try_from(range.end - range.start).map_err(|_| VolumeError::Invalid("a read that large"))?;
        if range.is_empty() {
            return Ok(Some(Found { bytes: self.buffers.lend(0), range, complete: true, size }));
        }
        if !state.present.contains(range.clone()) {
            return Ok(None);
        }
        let data = state.data.as_ref().ok_or(VolumeError::Stale)?;
        let mut bytes = self.buffers.lend(length);
        data.file.read_exact_at(&mut bytes, range.start)?;
        Ok(Some(Found { bytes, range, complete: state.present.contains(0..size), size }))
    }

    /// Writes into the cache file. The kernel knows the offset: it has the size, for appenders too. `unprivileged`: the
    /// writer must not leave the file with rights of its owner.
    pub(crate) async fn write(&self, handle: u64, offset: u64, bytes: &[u8], unprivileged: bool) -> Result<()> {
        let (ino, content, write) = self.file(handle)?;
        if !write {
            return Err(VolumeError::BadHandle);
        }
        let range = offset..offset.saturating_add(bytes.len() as u64);
        if range.end > MAX_FILE_BYTES {
            return Err(VolumeError::Local(std::io::Error::from_raw_os_error(libc::EFBIG)));
        }
        self.admit_dirty(&content, bytes.len() as u64).await?;
        let mut room = Room::new();
        loop {
            match self.write_cached(ino, &content, &range, bytes, unprivileged).await {
                Err(VolumeError::Local(error)) if is_full(&error) => room.make(self, &content, error).await?,
                result => return result,
            }
        }
    }

    async fn write_cached(
        &self,
        ino: Ino,
        content: &Arc<Content>,
        range: &Range<u64>,
        bytes: &[u8],
        unprivileged: bool,
    ) -> Result<()> {
        let mut state = self.writable(ino, content, range.clone()).await?;
        let data = state.data.clone().ok_or(VolumeError::Stale)?;
        // Counted before they are there: a part that is being sent ahead is sent again.
        state.note_touched(&self.cut, range);
        data.file.write_all_at(bytes, range.start)?;
        state.note_written(range);
        data.measure(Hold::Dirty)?;
        self.note_change(ino, &state)?;
        if unprivileged { self.drop_privileges(ino) } else { Ok(()) }
    }

    /// Of a dirty file: the attributes go up with its bytes.
    pub(super) fn drop_privileges(&self, ino: Ino) -> Result<()> {
        self.tree().get_mut(ino)?.attr.drop_privileges();
        Ok(())
    }

    /// Cuts or extends a file.
    pub(crate) async fn truncate(&self, ino: Ino, size: u64) -> Result<()> {
        if size > MAX_FILE_BYTES {
            return Err(VolumeError::Local(std::io::Error::from_raw_os_error(libc::EFBIG)));
        }
        let content = self.tree().get(ino)?.content()?;
        if size == 0 {
            self.discard(&content).await?;
        }
        for _ in 0..PREPARATIONS {
            let now = content.state.read().await.size;
            let mut state = self.writable(ino, &content, self.cut.resized(now, size)).await?;
            if state.size == now {
                return self.resize(ino, &mut state, size).await;
            }
        }
        Err(VolumeError::TimedOut)
    }

    async fn resize(&self, ino: Ino, state: &mut State, size: u64) -> Result<()> {
        let data = state.data.clone().ok_or(VolumeError::Stale)?;
        data.file.set_len(size)?;
        let first = self.cut.first_from(size);
        if state.spilled.indices().any(|index| index >= first) {
            // The end must be on disk before the journal forgets what was behind it.
            sync_data(data.clone()).await?;
            self.note_unspilled(state.open, first, u64::MAX)?;
            state.spilled.truncate(first);
        }
        state.resize(&self.cut, size);
        data.measure(Hold::Dirty)?;
        self.note_change(ino, state)
    }

    /// Forgets the bytes of a file that is about to be rewritten, so that they are not fetched first.
    async fn discard(&self, content: &Content) -> Result<()> {
        let mut state = content.state.write().await;
        if state.dirty {
            return Ok(());
        }
        match &state.data {
            Some(data) if !self.is_ours_alone(content, data) => {
                self.await_release(data).await?;
                data.file.set_len(0)?;
            }
            Some(_) | None => state.data = Some(self.cache.create()?),
        }
        state.sealed = None;
        state.present = Extents::default();
        state.spilled = Spilled::default();
        state.origin = None;
        state.size = 0;
        Ok(())
    }

    /// The state of a file whose `range` may be written to: in a cache file that no upload reads, and in the journal. The
    /// parts that `range` is in are in the cache file and not spilled; of the rest, what is not there is spilled.
    pub(super) async fn writable<'a>(
        &self,
        ino: Ino,
        content: &'a Arc<Content>,
        range: Range<u64>,
    ) -> Result<RwLockWriteGuard<'a, State>> {
        for _ in 0..PREPARATIONS {
            self.prepare(ino, content, &range).await?;
            let mut state = content.state.write().await;
            let parts = state.affected(&self.cut, &range);
            let there = parts.iter().all(|index| state.has(self.cut.range(*index)));
            if !there || !state.spilled.completes(&self.cut, &state.present, state.size) {
                continue;
            }
            if let Some(data) = state.data.as_ref().filter(|_| !state.dirty) {
                self.await_release(data).await?;
            }
            self.begin_writing(ino, &mut state)?;
            content.way.lock().note_change();
            self.unspill(&mut state, &parts).await?;
            return Ok(state);
        }
        Err(VolumeError::TimedOut)
    }

    /// Fetches what a write to `range` needs.
    async fn prepare(&self, ino: Ino, content: &Arc<Content>, range: &Range<u64>) -> Result<()> {
        let parts = {
            let mut state = content.state.write().await;
            self.forget_spilled(ino, &mut state);
            state.affected(&self.cut, range)
        };
        self.complete(ino, content).await?;
        for index in parts {
            self.ensure(ino, content, self.cut.range(index)).await?;
        }
        Ok(())
    }

    /// What is in the cache file is ours to change from now on, and in the journal.
    pub(crate) fn begin_writing(&self, ino: Ino, state: &mut State) -> Result<()> {
        if !state.dirty && self.is_clean(ino, state) {
            state.origin = self.origin_of(ino, state);
        }
        self.unseal(state)?;
        self.journal_open(ino, state)
    }

    /// The version that a clean file is, if the next upload is to replace that one.
    fn origin_of(&self, ino: Ino, state: &State) -> Option<Origin> {
        let tree = self.tree();
        let node = tree.get(ino).ok()?;
        let remote = node.remote.as_ref().filter(|remote| remote.size == state.size)?;
        (node.base == Base::Version(remote.etag.clone())).then(|| Origin::new(remote.etag.clone(), remote.size))
    }

    fn unseal(&self, state: &mut State) -> Result<()> {
        let busy = self.tree().is_outstanding(state.sealed);
        state.data = match state.data.take() {
            None => {
                let data = self.cache.create()?;
                data.file.set_len(state.size)?;
                Some(data)
            }
            Some(data) if busy && !data.is_exposed() => {
                Some(self.cache.duplicate(&data).inspect_err(|_| state.data = Some(data))?)
            }
            Some(data) => Some(data),
        };
        state.sealed = None;
        Ok(())
    }

    fn journal_open(&self, ino: Ino, state: &mut State) -> Result<()> {
        if state.dirty {
            return Ok(());
        }
        let tree = self.tree();
        let op = state.data.as_ref().map(|data| self.put_op(&tree, ino, data, &state.spilled)).transpose()?.flatten();
        state.open = op.map(|op| self.note_open(op, None)).transpose()?;
        drop(tree);
        state.dirty = true;
        state.written.clear();
        Ok(())
    }

    pub(crate) fn note_change(&self, ino: Ino, state: &State) -> Result<()> {
        let mut tree = self.tree();
        let node = tree.get_mut(ino)?;
        node.size = state.size;
        node.attr.touch();
        node.dirty = true;
        Ok(())
    }

    /// `close` of one descriptor: what was written survives this process, by the journal that knows of it; with
    /// [`Close::Disk`] both are on the local disk, with [`Close::S3`] it is in S3. Reports an upload that failed since.
    pub(crate) async fn flush(&self, handle: u64) -> Result<()> {
        let (ino, content, write) = self.file(handle)?;
        if !write {
            return Ok(());
        }
        match self.options.close {
            Close::Local | Close::Disk => self.secure(ino, &content).await?,
            Close::S3 => self.upload(ino).await?,
        }
        self.report(ino)
    }

    /// The last descriptor is closed: a file that was written to is handed to write-back.
    pub(crate) async fn release(&self, handle: u64) -> Result<()> {
        let Some(Handle::File { ino, write, content }) = self.handles.remove(handle) else { return Ok(()) };
        content.way.lock().leave();
        let sealed = if write { self.seal(ino).await.map(drop) } else { Ok(()) };
        if let Err(error) = &sealed {
            self.seal_later(ino, error);
        }
        let mut tree = self.tree();
        if let Ok(node) = tree.get_mut(ino) {
            node.opens = node.opens.saturating_sub(1);
            node.writers = node.writers.saturating_sub(u32::from(write));
        }
        tree.drop_if_unused(ino);
        sealed
    }

    /// Returns when S3 has the file as it is now.
    pub(crate) async fn fsync(&self, handle: u64) -> Result<()> {
        let (ino, _, _) = self.file(handle)?;
        self.upload(ino).await?;
        self.report(ino)
    }

    /// Returns when S3 has the file as it is now, or has been failing for too long.
    async fn upload(&self, ino: Ino) -> Result<()> {
        match self.seal(ino).await? {
            Some(seq) => self.wait_for(seq, FAILING_PATIENCE).await,
            None => Ok(()),
        }
    }

    fn report(&self, ino: Ino) -> Result<()> {
        match self.tree().get_mut(ino)?.error.take() {
            Some(error) => Err(VolumeError::NotUploaded(error)),
            None => Ok(()),
        }
    }
}

/// Bytes that were asked for.
struct Found {
    bytes: Buffer,
    range: Range<u64>,
    /// The cache file has all of the file.
    complete: bool,
    size: u64,
}
