//! Bounds of a volume: open handles, inodes in memory, bytes that wait for S3, bytes in the cache.

use std::time::{Duration, Instant};

use super::Volume;
use super::content::Content;
use super::error::{Result, VolumeError};
use super::tree::{Ino, Kind};

/// How long a writer waits for uploads at the dirty limit before it gets ENOSPC.
const DIRTY_PATIENCE: Duration = Duration::from_secs(25);
/// How often a waiting writer looks.
const DIRTY_POLL: Duration = Duration::from_millis(50);
/// A full cache is emptied to this share of its size, so that eviction is rare.
const EVICT_TO_PERCENT: u64 = 80;

/// The bounds themselves.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Open files and directories.
    pub handles: usize,
    /// Inodes without handle that are remembered.
    pub inodes: usize,
    /// Bytes written and not in S3 yet.
    pub dirty_bytes: u64,
    /// Bytes of clean files kept in the cache.
    pub cache_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { handles: 65_536, inodes: 500_000, dirty_bytes: 32 << 30, cache_bytes: 32 << 30 }
    }
}

/// The bounds and what is used of them.
#[derive(Debug)]
pub(crate) struct Limits {
    bounds: Bounds,
    /// Bytes fetched since the cache was last measured.
    fetched: std::sync::atomic::AtomicU64,
}

impl Limits {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, fetched: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Counts fetched bytes; true when it is time to measure the cache again.
    fn count_fetched(&self, bytes: u64) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        let total = self.fetched.fetch_add(bytes, Relaxed) + bytes;
        let due = total > self.bounds.cache_bytes / 8;
        if due {
            self.fetched.store(0, Relaxed);
        }
        due
    }
}

impl Volume {
    /// Waits until `bytes` more may become dirty; [`VolumeError::DirtyLimit`] when uploads do not make room in time.
    pub(crate) async fn admit_dirty(&self, bytes: u64) -> Result<()> {
        let limit = self.options.bounds.dirty_bytes;
        if self.queue.unsent_bytes() + bytes <= limit {
            return Ok(());
        }
        let deadline = Instant::now() + DIRTY_PATIENCE;
        while self.queue.unsent_bytes() + bytes > limit {
            if Instant::now() >= deadline || self.closing.is_cancelled() {
                return Err(VolumeError::DirtyLimit);
            }
            tokio::time::sleep(DIRTY_POLL).await;
        }
        Ok(())
    }

    /// Drops clean data of files nobody has open when the cache is over its bound.
    pub(crate) async fn after_fetch(&self, bytes: u64) {
        if !self.limits.count_fetched(bytes) {
            return;
        }
        let mut candidates = self.evictable().await;
        let mut used: u64 = candidates.iter().map(|(_, _, bytes)| bytes).sum();
        let target = self.options.bounds.cache_bytes / 100 * EVICT_TO_PERCENT;
        if used <= self.options.bounds.cache_bytes {
            return;
        }
        candidates.sort_by_key(|(_, last_used, _)| *last_used);
        for (content, _, bytes) in candidates {
            if used <= target {
                break;
            }
            if self.drop_clean(&content).await {
                used -= bytes;
            }
        }
    }

    async fn evictable(&self) -> Vec<(std::sync::Arc<Content>, Instant, u64)> {
        let contents: Vec<_> = {
            let tree = self.tree();
            let closed = tree.nodes().filter(|(_, node)| node.opens == 0 && !tree.is_local(node));
            closed.filter_map(|(_, node)| node.content().ok()).collect()
        };
        let mut evictable = Vec::new();
        for content in contents {
            let state = content.state.read().await;
            if state.data.is_some() && !state.dirty {
                evictable.push((content.clone(), *content.used.lock(), state.present.total()));
            }
        }
        evictable
    }

    /// Whether the data could be dropped: not while somebody fetches, and never what S3 does not have.
    async fn drop_clean(&self, content: &Content) -> bool {
        let Ok(_fetching) = content.fetching.try_lock() else { return false };
        let mut state = content.state.write().await;
        if state.dirty || self.tree().is_outstanding(state.sealed) {
            return false;
        }
        state.data = None;
        state.present = super::cache::extents::Extents::default();
        true
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
