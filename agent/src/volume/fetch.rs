//! Reads that miss: bytes of one version, pinned by its ETag, into the cache file.
//!
//! A reader waits for what he asked for, in a piece of its own; what comes after it is fetched behind his back
//! ([`ahead`], by the [`pattern`] of the file's readers). Whatever is under way is fetched once ([`flights`]).

mod ahead;
mod flights;
mod landing;
pub(crate) mod pattern;

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::watch;

pub(crate) use self::flights::Flights;
use self::flights::Waiter;
use self::landing::Landing;
use super::Volume;
use super::breaker::Steps;
use super::cache::DataFile;
use super::content::{Content, Moment, State};
use super::error::{Result, VolumeError};
use super::spill::{Place, Spilled};
use super::store::{Etag, ObjectKey, StoreError};
use super::tree::Ino;

/// The largest ranged GET.
pub(crate) const PIECE: u64 = 8 << 20;
/// Of a piece that is on its way, so much is in memory at most: the rest is in the cache file, or not here yet.
pub(crate) const IN_HAND: u64 = 2 << 20;
/// What a reader waits for is a multiple of this.
const STEP: u64 = 256 << 10;
/// Of files up to this size a reader waits for all.
const SMALL: u64 = 1 << 20;
/// Pieces of one file that are waited for at a time.
const PARALLEL: usize = 8;
/// How often a version is looked for again when it was moved, or got new headers, meanwhile: several operations on one
/// file may be on their way.
const MOVES: usize = 8;
/// How often bytes are fetched again that were evicted or changed before they were read.
const TURNS: usize = 100;

/// Bytes on their way: from the inode's object, or from one of this volume's own.
#[derive(Debug)]
struct Flight {
    content: Arc<Content>,
    range: Range<u64>,
    spilled: Option<Place>,
    /// When the file was as it was to be fetched.
    moment: Moment,
    /// How far the bytes are there. Dropped last: then those who wait go on.
    reached: watch::Sender<u64>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.content.flights.lock().land(&self.range);
    }
}

impl Volume {
    /// Returns when `range` of the inode's version is in its cache file, for now. [`VolumeError::Stale`] when somebody
    /// else replaced the object and these bytes were not fetched before.
    pub(crate) async fn ensure(&self, ino: Ino, content: &Arc<Content>, range: Range<u64>) -> Result<()> {
        content.note_use(&self.cut, &range);
        for _ in 0..TURNS {
            let (others, own) = {
                let mut state = content.state.write().await;
                self.forget_spilled(ino, &mut state);
                let gaps = state.present.missing(state.clamp(range.clone()));
                if gaps.is_empty() {
                    return Ok(());
                }
                self.board(content, &state, &gaps)
            };
            let mut own =
                futures::stream::iter(own).map(|flight| self.fly(ino, content, flight)).buffer_unordered(PARALLEL);
            while own.try_next().await?.is_some() {}
            for other in others {
                other.wait().await;
            }
        }
        Err(VolumeError::TimedOut)
    }

    /// Those to wait for, and flights for what nobody fetches yet.
    fn board(&self, content: &Arc<Content>, state: &State, gaps: &[Range<u64>]) -> (Vec<Waiter>, Vec<Flight>) {
        let mut flights = content.flights.lock();
        let others = gaps.iter().flat_map(|gap| flights.waiters(gap)).collect();
        let mut own = Vec::new();
        for wanted in gaps.iter().map(|gap| around(gap, state.size)) {
            for gap in state.present.missing(wanted) {
                for piece in flights.free(&gap).iter().flat_map(|free| self.pieces(state, free)) {
                    own.push(self.take_off(content, &mut flights, state, piece));
                }
            }
        }
        (others, own)
    }

    /// A flight for `piece`, which is in one part if the file has spilled ones.
    fn take_off(&self, content: &Arc<Content>, flights: &mut Flights, state: &State, piece: Range<u64>) -> Flight {
        let spilled = state.spilled.get(self.cut.index(piece.start)).cloned();
        let (moment, reached) = (state.moment(), flights.begin(&piece));
        Flight { content: content.clone(), range: piece, spilled, moment, reached }
    }

    /// Returns when all of the inode's version is in its cache file, or spilled.
    pub(crate) async fn ensure_all(&self, ino: Ino, content: &Arc<Content>) -> Result<()> {
        loop {
            let gaps: Vec<Range<u64>> = {
                let state = content.state.read().await;
                let gaps = state.present.missing(0..state.size);
                let gaps = gaps.iter().flat_map(|gap| self.pieces(&state, gap));
                gaps.filter(|gap| state.spilled.get(self.cut.index(gap.start)).is_none()).collect()
            };
            if gaps.is_empty() {
                return Ok(());
            }
            let fetches = futures::stream::iter(gaps).map(|gap| self.ensure(ino, content, gap));
            fetches.buffer_unordered(PARALLEL).try_collect::<()>().await?;
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

    /// A gap in pieces, none of them in two parts if some are spilled.
    fn pieces(&self, state: &State, gap: &Range<u64>) -> Vec<Range<u64>> {
        let whole = split(gap);
        if state.spilled.is_empty() {
            return whole;
        }
        let clip = |range: &Range<u64>, index| {
            let part = self.cut.range(index);
            range.start.max(part.start)..range.end.min(part.end)
        };
        whole.iter().flat_map(|range| self.cut.indices(range).map(|index| clip(range, index))).collect()
    }

    async fn data_file(&self, content: &Content) -> Result<Arc<DataFile>> {
        let mut state = content.state.write().await;
        if let Some(data) = &state.data {
            return Ok(data.clone());
        }
        let data = self.cache.create()?;
        data.file.set_len(state.size)?;
        state.data = Some(data.clone());
        Ok(data)
    }

    async fn fly(&self, ino: Ino, content: &Content, flight: Flight) -> Result<()> {
        let length = flight.range.end - flight.range.start;
        let _memory = self.limits.memory(length.min(IN_HAND)).await?;
        // Before, and not after: what was fetched must stay until it is read.
        self.make_room(length).await;
        let data = self.data_file(content).await?;
        let landing = Landing::new(self, content, data, &flight);
        match &flight.spilled {
            Some(place) => self.fetch_spilled(place, &landing).await?,
            None => self.fetch_version(ino, &landing).await?,
        }
        landing.end()
    }

    async fn fetch_spilled(&self, place: &Place, landing: &Landing<'_>) -> Result<()> {
        let (key, etag) = (ObjectKey::new(&place.object.key), &place.object.etag);
        let read = || self.store.read_range(&key, etag, place.within(&landing.wanted()), landing);
        self.breaker.patiently(read).await
    }

    async fn fetch_version(&self, ino: Ino, landing: &Landing<'_>) -> Result<()> {
        let read = async |key: ObjectKey, etag: Etag| match landing.wanted() {
            // The answer broke off behind its last byte.
            range if range.is_empty() => Ok(()),
            range => self.store.read_range(&key, &etag, range, landing).await,
        };
        self.of_version(ino, read).await.map(drop)
    }

    /// Asks S3 for something of the inode's version, wherever it is by now; the answer, and the ETag it has there.
    /// [`VolumeError::Stale`] when somebody else replaced it.
    pub(crate) async fn of_version<T, F>(&self, ino: Ino, ask: impl Fn(ObjectKey, Etag) -> F) -> Result<(T, Etag)>
    where
        F: Future<Output = std::result::Result<T, StoreError>>,
    {
        self.of_version_in_steps(ino, &Steps::default(), ask).await
    }

    /// The same for an answer that takes many requests.
    pub(crate) async fn of_version_in_steps<T, F>(
        &self,
        ino: Ino,
        steps: &Steps,
        ask: impl Fn(ObjectKey, Etag) -> F,
    ) -> Result<(T, Etag)>
    where
        F: Future<Output = std::result::Result<T, StoreError>>,
    {
        let mut tried = None;
        for _ in 0..MOVES {
            let (path, etag) = self.remote_of(ino)?;
            // Perhaps it was moved by an earlier process, and only the move that is being repeated will tell.
            if tried.as_ref() == Some(&(path.clone(), etag.clone()))
                && !self.settled(ino).await?
                && tried == Some(self.remote_of(ino)?)
            {
                break;
            }
            let key = ObjectKey::new(path.as_str());
            match self.breaker.patiently_in_steps(steps, || ask(key.clone(), etag.clone())).await {
                Err(VolumeError::Store(StoreError::NotFound(_) | StoreError::Conflict(_))) => {
                    tried = Some((path, etag));
                }
                result => return Ok((result?, etag)),
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
}

/// What a reader is made to wait for who misses `gap`.
fn around(gap: &Range<u64>, size: u64) -> Range<u64> {
    if size <= SMALL {
        return 0..size;
    }
    gap.start / STEP * STEP..gap.end.next_multiple_of(STEP).min(size)
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

    #[test]
    fn a_reader_waits_for_little() {
        assert_eq!(around(&(10..20), 1000), 0..1000);
        assert_eq!(around(&(10..20), 1 << 30), 0..STEP);
        assert_eq!(around(&(STEP - 1..STEP + 1), 1 << 30), 0..2 * STEP);
        assert_eq!(around(&(2 << 20..(2 << 20) + 5), (2 << 20) + 7), 2 << 20..(2 << 20) + 7);
    }

    #[test]
    fn pieces_are_aligned() {
        let gap = 1..2 * PIECE + 3;
        assert_eq!(split(&gap), [1..PIECE, PIECE..2 * PIECE, 2 * PIECE..2 * PIECE + 3]);
    }
}
