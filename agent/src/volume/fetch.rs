//! Reads that miss: bytes of one version, pinned by its ETag, into the cache file.
//!
//! A small file comes whole; of a large one, a sequential reader gets a window that doubles.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::Volume;
use super::cache::DataFile;
use super::content::{Content, State, Window};
use super::error::{Result, VolumeError};
use super::limits::is_full;
use super::spill::{Place, Spilled};
use super::store::{Etag, ObjectKey, StoreError};
use super::tree::Ino;

/// One ranged GET.
const PIECE: u64 = 4 << 20;
/// Files up to this size are fetched whole at their first miss.
const WHOLE: u64 = 32 << 20;
const FIRST_WINDOW: u64 = 8 << 20;
const LARGEST_WINDOW: u64 = 64 << 20;
/// GETs of one file at a time.
const PARALLEL: usize = 8;
/// How often a version is looked for again when it was moved meanwhile.
const MOVES: usize = 3;

/// Bytes to be fetched: from the inode's object, or from one of this volume's own.
#[derive(Debug)]
struct Piece {
    range: Range<u64>,
    spilled: Option<Place>,
}

impl Volume {
    /// Returns when `range` of the inode's version is in its cache file, for now. [`VolumeError::Stale`] when somebody
    /// else replaced the object and these bytes were not fetched before.
    pub(crate) async fn ensure(&self, ino: Ino, content: &Content, range: Range<u64>) -> Result<()> {
        content.note_use(&self.cut, &range);
        let mut window = content.fetching.lock().await;
        let (pieces, size) = {
            let mut state = content.state.write().await;
            self.forget_spilled(ino, &mut state);
            if state.has(range.clone()) {
                return Ok(());
            }
            let gaps = state.present.missing(widen(&state.clamp(range), state.size, &mut window));
            (self.pieces(&state, &gaps), state.size)
        };
        // Before, and not after: what was fetched must stay until it is read.
        self.make_room(pieces.iter().map(|piece| piece.range.end - piece.range.start).sum()).await;
        let data = self.data_file(content, size).await?;
        let mut fetched = futures::stream::iter(pieces)
            .map(|piece| self.fetch_piece(ino, content, &data, piece))
            .buffer_unordered(PARALLEL);
        while fetched.try_next().await?.is_some() {}
        Ok(())
    }

    /// Returns when all of the inode's version is in its cache file, or spilled.
    pub(crate) async fn ensure_all(&self, ino: Ino, content: &Content) -> Result<()> {
        loop {
            let gap = {
                let state = content.state.read().await;
                let gaps = state.present.missing(0..state.size);
                gaps.into_iter().find(|gap| !self.cut.indices(gap).all(|index| state.spilled.get(index).is_some()))
            };
            match gap {
                Some(gap) => self.ensure(ino, content, gap).await?,
                None => return Ok(()),
            }
        }
    }

    /// After an upload: what was spilled of the file goes.
    pub(crate) async fn release_spilled(&self, ino: Ino) {
        let content = self.tree().get(ino).and_then(|node| node.content()).ok();
        if let Some(content) = content {
            self.forget_spilled(ino, &mut *content.state.write().await);
        }
    }

    /// What was spilled of a file is not needed any more when the upload that was made of it is done.
    pub(crate) fn forget_spilled(&self, ino: Ino, state: &mut State) {
        if state.sealed.is_some() && self.is_clean(ino, state) {
            state.spilled = Spilled::default();
            state.sealed = None;
        }
    }

    fn pieces(&self, state: &State, gaps: &[Range<u64>]) -> Vec<Piece> {
        let whole = gaps.iter().flat_map(split);
        if state.spilled.is_empty() {
            return whole.map(|range| Piece { range, spilled: None }).collect();
        }
        let parts = whole.flat_map(|range| {
            let parts = self.cut.indices(&range);
            parts.map(move |index| (index, range.clone()))
        });
        let clip = |(index, range): (u64, Range<u64>)| {
            let part = self.cut.range(index);
            let range = range.start.max(part.start)..range.end.min(part.end);
            Piece { range, spilled: state.spilled.get(index).cloned() }
        };
        parts.map(clip).collect()
    }

    async fn data_file(&self, content: &Content, size: u64) -> Result<Arc<DataFile>> {
        let mut state = content.state.write().await;
        if let Some(data) = &state.data {
            return Ok(data.clone());
        }
        let data = self.cache.create()?;
        data.file.set_len(size)?;
        state.data = Some(data.clone());
        Ok(data)
    }

    async fn fetch_piece(&self, ino: Ino, content: &Content, data: &Arc<DataFile>, piece: Piece) -> Result<()> {
        let length = piece.range.end - piece.range.start;
        // Twice: the client gathers what it reads, and hands it over in one.
        let _memory = self.limits.memory(2 * length).await?;
        let bytes = match &piece.spilled {
            Some(place) => self.fetch_spilled(place, &piece.range).await?,
            None => self.fetch_version(ino, &piece.range).await?,
        };
        if bytes.len() as u64 != length {
            return Err(VolumeError::Stale);
        }
        match self.keep(content, data, &piece.range, &bytes).await {
            Err(error) if is_full(&error) => {
                self.evict(0).await;
                Ok(self.keep(content, data, &piece.range, &bytes).await?)
            }
            result => Ok(result?),
        }
    }

    async fn fetch_spilled(&self, place: &Place, range: &Range<u64>) -> Result<Bytes> {
        let key = ObjectKey::new(&place.object.key);
        self.breaker.patiently(|| self.store.get_range(&key, &place.object.etag, place.within(range))).await
    }

    async fn fetch_version(&self, ino: Ino, range: &Range<u64>) -> Result<Bytes> {
        let mut tried = None;
        for _ in 0..MOVES {
            let (path, etag) = self.remote_of(ino)?;
            if tried.as_ref() == Some(&(path.clone(), etag.clone())) {
                // Perhaps it was moved by an earlier process, and only the move that is being repeated will tell.
                if self.settled(ino).await? {
                    continue;
                }
                break;
            }
            let key = ObjectKey::new(path.as_str());
            match self.breaker.patiently(|| self.store.get_range(&key, &etag, range.clone())).await {
                Err(VolumeError::Store(StoreError::NotFound(_) | StoreError::Conflict(_))) => {
                    tried = Some((path, etag));
                }
                result => return result,
            }
        }
        // Whoever looks the name up next must ask.
        self.tree().get_mut(ino)?.checked = None;
        Err(VolumeError::Stale)
    }

    fn remote_of(&self, ino: Ino) -> Result<(String, Etag)> {
        let tree = self.tree();
        let remote = tree.get(ino)?.remote.as_ref().ok_or(VolumeError::Stale)?;
        Ok((remote.path.clone(), remote.etag.clone()))
    }

    /// Whether the inode shows this version of its object.
    pub(crate) fn remote_is(&self, ino: Ino, etag: &Etag) -> bool {
        self.remote_of(ino).is_ok_and(|(_, now)| now == *etag)
    }

    /// Puts a whole version into the cache file.
    pub(crate) fn fill(&self, state: &mut State, bytes: &Bytes) -> Result<()> {
        let data = state.data.clone().map_or_else(|| self.cache.create(), Ok)?;
        data.file.write_all_at(bytes, 0)?;
        state.present.insert(0..state.size);
        data.remeasure()?;
        state.data = Some(data);
        Ok(())
    }

    /// Puts what was fetched into the cache file, where that still lacks it and the file still has it.
    async fn keep(
        &self,
        content: &Content,
        data: &Arc<DataFile>,
        range: &Range<u64>,
        bytes: &Bytes,
    ) -> std::io::Result<()> {
        let mut state = content.state.write().await;
        if !state.data.as_ref().is_some_and(|now| Arc::ptr_eq(now, data)) {
            return Ok(());
        }
        for gap in state.present.missing(state.clamp(range.clone())) {
            let within = |at: u64| usize::try_from(at - range.start).map_err(std::io::Error::other);
            data.file.write_all_at(&bytes[within(gap.start)?..within(gap.end)?], gap.start)?;
            state.present.insert(gap);
        }
        data.remeasure()
    }
}

/// What to fetch for a reader who misses `range`.
fn widen(range: &Range<u64>, size: u64, window: &mut Window) -> Range<u64> {
    if size <= WHOLE {
        return 0..size;
    }
    let sequential = window.length > 0 && range.start >= window.end.saturating_sub(PIECE) && range.start <= window.end;
    let length = if sequential { (window.length * 2).min(LARGEST_WINDOW) } else { FIRST_WINDOW };
    let start = range.start / PIECE * PIECE;
    let end = range.end.max(start + length).next_multiple_of(PIECE).min(size);
    *window = Window { end, length };
    start..end
}

fn split(gap: &Range<u64>) -> Vec<Range<u64>> {
    let mut pieces = Vec::new();
    let mut at = gap.start;
    while at < gap.end {
        let end = ((at / PIECE + 1) * PIECE).min(gap.end);
        pieces.push(at..end);
        at = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;

    #[test]
    fn small_files_come_whole_and_windows_double() {
        let mut window = Window::default();
        assert_eq!(widen(&(10..20), 1000, &mut window), 0..1000);
        assert_eq!(widen(&(0..4096), SIZE, &mut window), 0..FIRST_WINDOW);
        assert_eq!(widen(&(FIRST_WINDOW..FIRST_WINDOW + 1), SIZE, &mut window), FIRST_WINDOW..3 * FIRST_WINDOW);
        let far = 100 * PIECE + 5;
        assert_eq!(widen(&(far..far + 1), SIZE, &mut window), 100 * PIECE..100 * PIECE + FIRST_WINDOW);
        assert_eq!(widen(&(SIZE - 1..SIZE), SIZE, &mut window).end, SIZE);
    }

    #[test]
    fn pieces_are_aligned() {
        let gap = 1..2 * PIECE + 3;
        assert_eq!(split(&gap), [1..PIECE, PIECE..2 * PIECE, 2 * PIECE..2 * PIECE + 3]);
    }
}
