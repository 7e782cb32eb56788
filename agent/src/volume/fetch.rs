//! Reads that miss: bytes of one version, pinned by its ETag, into the cache file.
//!
//! A small file comes whole; of a large one, a sequential reader gets a window that doubles.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::Volume;
use super::cache::DataFile;
use super::content::{Content, Window};
use super::error::{Result, VolumeError};
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

impl Volume {
    /// Returns when `range` of the inode's version is in its cache file. [`VolumeError::Stale`] when somebody else
    /// replaced the object and these bytes were not fetched before.
    pub(crate) async fn ensure(&self, ino: Ino, content: &Content, range: Range<u64>) -> Result<()> {
        let mut window = content.fetching.lock().await;
        let (gaps, size) = {
            let state = content.state.read().await;
            let range = state.clamp(range.clone());
            if state.dirty || state.present.contains(range.clone()) {
                return Ok(());
            }
            (state.present.missing(widen(&range, state.size, &mut window)), state.size)
        };
        let data = self.data_file(content, size).await?;
        for piece in self.fetch_pieces(ino, &data, &gaps).await? {
            self.keep(content, &data, piece).await;
        }
        self.after_fetch(gaps.iter().map(|gap| gap.end - gap.start).sum()).await;
        Ok(())
    }

    /// Returns when all of the inode's version is in its cache file.
    pub(crate) async fn ensure_all(&self, ino: Ino, content: &Content) -> Result<()> {
        loop {
            let size = {
                let state = content.state.read().await;
                if state.is_complete() {
                    return Ok(());
                }
                state.size
            };
            self.ensure(ino, content, 0..size).await?;
        }
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

    async fn fetch_pieces(&self, ino: Ino, data: &DataFile, gaps: &[Range<u64>]) -> Result<Vec<Range<u64>>> {
        let pieces: Vec<_> = gaps.iter().flat_map(split).collect();
        futures::stream::iter(pieces)
            .map(|piece| self.fetch_piece(ino, data, piece))
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn fetch_piece(&self, ino: Ino, data: &DataFile, piece: Range<u64>) -> Result<Range<u64>> {
        let mut tried = None;
        for _ in 0..MOVES {
            let (path, etag) = self.remote_of(ino)?;
            if tried.as_ref() == Some(&(path.clone(), etag.clone())) {
                break;
            }
            let key = ObjectKey::new(path.as_str());
            match self.breaker.patiently(|| self.store.get_range(&key, &etag, piece.clone())).await {
                Ok(bytes) if bytes.len() as u64 == piece.end - piece.start => {
                    data.file.write_all_at(&bytes, piece.start)?;
                    return Ok(piece);
                }
                Ok(_) => return Err(VolumeError::Stale),
                Err(VolumeError::Store(StoreError::NotFound(_) | StoreError::Conflict(_))) => {
                    tried = Some((path, etag));
                }
                Err(error) => return Err(error),
            }
        }
        Err(VolumeError::Stale)
    }

    fn remote_of(&self, ino: Ino) -> Result<(String, Etag)> {
        let tree = self.tree();
        let remote = tree.get(ino)?.remote.as_ref().ok_or(VolumeError::Stale)?;
        Ok((remote.path.clone(), remote.etag.clone()))
    }

    async fn keep(&self, content: &Content, data: &Arc<DataFile>, piece: Range<u64>) {
        let mut state = content.state.write().await;
        if state.data.as_ref().is_some_and(|now| Arc::ptr_eq(now, data)) {
            state.present.insert(piece);
        }
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
