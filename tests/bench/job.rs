//! One work to be done by one system, and what it gave.

use std::time::{Duration, Instant};

use crate::content::Content;
use crate::material::Material;
use crate::seed::Expect;

/// What a system's files are by now.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) big: Content,
    /// The directory of the small files.
    pub(crate) small: String,
    /// The directory the tree was unpacked in, and how many files of it there are.
    pub(crate) tree: String,
    pub(crate) tree_files: u64,
}

/// What is needed to do a work.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) material: &'a Material,
    /// Another number for every work: for names and random places.
    pub(crate) turn: u64,
    /// Files in `small/`, and whether that is fewer than others have.
    pub(crate) files: u64,
    pub(crate) few: bool,
    /// After so long a work on many things is stopped; then what it has done counts, by rate.
    pub(crate) patience: Duration,
    /// Whether fsync waits for S3; otherwise the clock runs until the drain is done.
    pub(crate) fsync_in_s3: bool,
    pub(crate) state: &'a mut State,
}

/// One value: so much (MiB, files, calls, or 1) in such a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) amount: f64,
    pub(crate) time: Duration,
    /// It was stopped before it was through.
    pub(crate) stopped: bool,
}

impl Done {
    pub(crate) fn since(begun: Instant, amount: f64) -> Self {
        Self::in_time(amount, begun.elapsed())
    }

    pub(crate) fn in_time(amount: f64, time: Duration) -> Self {
        Self { amount, time, stopped: false }
    }

    /// The same, stopped before it was through.
    pub(crate) fn stopped(self, stopped: bool) -> Self {
        Self { stopped, ..self }
    }
}

/// Values for each row of the phase, and what must be in S3 now.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) done: Vec<Done>,
    pub(crate) expect: Expect,
}

impl Outcome {
    pub(crate) fn of(done: Done) -> Self {
        Self { done: vec![done], expect: Expect::Nothing }
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
