//! Bytes of files that are being written, for which the cache is too small: parts of them are kept in S3, each in an
//! object of this volume's own, until the file is made of them.
//!
//! A part of a file that is not clean is in the cache file, or *spilled*: in an object below [`DIRECTORY`]. When the file
//! is uploaded, S3 copies its spilled parts by itself. An object is deleted with its last owner: the inode, and every
//! queued upload that reads it. What a dead process left is deleted at the next start, unless the journal or lost+found
//! names it.

mod mark;
mod sweep;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use self::mark::Mark;
use super::cache::extents::Extents;
use super::store::Etag;

/// Where in the volume's prefix the objects are; the name is not shown and cannot be used.
pub(crate) const DIRECTORY: &str = ".ec2mpi-spill";

/// How files are cut. Only tests have other numbers than the default's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Larger files go up in parts.
    pub(crate) single_put: u64,
    /// Bytes of a part; of spilled files of the first parts only, see [`Cut::range`].
    pub(crate) part: u64,
    /// Larger objects are copied in parts, side by side; S3's limit for one COPY is 5 GiB.
    pub(crate) single_copy: u64,
    /// Bytes of a part of a copy.
    pub(crate) copy_part: u64,
}

impl Default for Cut {
    fn default() -> Self {
        Self { single_put: 64 << 20, part: 16 << 20, single_copy: 1 << 30, copy_part: 64 << 20 }
    }
}

/// Parts of one size before the next size begins, and by how much that is larger.
const CLASSES: [(u64, u64); 3] = [(4000, 1), (4000, 8), (2000, 64)];

impl Cut {
    /// The bytes of part `index` of a file without end. Later parts are larger, so that 10,000 hold 2.5 TiB.
    pub(crate) fn range(&self, index: u64) -> Range<u64> {
        let (mut start, mut first) = (0, 0);
        for (count, factor) in CLASSES {
            let size = self.part * factor;
            if index < first + count {
                let start = start + (index - first) * size;
                return start..start + size;
            }
            start += count * size;
            first += count;
        }
        start..u64::MAX
    }

    /// The part that a byte is in.
    pub(crate) fn index(&self, offset: u64) -> u64 {
        let (mut start, mut first) = (0, 0);
        for (count, factor) in CLASSES {
            let size = self.part * factor;
            if offset < start + count * size {
                return first + (offset - start) / size;
            }
            start += count * size;
            first += count;
        }
        first
    }

    /// The bytes that are touched when a file of `now` bytes gets `size`: whole parts at its end just go.
    pub(crate) fn resized(&self, now: u64, size: u64) -> Range<u64> {
        if size >= now {
            now..size
        } else if self.range(self.index(size)).start == size {
            size..size
        } else {
            size..size + 1
        }
    }

    /// The first part that begins at `size` or later.
    pub(crate) fn first_from(&self, size: u64) -> u64 {
        let index = self.index(size);
        if self.range(index).start == size { index } else { index + 1 }
    }

    /// The parts that have bytes of `range`.
    pub(crate) fn indices(&self, range: &Range<u64>) -> Range<u64> {
        if range.is_empty() { 0..0 } else { self.index(range.start)..self.index(range.end - 1) + 1 }
    }
}

/// Spilled parts as the journal has them: some in a row, in one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The object.
    pub key: String,
    /// Its version.
    pub etag: Etag,
    /// The offset in the file of the object's first byte.
    pub shift: u64,
    /// The first part.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Where the keys of objects go that are not needed any more.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    keys: mpsc::UnboundedSender<Discarded>,
    frozen: Arc<AtomicBool>,
    /// How many are on their way to be deleted.
    waiting: watch::Sender<usize>,
}

impl Trash {
    fn throw(&self, key: String) {
        // Without a receiver the volume has ended, and the next start looks.
        let _ = self.keys.send(Discarded { key, _waiting: Waiting::new(&self.waiting) });
    }
}

/// An object that is to be deleted.
#[derive(Debug)]
struct Discarded {
    key: String,
    _waiting: Waiting,
}

/// As long as it lives, objects are on their way to be deleted.
#[derive(Debug)]
pub(crate) struct Waiting(watch::Sender<usize>);

impl Waiting {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|waiting| *waiting += 1);
        Self(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting = waiting.saturating_sub(1));
    }
}

/// An object with parts.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) key: String,
    pub(crate) etag: Etag,
    trash: Trash,
    kept: AtomicBool,
}

impl Held {
    /// It stays when its owners go: lost+found names it.
    pub(crate) fn keep(&self) {
        self.kept.store(true, Ordering::SeqCst);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::SeqCst) && !self.trash.frozen.load(Ordering::SeqCst) {
            self.trash.throw(std::mem::take(&mut self.key));
        }
    }
}

/// Objects by key, while a journal is replayed.
pub(crate) type Restored = BTreeMap<String, Arc<Held>>;

/// Where a part is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) object: Arc<Held>,
    shift: u64,
}

impl Place {
    pub(crate) fn new(object: Arc<Held>, shift: u64) -> Self {
        Self { object, shift }
    }

    /// Bytes of the file as bytes of the object.
    pub(crate) fn within(&self, range: &Range<u64>) -> Range<u64> {
        range.start - self.shift..range.end - self.shift
    }
}

/// The spilled parts of one file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spilled(BTreeMap<u64, Place>);

impl Spilled {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Place> {
        self.0.get(&index)
    }

    pub(crate) fn insert(&mut self, index: u64, place: Place) {
        self.0.insert(index, place);
    }

    pub(crate) fn remove(&mut self, index: u64) -> Option<Place> {
        self.0.remove(&index)
    }

    pub(crate) fn indices(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    /// Forgets the parts from `first` on.
    pub(crate) fn truncate(&mut self, first: u64) {
        self.0.split_off(&first);
    }

    /// Whether all that `present` lacks of `0..size` is spilled.
    pub(crate) fn completes(&self, cut: &Cut, present: &Extents, size: u64) -> bool {
        present.missing(0..size).iter().all(|gap| cut.indices(gap).all(|index| self.0.contains_key(&index)))
    }

    pub(crate) fn keep_objects(&self) {
        self.0.values().for_each(|place| place.object.keep());
    }

    /// For the journal.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (index, place) in &self.0 {
            match runs.last_mut() {
                Some(run)
                    if run.key == place.object.key && run.shift == place.shift && run.first + run.count == *index =>
                {
                    run.count += 1;
                }
                _ => runs.push(Run {
                    key: place.object.key.clone(),
                    etag: place.object.etag.clone(),
                    shift: place.shift,
                    first: *index,
                    count: 1,
                }),
            }
        }
        runs
    }
}

/// Adds `run` to the runs of an operation in the journal.
pub(crate) fn add_run(runs: &mut Vec<Run>, run: Run) {
    remove_runs(runs, run.first, run.count);
    runs.push(run);
}

/// Takes `count` parts from `first` on out of the runs of an operation in the journal.
pub(crate) fn remove_runs(runs: &mut Vec<Run>, first: u64, count: u64) {
    let end = first.saturating_add(count);
    let cut_out = |run: Run| {
        let run_end = run.first + run.count;
        let head = Run { count: first.clamp(run.first, run_end) - run.first, ..run.clone() };
        let tail_first = end.clamp(run.first, run_end);
        let tail = Run { first: tail_first, count: run_end - tail_first, ..run };
        [head, tail].into_iter().filter(|run| run.count > 0)
    };
    *runs = std::mem::take(runs).into_iter().flat_map(cut_out).collect();
}

/// Names and makes the objects of one volume.
#[derive(Debug)]
pub(crate) struct Spills {
    /// Below this are the objects of all processes that used this cache directory.
    prefix: String,
    /// And below this those of this one.
    own: String,
    trash: Trash,
    discarded: Mutex<Option<mpsc::UnboundedReceiver<Discarded>>>,
    mark: Mark,
}

impl Spills {
    /// `dir`: the cache directory, which tells one volume's objects from another's.
    pub(crate) fn open(dir: &std::path::Path, frozen: Arc<AtomicBool>) -> std::io::Result<Self> {
        let mark = Mark::open(&dir.join("spills"))?;
        let prefix = format!("{DIRECTORY}/{}", mark.id.simple());
        let (keys, discarded) = mpsc::unbounded_channel();
        Ok(Self {
            own: format!("{prefix}/{}", Uuid::new_v4().simple()),
            prefix,
            trash: Trash { keys, frozen, waiting: watch::Sender::new(0) },
            discarded: Mutex::new(Some(discarded)),
            mark,
        })
    }

    /// A key for a new object. From the first one on the next start will look for what is left.
    pub(crate) fn new_key(&self) -> std::io::Result<String> {
        self.mark.set()?;
        Ok(format!("{}/{}", self.own, Uuid::new_v4().simple()))
    }

    /// As long as the answer lives, [`Spills::swept`] waits: an operation ends, and objects may go with it.
    pub(crate) fn discarding(&self) -> Waiting {
        Waiting::new(&self.trash.waiting)
    }

    /// Returns when each object that is not needed any more was deleted, or S3 would not.
    pub(crate) async fn swept(&self) {
        // The sender lives as long as this.
        let _ = self.trash.waiting.subscribe().wait_for(|waiting| *waiting == 0).await;
    }

    /// The object `key`, deleted with its last owner.
    pub(crate) fn hold(&self, key: String, etag: Etag) -> Arc<Held> {
        Arc::new(Held { key, etag, trash: self.trash.clone(), kept: AtomicBool::new(false) })
    }

    /// What the journal says is spilled; parts that begin after the end of the file were cut off. `objects`: those of
    /// all operations, since several may read one.
    pub(crate) fn restore(&self, runs: &[Run], cut: &Cut, size: u64, objects: &mut Restored) -> Spilled {
        let mut spilled = Spilled::default();
        for run in runs {
            let make = || self.hold(run.key.clone(), run.etag.clone());
            let object = objects.entry(run.key.clone()).or_insert_with(make);
            for index in run.first..run.first.saturating_add(run.count) {
                if cut.range(index).start >= size {
                    break;
                }
                spilled.insert(index, Place::new(object.clone(), run.shift));
            }
        }
        spilled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ten_thousand_parts_hold_terabytes() {
        let cut = Cut::default();
        assert_eq!(cut.range(0), 0..16 << 20);
        assert!(cut.range(9_999).end > 2 << 40);
        for index in [0, 1, 3999, 4000, 4001, 7999, 8000, 9999] {
            let range = cut.range(index);
            assert_eq!((cut.index(range.start), cut.index(range.end - 1)), (index, index));
            assert_eq!(cut.range(index + 1).start, range.end);
        }
        assert_eq!(cut.indices(&(0..cut.part + 1)), 0..2);
        assert_eq!(cut.indices(&(5..5)), 0..0);
    }

    proptest! {
        #[test]
        fn runs_are_a_map(changes in prop::collection::vec((any::<bool>(), 0u64..20, 1u64..6), 0..20)) {
            let (mut runs, mut map) = (Vec::new(), BTreeMap::new());
            for (number, (add, first, count)) in changes.into_iter().enumerate() {
                let key = format!("k{number}");
                if add {
                    let etag = Etag(String::new());
                    add_run(&mut runs, Run { key: key.clone(), etag, shift: 0, first, count });
                    (first..first + count).for_each(|index| drop(map.insert(index, key.clone())));
                } else {
                    remove_runs(&mut runs, first, count);
                    (first..first + count).for_each(|index| drop(map.remove(&index)));
                }
            }
            let parts = |run: &Run| (run.first..run.first + run.count).map(|i| (i, run.key.clone())).collect::<Vec<_>>();
            let told: BTreeMap<u64, String> = runs.iter().flat_map(parts).collect();
            prop_assert_eq!(told, map);
        }
    }
}
