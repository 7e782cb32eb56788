//! How a file is read, and what to fetch before it is asked for. Decides, and does nothing.

use std::ops::Range;

/// Of files up to this size all is fetched as soon as somebody reads them.
const WHOLE: u64 = 64 << 20;
/// What is fetched ahead for a sequential reader at first; it grows by [`GROWTH`].
const FIRST_WINDOW: u64 = 8 << 20;
const LARGEST_WINDOW: u64 = 128 << 20;
const GROWTH: u64 = 4;
/// Who begins with so much at a time goes on.
pub(crate) const BULK: u64 = 256 << 10;
/// The requests of one reader come in any order within this.
const SLACK: u64 = 4 << 20;
/// After so many reads elsewhere the file is read at random.
const STRAYS: u32 = 8;

/// What to fetch before it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ahead {
    /// Nothing more than is planned already.
    AsPlanned,
    /// This, for a reader who goes on.
    Window(Range<u64>),
    /// All of the file.
    Whole,
}

/// What is known of a file's readers.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    /// Where the last of them goes on.
    next: u64,
    window: u64,
    /// What was planned for them ends here.
    planned: u64,
    strays: u32,
    whole: bool,
}

impl Pattern {
    /// Somebody reads `asked` of a file of `size` bytes, for which the cache has `room`.
    pub(super) fn note(&mut self, asked: &Range<u64>, size: u64, room: u64) -> Ahead {
        if self.whole {
            return Ahead::AsPlanned;
        }
        let near = asked.start <= self.next + SLACK && asked.end + SLACK >= self.next;
        self.strays += u32::from(!near);
        if size <= room && (size <= WHOLE || self.strays >= STRAYS) {
            self.whole = true;
            return Ahead::Whole;
        }
        if !near {
            (self.next, self.window, self.planned) = (asked.end, 0, 0);
            return Ahead::AsPlanned;
        }
        self.go_on(asked, size, room)
    }

    fn go_on(&mut self, asked: &Range<u64>, size: u64, room: u64) -> Ahead {
        let begins = self.next == 0 && asked.end - asked.start < BULK;
        self.next = self.next.max(asked.end);
        // Windows grow as soon as the reader is clearly in one, and are renewed when half of the largest is left.
        let left = if self.window < LARGEST_WINDOW { self.window / 8 * 7 } else { self.window / 2 };
        // A reader who only looks at the beginning is not read ahead for.
        if begins || self.planned >= size || self.planned > self.next + left {
            return Ahead::AsPlanned;
        }
        self.window = (self.window * GROWTH).clamp(FIRST_WINDOW, LARGEST_WINDOW).min(room / 4);
        self.planned = (self.next + self.window).min(size);
        Ahead::Window(self.next..self.planned)
    }

    /// What was planned is not done.
    pub(super) fn give_up(&mut self) {
        *self = Self { next: self.next, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;
    const ROOM: u64 = 16 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn a_sequential_reader_gets_a_growing_window() {
        let mut pattern = Pattern::default();
        assert_eq!(pattern.note(&(0..4096), SIZE, ROOM), Ahead::AsPlanned);
        assert_eq!(pattern.note(&(4096..MIB), SIZE, ROOM), Ahead::Window(MIB..9 * MIB));
        assert_eq!(pattern.note(&(MIB..MIB + 4096), SIZE, ROOM), Ahead::AsPlanned);
        let mut windows = Vec::new();
        for at in 1..1024 {
            if let Ahead::Window(window) = pattern.note(&(at * MIB..(at + 1) * MIB), SIZE, ROOM) {
                windows.push((window.end - window.start) / MIB);
                assert!(window.start == (at + 1) * MIB && window.end <= SIZE);
            }
        }
        assert_eq!(windows[..3], [32, 128, 128]);
        assert!(windows.len() < 20);
    }

    #[test]
    fn who_begins_with_much_gets_a_window_at_once() {
        let mut pattern = Pattern::default();
        assert_eq!(pattern.note(&(0..MIB), SIZE, ROOM), Ahead::Window(MIB..9 * MIB));
        assert_eq!(pattern.note(&(MIB..2 * MIB), SIZE, ROOM), Ahead::Window(2 * MIB..34 * MIB));
    }

    #[test]
    fn small_files_and_random_readers_get_all() {
        assert_eq!(Pattern::default().note(&(10..20), WHOLE, ROOM), Ahead::Whole);
        assert_eq!(Pattern::default().note(&(10..20), WHOLE, WHOLE / 2), Ahead::AsPlanned);
        let mut pattern = Pattern::default();
        let mut at = (1..).map(|turn| (turn * 77 * MIB) % SIZE);
        let mut next = || at.next().map(|at| at..at + 4096).unwrap();
        for _ in 1..STRAYS {
            assert_eq!(pattern.note(&next(), SIZE, ROOM), Ahead::AsPlanned);
        }
        assert_eq!(pattern.note(&next(), SIZE, ROOM), Ahead::Whole);
        assert_eq!(pattern.note(&next(), SIZE, ROOM), Ahead::AsPlanned);
        pattern.give_up();
        assert_eq!(pattern.note(&next(), SIZE, SIZE / 2), Ahead::AsPlanned);
    }

    #[test]
    fn windows_leave_room_in_a_small_cache() {
        let mut pattern = Pattern::default();
        pattern.note(&(0..4096), SIZE, 16 * MIB);
        assert_eq!(pattern.note(&(4096..MIB), SIZE, 16 * MIB), Ahead::Window(MIB..5 * MIB));
    }
}
