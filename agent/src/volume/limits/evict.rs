//! Making room in the cache: parts that S3 has go, the least recently read first.

use std::sync::Arc;
use std::time::Instant;

use crate::volume::Volume;
use crate::volume::cache::DataFile;
use crate::volume::cache::extents::Extents;
use crate::volume::cache::usage::Hold;
use crate::volume::content::{Content, State};
use crate::volume::tree::{Ino, Place};

/// A full cache is emptied to this share of its bound, so that eviction is rare.
const EVICT_TO_PERCENT: u64 = 90;

/// A part of a file that may go.
struct Candidate {
    ino: Ino,
    content: Arc<Content>,
    part: u64,
    /// S3 has the file as it is.
    clean: bool,
    last_use: Option<Instant>,
}

impl Volume {
    /// Makes room for `bytes` more when the cache is at its bound.
    pub(crate) async fn make_room(&self, bytes: u64) {
        let bound = self.options.bounds.cache_bytes;
        let usage = self.cache.usage();
        if usage.clean() + usage.dirty() + bytes > bound {
            self.evict((bound / 100 * EVICT_TO_PERCENT).saturating_sub(bytes)).await;
        }
    }

    /// Drops parts until the cache takes at most `target` bytes, or nothing more may go.
    pub(crate) async fn evict(&self, target: u64) {
        // Somebody who does it already perhaps does it for all.
        let _evicting = self.limits.evicting.lock().await;
        let usage = self.cache.usage();
        let is_enough = || usage.clean() + usage.dirty() <= target;
        if is_enough() {
            return;
        }
        // What was uploaded a moment ago may go only when the disk knows of that.
        if let Err(error) = self.journal.sync_all().await {
            tracing::warn!(%error, "the journal cannot be synced, what it names stays in the cache");
        }
        self.drop_parts(|_| true, is_enough).await;
    }

    /// Drops parts of files that are being written and that are in objects of ours too, until at most `target` bytes are
    /// dirty. Whether any went.
    pub(crate) async fn evict_spilled(&self, target: u64) -> bool {
        let _evicting = self.limits.evicting.lock().await;
        let usage = self.cache.usage();
        let before = usage.dirty();
        self.drop_parts(|candidate| !candidate.clean, || usage.dirty() <= target).await;
        usage.dirty() < before
    }

    /// Drops what is `wanted`, the least recently read first, until that `is_enough`.
    async fn drop_parts(&self, wanted: impl Fn(&Candidate) -> bool, is_enough: impl Fn() -> bool) {
        let mut candidates = self.candidates().await;
        candidates.retain(wanted);
        candidates.sort_by_key(|candidate| candidate.last_use);
        for candidate in candidates {
            if is_enough() {
                return;
            }
            self.drop_part(&candidate).await;
        }
    }

    /// Drops everything that S3 has.
    #[cfg(test)]
    pub(crate) async fn evict_all(&self) {
        self.evict(0).await;
    }

    async fn candidates(&self) -> Vec<Candidate> {
        let contents: Vec<(Ino, Arc<Content>)> = {
            let tree = self.tree();
            tree.nodes().filter_map(|(ino, node)| Some((ino, node.content().ok()?))).collect()
        };
        let mut candidates = Vec::new();
        for (ino, content) in contents {
            let state = content.state.read().await;
            if !state.data.as_ref().is_some_and(|data| self.is_ours_alone(&content, data)) {
                continue;
            }
            let clean = self.is_clean(ino, &state);
            let parts = parts_of(&state.present, self);
            let droppable = parts.into_iter().filter(|part| clean || state.spilled.get(*part).is_some());
            candidates.extend(droppable.map(|part| Candidate {
                ino,
                content: content.clone(),
                part,
                clean,
                last_use: content.last_use(part),
            }));
        }
        candidates
    }

    /// Whether S3 has what the inode shows. It does not have for ever what somebody replaced or unlinked.
    pub(crate) fn is_clean(&self, ino: Ino, state: &State) -> bool {
        let tree = self.tree();
        let Ok(node) = tree.get(ino) else { return false };
        let uploaded = state.sealed.is_none_or(|sealed| node.uploaded >= Some(sealed));
        let named = matches!(node.place, Place::At { .. });
        named && !state.dirty && uploaded && node.error.is_none() && node.remote.is_some()
    }

    async fn drop_part(&self, candidate: &Candidate) {
        let mut state = candidate.content.state.write().await;
        let clean = self.is_clean(candidate.ino, &state);
        if !clean && state.spilled.get(candidate.part).is_none() {
            return;
        }
        let ours = |data: &Arc<DataFile>| self.is_ours_alone(&candidate.content, data) && self.is_released(data);
        let Some(data) = state.data.clone().filter(ours) else { return };
        let range = self.cut.range(candidate.part);
        state.present.remove(range.clone());
        if clean && state.present == Extents::default() {
            state.data = None;
            data.note_unnamed();
        } else if let Err(error) = data.punch(range) {
            tracing::warn!(%error, "a part of a cache file cannot be dropped");
        }
        candidate.content.forget_use(candidate.part);
        // A file that S3 has and that is still counted as dirty was uploaded just now.
        let hold = if clean { Hold::Clean } else { Hold::Dirty };
        if let Err(error) = data.measure(hold) {
            tracing::warn!(%error, "a cache file cannot be measured");
        }
    }
}

/// The parts of which some bytes are in the set.
fn parts_of(present: &Extents, volume: &Volume) -> Vec<u64> {
    let mut parts: Vec<u64> = present.iter().flat_map(|range| volume.cut.indices(&range)).collect();
    parts.dedup();
    parts
}
