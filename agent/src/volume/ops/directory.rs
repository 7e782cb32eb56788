//! Reading directories. The names are those at the start of the reading; every batch gets its attributes in parallel.

use std::sync::Arc;

use futures::StreamExt;

use super::Stat;
use crate::volume::Volume;
use crate::volume::error::{Result, VolumeError};
use crate::volume::handle::Handle;
use crate::volume::tree::{Ino, Place};
use crate::volume::writeback::FAILING_PATIENCE;

/// Attributes asked for at a time.
const PARALLEL: usize = 64;
/// Names looked at for one reply of the kernel's buffer size.
const BATCH: usize = 512;

/// One name; `next` is the offset to go on from.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) next: u64,
    pub(crate) stat: Stat,
}

impl Volume {
    pub(crate) fn open_directory(&self, ino: Ino) -> Result<u64> {
        self.tree().get(ino)?.dir()?;
        self.handles.insert(Handle::Dir(Arc::default()))
    }

    /// Entries from `offset` on, `.` and `..` first. Empty at the end. The kernel gets no references yet.
    pub(crate) async fn read_directory(&self, ino: Ino, handle: u64, offset: u64) -> Result<Vec<Entry>> {
        let Handle::Dir(names) = self.handles.get(handle)? else { return Err(VolumeError::BadHandle) };
        let mut names = names.lock().await;
        let names = match &mut *names {
            Some(names) if offset > 0 => names,
            stale => {
                self.list(ino, false).await?;
                stale.insert(self.tree().names(ino)?)
            }
        };
        let mut entries = Vec::new();
        if offset == 0 {
            entries.push(Entry { name: ".".to_owned(), next: 1, stat: self.stat(ino)? });
        }
        if offset <= 1 {
            entries.push(Entry { name: "..".to_owned(), next: 2, stat: self.stat(self.parent_of(ino)?)? });
        }
        let first = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        let batch = names.iter().enumerate().skip(first).take(BATCH).map(|(index, name)| (index, name.clone()));
        entries.extend(self.stat_all(ino, batch.collect()).await?);
        Ok(entries)
    }

    fn parent_of(&self, ino: Ino) -> Result<Ino> {
        Ok(match &self.tree().get(ino)?.place {
            Place::At { parent, .. } => *parent,
            Place::Root | Place::Gone | Place::Replaced { .. } => ino,
        })
    }

    /// A name that went away meanwhile is left out.
    async fn stat_all(&self, dir: Ino, names: Vec<(usize, String)>) -> Result<Vec<Entry>> {
        let lookups = futures::stream::iter(names)
            .map(|(index, name)| async move {
                let found = self.resolve(dir, &name).await;
                (index, name, found)
            })
            .buffered(PARALLEL);
        let mut entries = Vec::new();
        tokio::pin!(lookups);
        while let Some((index, name, result)) = lookups.next().await {
            let stat = match result.and_then(|ino| self.stat(ino)) {
                Ok(stat) => stat,
                Err(VolumeError::NotFound) => continue,
                Err(error) => return Err(error),
            };
            entries.push(Entry { name, next: index as u64 + 3, stat });
        }
        Ok(entries)
    }

    /// Returns when every operation acknowledged below the directory is done.
    pub(crate) async fn sync_directory(&self, ino: Ino) -> Result<()> {
        let Some(path) = self.tree().path(ino) else { return Ok(()) };
        let below = |other: &str| crate::volume::writeback::pending::is_below(other, &path);
        for seq in self.queue.outstanding(below) {
            self.wait_for(seq, FAILING_PATIENCE).await?;
        }
        Ok(())
    }
}
