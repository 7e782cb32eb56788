//! What goes wrong, and when.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::volume::store::StoreError;

/// The calls of an object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// `head`
    Head,
    /// `get`
    Get,
    /// `get_range`
    GetRange,
    /// `list`
    List,
    /// `put`
    Put,
    /// `copy`
    Copy,
    /// `delete`
    Delete,
    /// `multipart_begin`
    MultipartBegin,
    /// `multipart_put`
    MultipartPut,
    /// `multipart_copy`
    MultipartCopy,
    /// `multipart_complete`
    MultipartComplete,
    /// `multipart_abort`
    MultipartAbort,
    /// `multipart_list`
    MultipartList,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What becomes of one call.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// It is done and answered.
    Pass,
    /// It is not done.
    Fail(StoreError),
    /// It is done; the caller does not learn it.
    LoseReply,
}

/// The faults still to come, and the calls seen.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) latency: Duration,
    pub(super) outage: bool,
    pub(super) most_turns: u32,
    drawn: u32,
    pending: BTreeMap<Operation, VecDeque<Verdict>>,
    seen: BTreeMap<Operation, usize>,
}

impl Faults {
    /// The next `calls` calls of `operation` without a verdict yet get this one.
    pub(super) fn push(&mut self, operation: Operation, calls: usize, verdict: Verdict) {
        self.pending.entry(operation).or_default().extend(std::iter::repeat_n(verdict, calls));
    }

    /// Counts a call and says how long it takes and what becomes of it.
    pub(super) fn begin(&mut self, operation: Operation) -> (Duration, Verdict) {
        *self.seen.entry(operation).or_default() += 1;
        if self.outage {
            let error = StoreError::Transient(operation.to_string(), "the store is away (injected)".to_owned());
            return (self.latency, Verdict::Fail(error));
        }
        let verdict = self.pending.get_mut(&operation).and_then(VecDeque::pop_front);
        (self.latency, verdict.unwrap_or(Verdict::Pass))
    }

    /// How often to let others go on now: 0 to `most_turns`, the same sequence in every run.
    pub(super) fn turns(&mut self) -> u32 {
        self.drawn = self.drawn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.drawn >> 16) % (self.most_turns + 1)
    }

    pub(super) fn calls(&self, operation: Operation) -> usize {
        self.seen.get(&operation).copied().unwrap_or(0)
    }
}
