//! Reading directories. The names are those at the start of the reading; their attributes are asked for ahead of the
//! reader, many at a time, in the order of the names.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::Stat;
use crate::volume::Volume;
use crate::volume::error::{Result, VolumeError};
use crate::volume::handle::Handle;
use crate::volume::tree::{Ino, Known, Place};
use crate::volume::version::Answer;
use crate::volume::writeback::FAILING_PATIENCE;

/// Names that are asked about ahead of the reader.
const AHEAD: usize = 512;
/// So many of them are asked about at once: half of it when half of it is used up.
const REFILL: usize = AHEAD / 2;
/// After this a directory that somebody else lists is listed again.
const LISTING: Duration = Duration::from_millis(500);

/// One name; `next` is the offset to go on from.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) next: u64,
    pub(crate) stat: Stat,
}

/// How far somebody is in a directory.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// As they were when it began.
    names: Option<Arc<[String]>>,
    /// Names that are being asked about, by their place. Who stops reading stops asking.
    ahead: BTreeMap<usize, AbortOnDropHandle<Result<Option<Answer>>>>,
    /// The first that was not asked about yet.
    asked: usize,
}

impl Volume {
    pub(crate) fn open_directory(&self, ino: Ino) -> Result<u64> {
        self.tree().get(ino)?.dir()?;
        self.handles.insert(Handle::Dir(Arc::default()))
    }

    /// Gives entries from `offset` on to `take`, `.` and `..` first, until it says that one did not fit, or there are no
    /// more. The kernel gets no references yet.
    pub(crate) async fn read_directory(
        &self,
        ino: Ino,
        handle: u64,
        offset: u64,
        mut take: impl FnMut(Entry) -> bool + Send,
    ) -> Result<()> {
        let Handle::Dir(reading) = self.handles.get(handle)? else { return Err(VolumeError::BadHandle) };
        let mut reading = reading.lock().await;
        let names = self.names_from(ino, &mut reading, offset).await?;
        if offset == 0 && take(Entry { name: ".".to_owned(), next: 1, stat: self.stat(ino)? }) {
            return Ok(());
        }
        if offset <= 1 && take(Entry { name: "..".to_owned(), next: 2, stat: self.stat(self.parent_of(ino)?)? }) {
            return Ok(());
        }
        let first = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        let mut taken = offset <= 1;
        for (index, name) in names.iter().enumerate().skip(first) {
            self.ask_ahead(ino, &names, &mut reading, index);
            let answer = match reading.ahead.remove(&index) {
                Some(asked) => asked.await.ok().and_then(Result::ok).flatten(),
                None => None,
            };
            // In the order of the names, and so are the inodes: some programs go by that.
            let found = match answer {
                Some(answer) => self.resolve_by(ino, name, answer).await,
                None => self.resolve(ino, name).await,
            };
            let stat = match found.and_then(|ino| self.stat(ino)) {
                Ok(stat) => stat,
                // It went away meanwhile.
                Err(VolumeError::NotFound) => continue,
                // What was taken is not taken back: whoever goes on from here gets the error.
                Err(_) if taken => return Ok(()),
                Err(error) => return Err(error),
            };
            if take(Entry { name: name.clone(), next: index as u64 + 3, stat }) {
                return Ok(());
            }
            taken = true;
        }
        Ok(())
    }

    async fn names_from(&self, ino: Ino, reading: &mut Reading, offset: u64) -> Result<Arc<[String]>> {
        match &reading.names {
            Some(names) if offset > 0 => Ok(names.clone()),
            _ => {
                self.walk_descends(ino);
                self.listed_ahead(ino).await?;
                self.list(ino, false).await?;
                self.believe_record(ino).await;
                let names: Arc<[String]> = self.tree().names(ino)?.into();
                *reading = Reading { names: Some(names.clone()), ..Reading::default() };
                Ok(names)
            }
        }
    }

    /// Waits for who lists the directory already, not longer than that takes when all is well.
    async fn listed_ahead(&self, ino: Ino) -> Result<()> {
        let listing = self.tree().get(ino)?.dir()?.listing.clone();
        if listing.try_lock().is_err() {
            let _ = tokio::time::timeout(LISTING, listing.lock()).await;
        }
        Ok(())
    }

    /// Sees to it that the names after `index` are being asked about.
    fn ask_ahead(&self, dir: Ino, names: &Arc<[String]>, reading: &mut Reading, index: usize) {
        reading.asked = reading.asked.max(index);
        if reading.asked - index > REFILL || reading.asked >= names.len() {
            return;
        }
        let Some(volume) = self.this.get().and_then(Weak::upgrade) else { return };
        reading.ahead = reading.ahead.split_off(&index);
        let next = reading.asked..names.len().min(index + AHEAD);
        reading.asked = next.end;
        let tree = self.tree();
        let unknown = next.filter(|index| matches!(tree.knows(dir, &names[*index]), Ok(Known::Ask(_))));
        let before = reading.ahead.len();
        reading.ahead.extend(unknown.map(|index| {
            let (volume, names) = (volume.clone(), names.clone());
            let asking = async move {
                let _slot = volume.reading.acquire().await.map_err(|_| VolumeError::Closing)?;
                volume.ask_early(dir, &names[index]).await
            };
            (index, AbortOnDropHandle::new(tokio::spawn(asking)))
        }));
        drop(tree);
        if reading.ahead.len() > before {
            self.records.note(dir);
        }
    }

    fn parent_of(&self, ino: Ino) -> Result<Ino> {
        Ok(match &self.tree().get(ino)?.place {
            Place::At { parent, .. } => *parent,
            Place::Root | Place::Gone | Place::Replaced { .. } => ino,
        })
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
