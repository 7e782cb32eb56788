//! Bytes: open, read, write, truncate, flush, fsync, release.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::RwLockWriteGuard;

use crate::volume::cache::extents::Extents;
use crate::volume::content::{Content, State};
use crate::volume::error::{Result, VolumeError};
use crate::volume::handle::Handle;
use crate::volume::tree::Ino;
use crate::volume::writeback::FAILING_PATIENCE;
use crate::volume::{Close, Volume};

/// The largest file: what a multipart upload can hold is 5 TiB.
pub(super) const MAX_FILE_BYTES: u64 = 5 << 40;

impl Volume {
    /// Opens the version an inode shows; [`VolumeError::Stale`] when its name has another one now.
    pub(crate) async fn open(&self, ino: Ino, write: bool) -> Result<u64> {
        self.revalidate(ino).await?;
        let content = self.tree().get(ino)?.content()?;
        let handle = self.handles.insert(Handle::File { ino, content, write })?;
        self.count_open(ino, write)?;
        Ok(handle)
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
    pub(crate) async fn read(&self, handle: u64, offset: u64, length: u32) -> Result<Vec<u8>> {
        let (ino, content, _) = self.file(handle)?;
        *content.used.lock() = Instant::now();
        let asked = offset..offset.saturating_add(length.into());
        if let Some(bytes) = read_cached(&content, asked.clone()).await? {
            self.reads.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(bytes);
        }
        self.reads.misses.fetch_add(1, Ordering::Relaxed);
        loop {
            self.ensure(ino, &content, asked.clone()).await?;
            if let Some(bytes) = read_cached(&content, asked.clone()).await? {
                return Ok(bytes);
            }
        }
    }

    /// Writes into the cache file. The kernel knows the offset: it has the size, for appenders too. `unprivileged`: the
    /// writer must not leave the file with rights of its owner.
    pub(crate) async fn write(&self, handle: u64, offset: u64, bytes: &[u8], unprivileged: bool) -> Result<()> {
        let (ino, content, write) = self.file(handle)?;
        if !write {
            return Err(VolumeError::BadHandle);
        }
        let end = offset.saturating_add(bytes.len() as u64);
        if end > MAX_FILE_BYTES {
            return Err(VolumeError::Local(std::io::Error::from_raw_os_error(libc::EFBIG)));
        }
        self.admit_dirty(bytes.len() as u64).await?;
        let mut state = self.writable(ino, &content).await?;
        let data = state.data.clone().ok_or(VolumeError::Stale)?;
        data.file.write_all_at(bytes, offset)?;
        state.size = state.size.max(end);
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
        let mut state = self.writable(ino, &content).await?;
        let data = state.data.clone().ok_or(VolumeError::Stale)?;
        data.file.set_len(size)?;
        state.size = size;
        self.note_change(ino, &state)
    }

    /// Forgets the bytes of a file that is about to be rewritten, so that they are not fetched first.
    async fn discard(&self, content: &Content) -> Result<()> {
        let _fetching = content.fetching.lock().await;
        let mut state = content.state.write().await;
        if state.dirty {
            return Ok(());
        }
        state.data = Some(self.cache.create()?);
        state.sealed = None;
        state.present = Extents::default();
        state.size = 0;
        Ok(())
    }

    /// The state of a file that may be written to: complete, in a cache file that no upload reads, and in the journal.
    pub(super) async fn writable<'a>(&self, ino: Ino, content: &'a Content) -> Result<RwLockWriteGuard<'a, State>> {
        loop {
            self.ensure_all(ino, content).await?;
            let mut state = content.state.write().await;
            if !state.is_complete() {
                continue;
            }
            self.unseal(&mut state)?;
            self.journal_open(ino, &mut state)?;
            return Ok(state);
        }
    }

    fn unseal(&self, state: &mut State) -> Result<()> {
        let busy = self.tree().is_outstanding(state.sealed);
        state.data = match state.data.take() {
            None => Some(self.cache.create()?),
            Some(data) if busy => Some(self.cache.duplicate(&data).inspect_err(|_| state.data = Some(data))?),
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
        let op = state.data.as_ref().map(|data| self.put_op(&tree, ino, data)).transpose()?.flatten();
        state.open = op.map(|op| self.note_open(op, None)).transpose()?;
        drop(tree);
        state.dirty = true;
        state.present = Extents::default();
        Ok(())
    }

    pub(super) fn note_change(&self, ino: Ino, state: &State) -> Result<()> {
        let mut tree = self.tree();
        let node = tree.get_mut(ino)?;
        node.size = state.size;
        node.attr.touch();
        node.dirty = true;
        Ok(())
    }

    /// `close` of one descriptor: what was written is on the local disk, and so is the journal that knows of it; with
    /// [`Close::S3`] it is in S3. Reports an upload that failed since.
    pub(crate) async fn flush(&self, handle: u64) -> Result<()> {
        let (ino, content, write) = self.file(handle)?;
        if !write {
            return Ok(());
        }
        match self.options.close {
            Close::Local => self.secure(ino, &content).await?,
            Close::S3 => self.upload(ino).await?,
        }
        self.report(ino)
    }

    /// The last descriptor is closed: a file that was written to is handed to write-back.
    pub(crate) async fn release(&self, handle: u64) -> Result<()> {
        let Some(Handle::File { ino, write, .. }) = self.handles.remove(handle) else { return Ok(()) };
        let sealed = if write { self.seal(ino).await.map(drop) } else { Ok(()) };
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

/// The bytes, if the cache file has them all.
async fn read_cached(content: &Content, asked: Range<u64>) -> Result<Option<Vec<u8>>> {
    let state = content.state.read().await;
    let range = state.clamp(asked);
    if range.is_empty() {
        return Ok(Some(Vec::new()));
    }
    if !state.dirty && !state.present.contains(range.clone()) {
        return Ok(None);
    }
    let data = state.data.as_ref().ok_or(VolumeError::Stale)?;
    let length = usize::try_from(range.end - range.start).map_err(|_| VolumeError::Invalid("a read that large"))?;
    let mut bytes = vec![0; length];
    data.file.read_exact_at(&mut bytes, range.start)?;
    Ok(Some(bytes))
}
