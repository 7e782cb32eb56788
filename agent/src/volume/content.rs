//! The bytes of one inode: which cache file has them, which of them it has, and whether S3 has them too.
//!
//! What the cache file of a [`State`] that is not clean lacks is spilled. A sealed cache file is not written to any more
//! while its upload is not done: the next write takes a copy. Of an exposed one (see `passthrough`) the upload has a copy.

mod origin;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::RwLock;

pub(crate) use self::origin::Origin;
use super::cache::DataFile;
use super::cache::extents::Extents;
use super::fetch::Flights;
use super::journal::Seq;
use super::passthrough::Way;
use super::spill::{Cut, Spilled};

/// The bytes of one inode. Lock order: `state`, then one of the others, then the tree.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) state: RwLock<State>,
    /// What is being fetched, and is to be.
    pub(crate) flights: parking_lot::Mutex<Flights>,
    /// How the kernel has it open. Locked after `state`.
    pub(crate) way: parking_lot::Mutex<Way>,
    /// When each part was last read.
    used: parking_lot::Mutex<BTreeMap<u64, Instant>>,
}

/// How far a file had come with its changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    open: Option<Seq>,
    writes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The cache file, once there is a byte in it.
    pub(crate) data: Option<Arc<DataFile>>,
    /// What the cache file has.
    pub(crate) present: Extents,
    /// The length of the file.
    pub(crate) size: u64,
    /// There are bytes in no operation yet.
    pub(crate) dirty: bool,
    /// The last upload that reads `data`.
    pub(crate) sealed: Option<Seq>,
    /// The journal's `Open` of the unsealed bytes.
    pub(crate) open: Option<Seq>,
    /// Parts that S3 has in objects of this volume.
    pub(crate) spilled: Spilled,
    /// When each part was last written, by `writes`.
    pub(crate) written: BTreeMap<u64, u64>,
    /// How often the file was written to.
    writes: u64,
    /// What S3 has that the file differs from only where it was touched.
    pub(crate) origin: Option<Origin>,
}

impl Content {
    fn new(state: State) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(state),
            flights: parking_lot::Mutex::default(),
            way: parking_lot::Mutex::default(),
            used: parking_lot::Mutex::default(),
        })
    }

    /// All in S3.
    pub(crate) fn remote(size: u64) -> Arc<Self> {
        Self::new(State::remote(size))
    }

    /// A new file, with the journal's `open`.
    pub(crate) fn new_file(data: Arc<DataFile>, open: Seq) -> Arc<Self> {
        Self::new(State { data: Some(data), dirty: true, open: Some(open), ..State::default() })
    }

    /// All in the cache but what is spilled, and in the upload `sealed`.
    pub(crate) fn sealed(data: Arc<DataFile>, size: u64, sealed: Seq, spilled: Spilled, cut: &Cut) -> Arc<Self> {
        let mut present = Extents::whole(size);
        spilled.indices().for_each(|index| present.remove(cut.range(index)));
        Self::new(State { data: Some(data), present, size, sealed: Some(sealed), spilled, ..State::default() })
    }

    /// Somebody reads `range`.
    pub(crate) fn note_use(&self, cut: &Cut, range: &Range<u64>) {
        let now = Instant::now();
        let mut used = self.used.lock();
        used.extend(cut.indices(range).map(|index| (index, now)));
    }

    /// When part `index` was last read; none for a part that never was.
    pub(crate) fn last_use(&self, index: u64) -> Option<Instant> {
        self.used.lock().get(&index).copied()
    }

    /// Forgets when a part was read that is not there any more.
    pub(crate) fn forget_use(&self, index: u64) {
        self.used.lock().remove(&index);
    }
}

impl State {
    /// All in S3.
    pub(crate) fn remote(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// `range` as far as the file has it.
    pub(crate) fn clamp(&self, range: Range<u64>) -> Range<u64> {
        range.start.min(self.size)..range.end.min(self.size)
    }

    /// Whether the cache file has all of `range` that the file has.
    pub(crate) fn has(&self, range: Range<u64>) -> bool {
        self.present.contains(self.clamp(range))
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment { open: self.open, writes: self.writes }
    }

    /// Whether bytes of `range` that were to be fetched at `then` are still what `data` lacks.
    pub(crate) fn is_still(&self, cut: &Cut, data: &Arc<DataFile>, range: &Range<u64>, then: Moment) -> bool {
        let same = self.data.as_ref().is_some_and(|now| Arc::ptr_eq(now, data)) && self.open == then.open;
        same && cut.indices(range).all(|index| self.written.get(&index).is_none_or(|written| *written <= then.writes))
    }

    /// `range` is about to be written to: what was read of its parts before is old.
    pub(crate) fn note_touched(&mut self, cut: &Cut, range: &Range<u64>) {
        self.writes += 1;
        for index in cut.indices(range) {
            self.written.insert(index, self.writes);
        }
        self.origin.iter_mut().for_each(|origin| origin.touch(cut, range));
    }

    /// `range` was written to the cache file; what lies between the old end and it is a hole.
    pub(crate) fn note_written(&mut self, range: &Range<u64>) {
        self.present.insert(range.clone());
        if range.end > self.size {
            self.present.insert(self.size..range.end);
            self.size = range.end;
        }
    }

    /// The file was cut or extended; new bytes are a hole.
    pub(crate) fn resize(&mut self, cut: &Cut, size: u64) {
        if size > self.size {
            self.present.insert(self.size..size);
        } else {
            self.present.remove(size..u64::MAX);
            self.written.retain(|index, _| cut.range(*index).start < size);
        }
        self.note_touched(cut, &(size.saturating_sub(1)..size));
        self.origin.iter_mut().for_each(|origin| origin.resize(size));
        self.size = size;
    }

    /// The parts that must be in the cache file, and nowhere else, before `range` is written to: those it is in, and
    /// the last one when the file grows.
    pub(crate) fn affected(&self, cut: &Cut, range: &Range<u64>) -> Vec<u64> {
        let mut parts: Vec<u64> = cut.indices(range).collect();
        if range.end > self.size && self.size > 0 {
            parts.push(cut.index(self.size - 1));
        }
        parts.retain(|index| self.spilled.get(*index).is_some());
        parts
    }
}
