//! What is acknowledged is in the page cache first, which survives this process. This brings it to the local disk, which
//! survives the machine, about a second later and in groups: the cache files of sealed operations, then the record that
//! says so, then the journal. Only then go the cache files that the journal on disk still named.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Table;
use crate::volume::Volume;
use crate::volume::cache::DataFile;
use crate::volume::failpoint;
use crate::volume::journal::{Op, Position, Record, Seq};

/// Between two groups.
const PAUSE: Duration = Duration::from_secs(1);

/// What the disk does not have, or perhaps not.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Operations and the bytes they need.
    files: Vec<(Seq, Weak<DataFile>)>,
    /// The end of the last operation on a path.
    ended: HashMap<String, Position>,
    /// The end of the last operation on a whole directory.
    ended_below: Position,
}

impl Unsettled {
    pub(super) fn add(&mut self, seq: Seq, data: &Arc<DataFile>) {
        self.files.push((seq, Arc::downgrade(data)));
    }

    /// `op` has ended, and the journal says so at `position`.
    pub(super) fn end(&mut self, op: &Op, position: Position) {
        for path in op.paths() {
            self.ended.insert(path.to_owned(), position);
        }
        if op.is_subtree() {
            self.ended_below = position;
        }
    }

    /// The last end that `op` builds on.
    fn before(&self, op: &Op) -> Position {
        let ends = op.paths().into_iter().filter_map(|path| self.ended.get(path).copied());
        ends.max().unwrap_or_default().max(self.ended_below)
    }
}

impl Volume {
    /// Brings what is new to the disk, group by group, until the volume closes.
    pub(crate) async fn bring_to_disk(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            if let Err(error) = self.settle_group().await {
                tracing::error!(%error, "the local disk does not take what is to survive the machine");
            }
        }
    }

    /// The end of the volume in good order: files that were never closed are brought to the disk as well.
    pub(crate) async fn settle_all(&self) -> io::Result<()> {
        let contents: Vec<_> = {
            let tree = self.tree();
            tree.nodes().filter(|(_, node)| node.dirty).filter_map(|(_, node)| node.content().ok()).collect()
        };
        for content in contents {
            let state = content.state.read().await;
            if let (Some(open), Some(data)) = (state.open, &state.data) {
                self.queue.table.lock().unsettled.add(open, data);
            }
        }
        self.settle_group().await
    }

    /// Returns when everything that was acknowledged before is on disk.
    async fn settle_group(&self) -> io::Result<()> {
        let _settling = self.queue.settling.lock().await;
        let graves = self.cache.take_graves();
        let files = std::mem::take(&mut self.queue.table.lock().unsettled.files);
        let files: Vec<_> = files.into_iter().filter_map(|(seq, data)| Some((seq, data.upgrade()?))).collect();
        if files.is_empty() && graves.is_empty() && self.journal.has_synced(self.journal.position()) {
            return Ok(());
        }
        let synced = self.sync_files(files).await?;
        failpoint::hit(failpoint::SETTLE_SYNCED);
        self.note_on_disk(synced)?;
        self.journal.sync_all().await?;
        failpoint::hit(failpoint::SETTLED);
        graves.bury();
        let synced = |position: &Position| self.journal.has_synced(*position);
        self.queue.table.lock().unsettled.ended.retain(|_, position| !synced(position));
        Ok(())
    }

    /// Those whose bytes are on disk. One that cannot be synced is never tried again: the kernel may have dropped its
    /// pages, and a later success would prove nothing.
    async fn sync_files(&self, files: Vec<(Seq, Arc<DataFile>)>) -> io::Result<Vec<Seq>> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let cache = self.cache.clone();
        let sync = move || {
            let results = cache.sync(files.iter().map(|(_, data)| &**data));
            let (seqs, errors): (Vec<_>, Vec<_>) = files.iter().zip(results).partition(|(_, result)| result.is_ok());
            for ((seq, _), error) in errors {
                tracing::error!(%seq, ?error, "a cache file cannot be brought to the disk");
            }
            seqs.into_iter().map(|((seq, _), _)| *seq).collect()
        };
        tokio::task::spawn_blocking(sync).await.map_err(io::Error::other)
    }

    /// The bytes of these operations are on disk. The record itself is, when the journal is synced.
    pub(crate) fn note_on_disk(&self, seqs: Vec<Seq>) -> io::Result<()> {
        let mut table = self.queue.table.lock();
        let seqs: Vec<Seq> = seqs.into_iter().filter(|seq| table.is_unfinished(*seq)).collect();
        if !seqs.is_empty() {
            self.journal.append(&Record::Synced { seqs: seqs.clone() })?;
            table.on_disk.extend(seqs);
        }
        Ok(())
    }

    /// Returns when the disk knows the end of what `op` builds on. Else somebody who replays the journal after a power
    /// loss would do again what `op` has followed upon: put a file back that it deleted, or take its version for
    /// somebody else's. What has several steps is known itself.
    pub(super) async fn remember_before(&self, op: &Op) {
        let position =
            if op.has_steps() { self.journal.position() } else { self.queue.table.lock().unsettled.before(op) };
        if self.journal.has_synced(position) {
            return;
        }
        if let Err(error) = self.journal.sync(position).await {
            // S3 is the safer place now.
            tracing::error!(%error, "the journal cannot be synced");
        }
    }

    /// Returns when the journal on disk does not need the bytes of a cache file any more.
    pub(crate) async fn await_release(&self, data: &DataFile) -> io::Result<()> {
        match self.is_released(data) {
            true => Ok(()),
            false => self.journal.sync(data.needed_until()).await,
        }
    }

    /// Whether the bytes of a cache file may be changed or dropped: the journal on disk does not need them.
    pub(crate) fn is_released(&self, data: &DataFile) -> bool {
        self.journal.has_synced(data.needed_until())
    }
}

impl Table {
    fn is_unfinished(&self, seq: Seq) -> bool {
        self.pending.contains(seq) || self.open.contains_key(&seq)
    }
}

#[cfg(test)]
mod tests;
