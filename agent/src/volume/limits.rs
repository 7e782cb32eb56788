//! Bounds of a volume: open handles, inodes in memory, bytes in memory, bytes that wait for S3, bytes in the cache.
//!
//! Bytes on disk are counted as the file system tells them ([`super::cache::usage`]). Over the bound of the cache, parts
//! that S3 has go, the least recently read first; what S3 does not have never does. Over half of the bound of dirty bytes
//! a writer sends parts of its file to S3 itself (`ops/spill`); at the bound it waits for room, and only then gets ENOSPC.

pub(crate) mod disk;
mod evict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Volume;
use super::content::Content;
use super::error::{Result, VolumeError};
use super::fetch::IN_HAND;
use super::tree::{Ino, Kind};

/// How long a writer waits for room at the dirty limit before it gets ENOSPC.
const DIRTY_PATIENCE: Duration = Duration::from_secs(25);
/// How often a waiting writer looks.
const DIRTY_POLL: Duration = Duration::from_millis(50);
/// Dirty bytes may take so much of the cache at most: what is read needs room too.
const DIRTY_PERCENT: u64 = 75;
/// Pieces that are fetched ahead of readers at a time, all together.
const MOST_AHEAD: u64 = 16;
/// Memory is counted in units of this.
const MEMORY_UNIT: u64 = 64 << 10;

/// The bounds themselves.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Open files and directories.
    pub handles: usize,
    /// Inodes without handle that are remembered.
    pub inodes: usize,
    /// Bytes on disk that are not in S3 yet.
    pub dirty_bytes: u64,
    /// Bytes of data files on disk.
    pub cache_bytes: u64,
    /// Bytes of file data in memory on their way between the kernel, the disk and S3.
    pub memory_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { handles: 65_536, inodes: 500_000, dirty_bytes: 32 << 30, cache_bytes: 32 << 30, memory_bytes: 256 << 20 }
    }
}

impl Bounds {
    /// Dirty bytes at which writers wait.
    fn dirty_limit(&self) -> u64 {
        self.dirty_bytes.min(self.cache_bytes / 100 * DIRTY_PERCENT)
    }

    /// A file larger than this that was only read in parts is not fetched whole before it is written to.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.cache_bytes / 4
    }

    /// What is fetched ahead takes half of the memory at most: who waits for his bytes finds some.
    fn units_ahead(&self) -> usize {
        let bytes = (self.memory_bytes / 2).clamp(IN_HAND, MOST_AHEAD * IN_HAND);
        usize::try_from(bytes / MEMORY_UNIT).unwrap_or(Semaphore::MAX_PERMITS)
    }

    fn memory_units(&self) -> usize {
        // A request of the kernel, what is in hand of a fetch, and a small file twice, must fit.
        usize::try_from(self.memory_bytes.max(16 << 20) / MEMORY_UNIT).unwrap_or(Semaphore::MAX_PERMITS)
    }
}

/// What is used of the bounds beside the disk.
#[derive(Debug)]
pub(crate) struct Limits {
    memory: Arc<Semaphore>,
    memory_units: usize,
    /// The share of it of what is fetched before anybody asked for it.
    ahead: Arc<Semaphore>,
    units_ahead: usize,
    /// Held by the one who makes room in the cache.
    evicting: tokio::sync::Mutex<()>,
}

impl Limits {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let (memory_units, units_ahead) = (bounds.memory_units(), bounds.units_ahead());
        Self {
            memory: Arc::new(Semaphore::new(memory_units)),
            memory_units,
            ahead: Arc::new(Semaphore::new(units_ahead)),
            units_ahead,
            evicting: tokio::sync::Mutex::default(),
        }
    }

    /// Waits until `bytes` more may be fetched before anybody asked for them; they may as long as the permit lives.
    pub(crate) async fn ahead(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        acquire(&self.ahead, bytes, self.units_ahead).await
    }

    /// Waits until `bytes` of file data may be in memory; they may as long as the permit lives.
    pub(crate) async fn memory(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        acquire(&self.memory, bytes, self.memory_units).await
    }
}

async fn acquire(units: &Arc<Semaphore>, bytes: u64, most: usize) -> Result<OwnedSemaphorePermit> {
    let wanted = usize::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(usize::MAX).min(most);
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    units.clone().acquire_many_owned(wanted).await.map_err(|_| VolumeError::Closing)
}

impl Volume {
    /// Waits until `bytes` more of a file may become dirty; [`VolumeError::DirtyLimit`] when neither uploads nor
    /// spilling make room in time.
    pub(crate) async fn admit_dirty(&self, content: &Content, bytes: u64) -> Result<()> {
        let limit = self.options.bounds.dirty_limit();
        // A request larger than the limit is let through like one of half of it.
        let bytes = bytes.min(limit / 2);
        let usage = self.cache.usage();
        if usage.dirty() + bytes <= limit / 2 {
            return Ok(());
        }
        let mut deadline = Instant::now() + DIRTY_PATIENCE;
        self.spill_ahead(content, limit).await;
        while usage.dirty() + bytes > limit {
            let before = usage.dirty();
            let target = limit.saturating_sub(bytes);
            if self.evict_spilled(target).await || self.spill_any(content).await || usage.dirty() < before {
                deadline = Instant::now() + DIRTY_PATIENCE;
                continue;
            }
            if Instant::now() >= deadline || self.closing.is_cancelled() {
                return Err(VolumeError::DirtyLimit);
            }
            self.queue.wait_for_change(DIRTY_POLL).await;
        }
        Ok(())
    }

    /// Forgets an inode the kernel does not hold any more when there are too many.
    pub(crate) fn after_forget(&self, ino: Ino) {
        let mut tree = self.tree();
        tree.drop_if_unused(ino);
        let evict = tree.len() > self.options.bounds.inodes
            && tree.get(ino).is_ok_and(|node| !matches!(node.kind, Kind::Dir(_)));
        if evict {
            tree.evict(ino);
        }
    }
}

/// Whether the local disk is full.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_is_lent_and_given_back() {
        let limits = Limits::new(Bounds { memory_bytes: 16 << 20, ..Bounds::default() });
        let most = limits.memory(1 << 40).await.unwrap();
        let next = limits.memory(1);
        tokio::pin!(next);
        assert!(tokio::time::timeout(Duration::from_millis(20), next.as_mut()).await.is_err());
        drop(most);
        drop(next.await.unwrap());
    }

    #[tokio::test]
    async fn what_is_fetched_ahead_takes_half_of_the_memory() {
        let limits = Limits::new(Bounds { memory_bytes: 32 << 20, ..Bounds::default() });
        let _one = limits.ahead(8 << 20).await.unwrap();
        let _other = limits.ahead(8 << 20).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), limits.ahead(1)).await.is_err());
        drop(limits.ahead(0).await.unwrap());
        drop(limits.memory(16 << 20).await.unwrap());
        let small = Limits::new(Bounds { memory_bytes: 1, ..Bounds::default() });
        drop(small.ahead(1 << 30).await.unwrap());
    }

    #[test]
    fn dirty_bytes_leave_room_for_reading() {
        let bounds = Bounds { cache_bytes: 1000, ..Bounds::default() };
        assert_eq!(bounds.dirty_limit(), 750);
        assert_eq!(Bounds { dirty_bytes: 10, ..bounds }.dirty_limit(), 10);
    }
}
