//! Who walks, and how fast. Decides, and does nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::volume::tree::Ino;

/// Directories that are remembered.
const WALKS: usize = 64;
/// After so many steps in a row somebody walks.
const CLEAR: u32 = 3;
/// Names asked about ahead.
const LEAST: usize = 8;
const MOST: usize = 192;
/// What is asked ahead is to be needed within this time.
const SOON: Duration = Duration::from_millis(500);
/// Who has walked through a directory this lately will do so with the next one.
const HABIT: Duration = Duration::from_secs(1);

/// Where a name lies in a directory that was listed, seen from the last one that was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Among the next, or, if none was looked up yet, among the first.
    Ahead,
    /// A little before it: somebody else goes along.
    Behind,
    Elsewhere,
}

/// What to do at a step: so many names after this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) names: usize,
    /// The walker reads the files.
    pub(super) reads: bool,
    /// The walker goes into the directories too; whether he reads the files there.
    pub(super) below: Option<bool>,
}

/// How somebody walks through a directory.
#[derive(Debug)]
struct Walk {
    last: String,
    at: Instant,
    steps: u32,
    reads: u32,
    descents: u32,
    /// Between two steps, by and by.
    pace: Duration,
    window: usize,
    /// Steps until more is asked.
    left: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    walks: HashMap<Ino, Walk>,
    /// When somebody last walked, and whether he read.
    habit: Option<(Instant, bool)>,
}

impl Walk {
    fn begin(name: &str, now: Instant) -> Self {
        Self { last: name.to_owned(), at: now, steps: 0, reads: 0, descents: 0, pace: SOON, window: 0, left: 0 }
    }

    /// A walk of which the first step tells that it is one.
    fn go_straight_in(name: &str, now: Instant, reads: bool) -> (Self, Step) {
        let window = LEAST * 4;
        let steps = CLEAR;
        let walk = Self { steps, reads: steps * u32::from(reads), window, left: window / 2, ..Self::begin(name, now) };
        (walk, Step { names: window, reads, below: None })
    }

    fn go_on(&mut self, name: &str, now: Instant) -> Option<Step> {
        let took = now.saturating_duration_since(self.at);
        self.pace = if self.steps == 0 { took } else { (self.pace * 3 + took) / 4 };
        self.steps += 1;
        name.clone_into(&mut self.last);
        self.at = now;
        self.left = self.left.saturating_sub(1);
        if self.steps < CLEAR || self.left > 0 {
            return None;
        }
        let needed = usize::try_from(SOON.as_micros() / self.pace.as_micros().max(1)).unwrap_or(MOST);
        self.window = (self.window * 2).min(needed).clamp(LEAST, MOST);
        self.left = self.window / 2;
        Some(Step { names: self.window, reads: self.reads * 2 >= self.steps, below: None })
    }
}

impl Walks {
    /// Somebody looks `name` up; `seen` tells where it lies, from another name.
    pub(super) fn step(&mut self, dir: Ino, name: &str, seen: impl Fn(Option<&str>) -> Seen) -> Option<Step> {
        let now = Instant::now();
        let Some(walk) = self.walks.get_mut(&dir) else { return self.begin(dir, name, now, &seen) };
        if walk.last == name {
            return None;
        }
        match seen(Some(&walk.last)) {
            Seen::Ahead => {
                let step = walk.go_on(name, now)?;
                if walk.descents * 2 >= walk.steps {
                    // What he does below is his habit.
                    let habit = self.habit.filter(|(at, _)| now.saturating_duration_since(*at) < HABIT);
                    return Some(Step { below: Some(habit.is_some_and(|(_, reads)| reads)), ..step });
                }
                self.habit = Some((now, step.reads));
                Some(step)
            }
            Seen::Behind => None,
            Seen::Elsewhere => self.begin(dir, name, now, &seen),
        }
    }

    fn begin(&mut self, dir: Ino, name: &str, now: Instant, seen: impl Fn(Option<&str>) -> Seen) -> Option<Step> {
        if self.walks.len() >= WALKS
            && let Some(oldest) = self.walks.iter().min_by_key(|(_, walk)| walk.at).map(|(ino, _)| *ino)
        {
            self.walks.remove(&oldest);
        }
        let habit = self.habit.filter(|(at, _)| now.saturating_duration_since(*at) < HABIT);
        let (walk, step) = match habit {
            Some((_, reads)) if seen(None) == Seen::Ahead => {
                let (walk, step) = Walk::go_straight_in(name, now, reads);
                (walk, Some(step))
            }
            Some(_) | None => (Walk::begin(name, now), None),
        };
        self.walks.insert(dir, walk);
        step
    }

    /// A directory in the directory is listed.
    pub(super) fn descend(&mut self, dir: Ino) {
        if let Some(walk) = self.walks.get_mut(&dir) {
            walk.descents += 1;
        }
    }

    /// A file in the directory is read.
    pub(super) fn read(&mut self, dir: Ino) {
        if let Some(walk) = self.walks.get_mut(&dir) {
            walk.reads += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(_: Option<&str>) -> Seen {
        Seen::Ahead
    }

    #[test]
    fn who_goes_on_gets_more() {
        let mut walks = Walks::default();
        let mut windows = Vec::new();
        for index in 0..300 {
            windows.extend(walks.step(Ino(7), &format!("{index:03}"), ahead));
            if index < 200 {
                walks.read(Ino(7));
            }
        }
        assert_eq!(windows[..3].iter().map(|step| step.names).collect::<Vec<_>>(), [8, 16, 32]);
        assert!(windows.iter().all(|step| step.names <= MOST) && windows[0].reads);
    }

    #[test]
    fn who_goes_into_directories_gets_them_listed_and_what_he_reads_there() {
        let (mut walks, mut steps) = (Walks::default(), Vec::new());
        for index in 0..8 {
            steps.extend(walks.step(Ino(7), &format!("d{index}"), ahead));
            walks.descend(Ino(7));
            for file in 0..4 {
                walks.step(Ino(10 + index), &format!("f{file}"), ahead);
                walks.read(Ino(10 + index));
            }
        }
        assert!(!steps.is_empty() && steps.iter().all(|step| step.below == Some(true)), "{steps:?}");
    }

    #[test]
    fn who_jumps_gets_nothing_and_who_goes_along_changes_nothing() {
        let mut walks = Walks::default();
        let jumps =
            |index: u32| move |_: Option<&str>| if index.is_multiple_of(3) { Seen::Elsewhere } else { Seen::Ahead };
        let steps = (0..100).filter_map(|index| walks.step(Ino(1), &index.to_string(), jumps(index)));
        assert_eq!(steps.count(), 0);
        (0..200).for_each(|ino| assert!(walks.step(Ino(ino), "a", |_| Seen::Elsewhere).is_none()));
        assert_eq!(walks.walks.len(), WALKS);
        let mut walks = Walks::default();
        let names = (0..9).filter_map(|index| {
            let _ =
                walks.step(Ino(1), &format!("{index} along"), |_| if index == 0 { Seen::Ahead } else { Seen::Behind });
            walks.step(Ino(1), &index.to_string(), ahead).map(|step| step.names)
        });
        assert_eq!(names.collect::<Vec<_>>(), [8, 16]);
    }

    #[test]
    fn the_slow_are_asked_little_for() {
        let (mut walk, begun) = (Walk::begin("a", Instant::now()), Instant::now());
        let steps = (1..100).filter_map(|index| walk.go_on("b", begun + Duration::from_millis(200) * index));
        assert!(steps.map(|step| step.names).all(|names| names == LEAST));
    }

    #[test]
    fn who_walks_from_directory_to_directory_is_known_at_the_first_name() {
        let mut walks = Walks::default();
        assert_eq!(walks.step(Ino(2), "a", ahead), None);
        for name in ["a", "b", "c", "d"] {
            let _ = walks.step(Ino(1), name, ahead);
            walks.read(Ino(1));
        }
        assert_eq!(walks.step(Ino(3), "a", ahead), Some(Step { names: 4 * LEAST, reads: true, below: None }));
        assert_eq!(walks.step(Ino(4), "m", |_| Seen::Elsewhere), None, "not one of the first names");
        walks.habit = walks.habit.map(|(at, reads)| (at - 2 * HABIT, reads));
        assert_eq!(walks.step(Ino(5), "a", ahead), None);
    }
}
