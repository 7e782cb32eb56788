//! Bytes of a flight, as they come: into the cache file, and to those who wait for them.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::Flight;
use crate::volume::Volume;
use crate::volume::cache::DataFile;
use crate::volume::content::Content;
use crate::volume::error::{Result, VolumeError};
use crate::volume::limits::is_full;
use crate::volume::store::Sink;

/// Where a flight's bytes go.
pub(super) struct Landing<'a> {
    volume: &'a Volume,
    content: &'a Content,
    data: Arc<DataFile>,
    flight: &'a Flight,
    end: Mutex<End>,
}

/// Why no more is taken before all is there.
#[derive(Debug)]
enum End {
    No,
    /// The file was changed: these bytes are not its own any more.
    Overtaken,
    Failed(std::io::Error),
}

impl<'a> Landing<'a> {
    pub(super) fn new(volume: &'a Volume, content: &'a Content, data: Arc<DataFile>, flight: &'a Flight) -> Self {
        Self { volume, content, data, flight, end: Mutex::new(End::No) }
    }

    /// What is not there yet.
    pub(super) fn wanted(&self) -> Range<u64> {
        *self.flight.reached.borrow()..self.flight.range.end
    }

    /// How it ended; [`VolumeError::Stale`] when the object has fewer bytes than it should have.
    pub(super) fn end(self) -> Result<()> {
        match self.end.into_inner() {
            End::Failed(error) => Err(error.into()),
            End::Overtaken => Ok(()),
            End::No if *self.flight.reached.borrow() == self.flight.range.end => Ok(()),
            End::No => Err(VolumeError::Stale),
        }
    }

    async fn keep(&self, at: u64, bytes: &[Bytes]) -> std::io::Result<bool> {
        match self.try_keep(at, bytes).await {
            Err(error) if is_full(&error) => {
                self.volume.evict(0).await;
                self.try_keep(at, bytes).await
            }
            result => result,
        }
    }

    /// Puts bytes into the cache file, where that still lacks them and the file still has them; whether it has. Readers
    /// go on meanwhile; whoever changes the file waits.
    async fn try_keep(&self, at: u64, bytes: &[Bytes]) -> std::io::Result<bool> {
        let (volume, moment) = (self.volume, self.flight.moment);
        let range = at..at + length(bytes);
        {
            let state = self.content.state.read().await;
            if !state.is_still(&volume.cut, &self.data, &range, moment) {
                return Ok(false);
            }
            for gap in state.present.missing(state.clamp(range.clone())) {
                write_within(&self.data, &gap, at, bytes)?;
            }
        }
        let mut state = self.content.state.write().await;
        if !state.is_still(&volume.cut, &self.data, &range, moment) {
            return Ok(false);
        }
        let there = state.clamp(range.clone());
        state.present.insert(there);
        self.content.note_use(&volume.cut, &range);
        self.data.remeasure()?;
        Ok(true)
    }
}

#[async_trait]
impl Sink for Landing<'_> {
    async fn take(&self, bytes: Vec<Bytes>) -> bool {
        let at = *self.flight.reached.borrow();
        let end = match self.keep(at, &bytes).await {
            Ok(true) => {
                self.flight.reached.send_replace(at + length(&bytes));
                return true;
            }
            Ok(false) => End::Overtaken,
            Err(error) => End::Failed(error),
        };
        *self.end.lock() = end;
        false
    }
}

fn length(bytes: &[Bytes]) -> u64 {
    bytes.iter().map(|piece| piece.len() as u64).sum()
}

/// Writes what of `bytes`, which begin at `at`, is in `gap`.
fn write_within(data: &DataFile, gap: &Range<u64>, at: u64, bytes: &[Bytes]) -> std::io::Result<()> {
    let mut start = at;
    for piece in bytes {
        let end = start + piece.len() as u64;
        let (from, to) = (gap.start.max(start), gap.end.min(end));
        if from < to {
            let within = |at: u64| usize::try_from(at - start).map_err(std::io::Error::other);
            data.file.write_all_at(&piece[within(from)?..within(to)?], from)?;
        }
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::cache::Cache;

    #[test]
    fn only_what_is_missing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let data = Cache::open(dir.path()).unwrap().create().unwrap();
        data.file.write_all_at(b"..........", 0).unwrap();
        let pieces = ["cde", "fg", "", "hij"].map(Bytes::from);
        assert_eq!(length(&pieces), 8);
        write_within(&data, &(3..6), 2, &pieces).unwrap();
        write_within(&data, &(8..9), 2, &pieces).unwrap();
        assert_eq!(std::fs::read(&data.path).unwrap(), b"...def..i.");
    }
}
