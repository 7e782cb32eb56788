//! Fetching behind the reader's back: a task for each file of which something is planned.

use std::ops::Range;
use std::sync::{Arc, Weak};

use super::pattern::Ahead;
use super::{Flight, IN_HAND, PIECE, STEP};
use crate::volume::Volume;
use crate::volume::content::Content;
use crate::volume::tree::Ino;

/// A file is fetched whole for those who read here and there when this share of the cache holds it.
const ROOM_PERCENT: u64 = 50;
/// So many pieces make a window, unless they become too small or too large.
const PIECES: u64 = 8;

impl Volume {
    /// Somebody has read `asked` of a file of `size` bytes, of which the cache lacks some.
    pub(crate) fn read_ahead(&self, ino: Ino, content: &Arc<Content>, asked: &Range<u64>, size: u64) {
        let Some(volume) = self.this.get().and_then(Weak::upgrade).filter(|_| !self.breaker.is_open()) else { return };
        let room = self.options.bounds.cache_bytes / 100 * ROOM_PERCENT;
        let mut flights = content.flights.lock();
        flights.plan = match flights.pattern.note(asked, size, room) {
            Ahead::AsPlanned => return,
            Ahead::Window(window) => vec![window],
            Ahead::Whole => vec![asked.end.min(size)..size, 0..asked.start.min(size)],
        };
        flights.piece = piece_of(&flights.plan);
        if !std::mem::replace(&mut flights.driven, true) {
            let content = content.clone();
            drop(tokio::spawn(async move { volume.drive(ino, content).await }));
        }
    }

    /// Fetches what is planned, as long as somebody has the file open.
    async fn drive(self: Arc<Self>, ino: Ino, content: Arc<Content>) {
        while let Ok(permit) = self.limits.ahead(IN_HAND).await {
            let Some(flight) = self.next_ahead(ino, &content).await else { return };
            let (volume, content) = (self.clone(), content.clone());
            drop(tokio::spawn(async move {
                let _permit = permit;
                if let Err(error) = volume.fly(ino, &content, flight).await {
                    tracing::debug!(%ino, %error, "no more is read ahead");
                    content.flights.lock().give_up();
                }
            }));
        }
    }

    /// The next piece that is planned and neither there nor under way; it is under way then. With none, nobody drives.
    async fn next_ahead(&self, ino: Ino, content: &Arc<Content>) -> Option<Flight> {
        let state = content.state.read().await;
        // What is spilled is on its way to S3, and not worth to come back for a guess.
        let wanted = state.spilled.is_empty() && self.tree().get(ino).is_ok_and(|node| node.opens > 0);
        let mut flights = content.flights.lock();
        while let Some(part) = flights.plan.first().cloned().filter(|_| wanted) {
            let missing = state.present.missing(state.clamp(part.clone()));
            if let Some(free) = missing.iter().flat_map(|gap| flights.free(gap)).next() {
                let piece = free.start..cut(free.start, flights.piece).min(free.end);
                flights.plan[0].start = piece.end;
                return Some(self.take_off(content, &mut flights, &state, piece));
            }
            flights.plan.remove(0);
        }
        flights.plan.clear();
        flights.driven = false;
        None
    }
}

fn piece_of(plan: &[Range<u64>]) -> u64 {
    let planned: u64 = plan.iter().map(|part| part.end - part.start).sum();
    (planned / PIECES).clamp(2 * STEP, PIECE)
}

/// Where a piece of about this length ends. Pieces come to lie at multiples of the largest.
fn cut(start: u64, length: u64) -> u64 {
    let end = (start + length) / STEP * STEP;
    end.min((start / PIECE + 1) * PIECE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_small_windows_are_small() {
        let piece = |window: u64| piece_of(&[STEP..STEP + window, 0..STEP]);
        assert_eq!((piece(1), piece(8 << 20), piece(1 << 30)), (2 * STEP, (8 << 20) / 8 + STEP / 8, PIECE));
        assert_eq!(cut(STEP, 1 << 20), STEP + (1 << 20));
        assert_eq!(cut(5, 2 * STEP), 2 * STEP);
        assert_eq!(cut(PIECE + STEP, PIECE), 2 * PIECE);
        assert_eq!(cut(2 * PIECE, PIECE), 3 * PIECE);
    }
}
