//! Parts of a file that is being written go to S3 before it is closed, and come back when they are touched again.

use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt;

use crate::volume::Volume;
use crate::volume::breaker::Steps;
use crate::volume::cache::DataFile;
use crate::volume::cache::usage::Hold;
use crate::volume::content::{Content, State};
use crate::volume::error::{Result, VolumeError};
use crate::volume::failpoint;
use crate::volume::journal::{Record, Seq};
use crate::volume::spill::{Held, Place, Run};
use crate::volume::store::{Body, Condition, Etag, Headers, ObjectKey};
use crate::volume::tree::{self, Ino};

/// Parts sent at a time.
const BATCH: usize = 4;

/// A part that is to be sent, as it was when it was chosen.
#[derive(Debug)]
struct Chosen {
    index: u64,
    range: Range<u64>,
    data: Arc<DataFile>,
    written: Option<u64>,
}

impl Volume {
    /// Over half of the dirty limit a large file sends what it has complete.
    pub(crate) async fn spill_ahead(&self, content: &Content, limit: u64) {
        let large = content.state.read().await.data.as_ref().is_some_and(|data| data.bytes() > limit / 8);
        if large && !self.breaker.is_open() {
            self.spill(content).await;
        }
    }

    /// Makes room at the dirty limit: by parts of this file, or else of another. Whether any went.
    pub(crate) async fn spill_any(&self, content: &Content) -> bool {
        if self.spill(content).await > 0 {
            return true;
        }
        let others: Vec<_> = {
            let tree = self.tree();
            // Unlinked ones that are open are not dirty, but may have bytes all the same.
            let dirty = tree.nodes().filter(|(_, node)| node.dirty || node.place == tree::Place::Gone);
            dirty.filter_map(|(_, node)| node.content().ok()).collect()
        };
        for other in others {
            if self.spill(&other).await > 0 {
                return true;
            }
        }
        false
    }

    /// Sends some parts, the longest unwritten first. How many went; a failure is none.
    pub(crate) async fn spill(&self, content: &Content) -> usize {
        let chosen = self.choose(content, &*content.state.read().await);
        let sent = futures::stream::iter(chosen).map(|part| self.spill_part(content, part)).buffer_unordered(BATCH);
        let results: Vec<Result<bool>> = sent.collect().await;
        let mut gone = 0;
        for result in results {
            match result {
                Ok(true) => gone += 1,
                Ok(false) => {}
                Err(error) => tracing::info!(%error, "a part of an open file cannot be sent ahead"),
            }
        }
        gone
    }

    /// Whole parts that only the cache file has; never the one that was written last.
    fn choose(&self, content: &Content, state: &State) -> Vec<Chosen> {
        let (true, Some(data)) = (state.dirty, &state.data) else { return Vec::new() };
        if !self.is_ours_alone(content, data) {
            return Vec::new();
        }
        let newest = state.written.iter().max_by_key(|(_, written)| **written).map(|(index, _)| *index);
        let mut chosen: Vec<Chosen> = (0..self.cut.index(state.size))
            .filter(|index| Some(*index) != newest && state.spilled.get(*index).is_none())
            .map(|index| (index, self.cut.range(index)))
            .filter(|(_, range)| state.present.contains(range.clone()))
            .map(|(index, range)| {
                let written = state.written.get(&index).copied();
                Chosen { index, range, data: data.clone(), written }
            })
            .collect();
        chosen.sort_by_key(|part| part.written);
        chosen.truncate(BATCH);
        chosen
    }

    /// True when the part is in S3 only; false when it was written to meanwhile.
    async fn spill_part(&self, content: &Content, part: Chosen) -> Result<bool> {
        let key = self.spills.new_key()?;
        let (name, headers) = (ObjectKey::new(&key), Headers::default());
        let body = Body::file(&part.data.path, part.range.clone());
        let put = || self.store.put(&name, body.clone(), &headers, &Condition::Always);
        let etag = self.breaker.patiently(put).await?;
        failpoint::hit(failpoint::SPILL_PUT);
        let object = self.spills.hold(key, etag);
        let mut state = content.state.write().await;
        let same = state.data.as_ref().is_some_and(|data| Arc::ptr_eq(data, &part.data));
        let whole = part.range.end <= state.size;
        let same = same && self.is_ours_alone(content, &part.data);
        if !same || !whole || !state.dirty || state.written.get(&part.index).copied() != part.written {
            return Ok(false);
        }
        self.note_spilled(&state, &part, &object).await?;
        failpoint::hit(failpoint::SPILL_NOTED);
        state.spilled.insert(part.index, Place::new(object, part.range.start));
        state.present.remove(part.range.clone());
        part.data.punch(part.range)?;
        part.data.measure(Hold::Dirty)?;
        failpoint::hit(failpoint::SPILL_PUNCHED);
        Ok(true)
    }

    /// The journal knows, on disk, before the cache forgets. A file without a name needs no journal.
    async fn note_spilled(&self, state: &State, part: &Chosen, object: &Held) -> Result<()> {
        let Some(open) = state.open else { return Ok(()) };
        let (key, etag) = (object.key.clone(), object.etag.clone());
        let run = Run { key, etag, shift: part.range.start, first: part.index, count: 1 };
        let position = self.change_open(Record::Spill { seq: open, run })?;
        if let Err(error) = self.journal.sync(position).await {
            // The object goes with this error: the journal must not name it.
            self.note_unspilled(Some(open), part.index, 1)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Parts that are in the cache file are there only, from now on: somebody writes to them.
    pub(super) async fn unspill(&self, state: &mut State, parts: &[u64]) -> Result<()> {
        let Some(data) = state.data.clone().filter(|_| !parts.is_empty()) else { return Ok(()) };
        // What a close has promised must hold when the journal does not name the object any more.
        super::seal::sync_data(data).await?;
        failpoint::hit(failpoint::UNSPILL);
        for index in parts {
            self.note_unspilled(state.open, *index, 1)?;
            state.spilled.remove(*index);
        }
        Ok(())
    }

    pub(super) fn note_unspilled(&self, open: Option<Seq>, first: u64, count: u64) -> Result<()> {
        match open {
            Some(seq) => self.change_open(Record::Unspill { seq, first, count }).map(drop),
            None => Ok(()),
        }
    }

    /// Returns when every byte of a file is in the cache, or in an object of ours.
    pub(crate) async fn complete(&self, ino: Ino, content: &Arc<Content>) -> Result<()> {
        let incomplete = {
            let state = content.state.read().await;
            (!state.spilled.completes(&self.cut, &state.present, state.size)).then_some(state.size)
        };
        match incomplete {
            Some(size) if size > self.options.bounds.snapshot_bytes() => self.snapshot(ino, content).await,
            Some(_) => self.ensure_all(ino, content).await,
            None => Ok(()),
        }
    }

    /// A large file of which the cache has only some, or none, is not fetched before it is written to: S3 makes a copy of
    /// this version for us alone, and all parts are spilled.
    async fn snapshot(&self, ino: Ino, content: &Arc<Content>) -> Result<()> {
        let size = self.tree().get(ino)?.remote.as_ref().ok_or(VolumeError::Stale)?.size;
        let key = self.spills.new_key()?;
        let (to, headers, steps) = (ObjectKey::new(&key), Headers::default(), Steps::default());
        let copy = async |from: ObjectKey, etag: Etag| {
            self.copy_in_steps((&from, &etag), size, &to, &headers, &Condition::Always, &steps).await
        };
        let (copied, etag) = self.of_version_in_steps(ino, &steps, copy).await?;
        let object = self.spills.hold(key, copied);
        let mut state = content.state.write().await;
        if self.remote_is(ino, &etag) && state.size == size && !state.dirty {
            // Those that are in the cache too: they may be evicted before the file is written to.
            for index in self.cut.indices(&(0..size)) {
                if state.spilled.get(index).is_none() {
                    state.spilled.insert(index, Place::new(object.clone(), 0));
                }
            }
        }
        Ok(())
    }
}
