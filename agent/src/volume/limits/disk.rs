//! A local disk that is smaller than the bounds: room is made on it, or waited for, before a program hears of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{DIRTY_PATIENCE, DIRTY_POLL};
use crate::volume::Volume;
use crate::volume::content::Content;
use crate::volume::error::{Result, VolumeError};
use crate::volume::tree::Ino;

/// How often what a full disk has prevented is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// A full disk is freed of what S3 has until the cache takes this share of what it took.
const KEEP_PERCENT: u64 = 75;

/// Files that were closed and could not be handed to write-back: dirty, and nobody holds them open.
#[derive(Debug, Default)]
pub(crate) struct Unsealed(Mutex<HashSet<Ino>>);

/// Room on the disk for one request of a program.
#[derive(Debug)]
pub(crate) struct Room {
    deadline: Instant,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self { deadline: Instant::now() + DIRTY_PATIENCE }
    }

    /// The disk was full (`error`): returns when there may be room since. The error when there is none in time, or none
    /// to be expected: S3 is away, or everything is there already.
    pub(crate) async fn make(&mut self, volume: &Volume, content: &Content, error: std::io::Error) -> Result<()> {
        if Instant::now() >= self.deadline || volume.closing.is_cancelled() {
            return Err(error.into());
        }
        if volume.free_disk().await || volume.spill_any(content).await {
            return Ok(());
        }
        if volume.breaker.is_open() || volume.queue.unsent() == 0 {
            return Err(error.into());
        }
        volume.queue.wait_for_change(DIRTY_POLL).await;
        Ok(())
    }
}

impl Volume {
    /// Drops some of what S3 has; whether there was anything.
    async fn free_disk(&self) -> bool {
        let usage = self.cache.usage();
        let before = usage.clean() + usage.dirty();
        self.evict(before / 100 * KEEP_PERCENT).await;
        usage.clean() + usage.dirty() < before
    }

    /// A file that nobody holds open any more could not be sealed.
    pub(crate) fn seal_later(&self, ino: Ino, error: &VolumeError) {
        tracing::warn!(%ino, %error, "a closed file cannot be handed to write-back yet");
        self.unsealed.0.lock().insert(ino);
    }

    /// Tries again what a full disk has prevented, until the volume closes: sealing of closed files, and space for the
    /// journal ahead of what is written.
    pub(crate) async fn keep_up(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
            if self.journal.is_short() && self.free_disk().await {
                self.journal.reserve();
            }
            let unsealed: Vec<Ino> = self.unsealed.0.lock().iter().copied().collect();
            for ino in unsealed {
                match self.seal(ino).await {
                    Ok(_) | Err(VolumeError::NotFound) => drop(self.unsealed.0.lock().remove(&ino)),
                    Err(error) => tracing::debug!(%ino, %error, "a closed file cannot be sealed yet"),
                }
            }
        }
    }
}
