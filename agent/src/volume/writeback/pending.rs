//! The operations that are acknowledged and not done: which may run now, and what they still have to learn.
//!
//! Pure. Operations on one path run in their order; one that moves or removes a whole directory waits for everything
//! below it, and everything below waits for it. The rest runs side by side.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::volume::attr::{Attr, Extra};
use crate::volume::journal::{self, Op, Outcome, Seq};

#[derive(Debug)]
struct Entry<T> {
    op: Op,
    /// What the owner of the table wants to know again when it ends.
    tag: T,
    started: bool,
    /// An earlier process may have done it, in part or whole: it is repeated as it was.
    repeated: bool,
    /// How many earlier operations it waits for.
    waits: usize,
    /// Who waits for it.
    waiting: Vec<Seq>,
}

impl<T> Entry<T> {
    /// Whether S3 cannot know anything of it yet.
    fn is_untouched(&self) -> bool {
        !self.started && !self.repeated
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    entries: BTreeMap<Seq, Entry<T>>,
    /// Operations on a path, in order.
    by_path: HashMap<String, Vec<Seq>>,
    /// Operations on whole directories.
    subtree: Vec<Seq>,
    /// Operations that wait for none and have not started.
    ready: BTreeSet<Seq>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), by_path: HashMap::new(), subtree: Vec::new(), ready: BTreeSet::new() }
    }
}

impl<T> Pending<T> {
    /// Adds an operation; it is later than all that were added before.
    pub(crate) fn add(&mut self, seq: Seq, op: Op, tag: T) {
        let mut before = self.before(&op);
        before.sort_unstable();
        before.dedup();
        for earlier in &before {
            if let Some(entry) = self.entries.get_mut(earlier) {
                entry.waiting.push(seq);
            }
        }
        for path in op.paths() {
            self.by_path.entry(path.to_owned()).or_default().push(seq);
        }
        if op.is_subtree() {
            self.subtree.push(seq);
        }
        if before.is_empty() {
            self.ready.insert(seq);
        }
        let waits = before.len();
        self.entries.insert(seq, Entry { op, tag, started: false, repeated: false, waits, waiting: Vec::new() });
    }

    /// Adds an operation of an earlier process.
    pub(crate) fn add_again(&mut self, seq: Seq, op: Op, tag: T) {
        self.add(seq, op, tag);
        self.entries.entry(seq).and_modify(|entry| entry.repeated = true);
    }

    /// The operations that `op` has to wait for.
    fn before(&self, op: &Op) -> Vec<Seq> {
        let mut before = Vec::new();
        for path in op.paths() {
            before.extend(self.by_path.get(path).and_then(|seqs| seqs.last()));
            before.extend(self.subtree.iter().filter(|seq| self.covers(**seq, path)));
            if op.is_subtree() {
                let below = self.by_path.iter().filter(|(other, _)| is_below(other, path));
                before.extend(below.flat_map(|(_, seqs)| seqs));
            }
        }
        before
    }

    fn covers(&self, seq: Seq, path: &str) -> bool {
        self.entries.get(&seq).is_some_and(|entry| entry.op.paths().into_iter().any(|above| is_below(path, above)))
    }

    /// Whether an operation on `path` is not done.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }

    /// Whether a directory that is at `path` or has it below is to be moved or removed.
    pub(crate) fn moves_or_removes(&self, path: &str) -> bool {
        self.subtree.iter().any(|seq| self.covers(*seq, path))
    }

    /// Whether a directory is being moved to where `path` is.
    pub(crate) fn is_moved_to(&self, path: &str) -> bool {
        let moves = self.subtree.iter().filter_map(|seq| self.entries.get(seq));
        moves.into_iter().any(|entry| matches!(&entry.op, Op::RenameDir { to, .. } if is_below(path, to)))
    }

    /// The latest operation on `path` if it has not started, in no process, and nothing waits for it: a later state of the
    /// same file may take its place.
    pub(crate) fn replaceable(&self, path: &str) -> Option<(Seq, &Op)> {
        let seq = *self.by_path.get(path)?.last()?;
        let entry = self.entries.get(&seq)?;
        let free = entry.is_untouched() && entry.waiting.is_empty() && matches!(entry.op, Op::Put { .. });
        free.then_some((seq, &entry.op))
    }

    /// An operation that may run now, marked as started.
    pub(crate) fn start_next(&mut self) -> Option<(Seq, Op)> {
        let seq = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&seq)?;
        entry.started = true;
        Some((seq, entry.op.clone()))
    }

    /// The operation as it is now.
    pub(crate) fn get(&self, seq: Seq) -> Option<(&Op, &T)> {
        self.entries.get(&seq).map(|entry| (&entry.op, &entry.tag))
    }

    /// Changes the attributes an operation writes; false when it has started already, or does not write these.
    pub(crate) fn amend(&mut self, seq: Seq, attr: Attr, extra: Option<&Extra>) -> bool {
        match self.entries.get_mut(&seq) {
            Some(entry) if entry.is_untouched() && entry.op.has_attr() && (extra.is_none() || entry.op.has_extra()) => {
                entry.op.set_attr(attr, extra);
                true
            }
            _ => false,
        }
    }

    /// Takes an operation out: done, failed or not wanted. Later ones learn what S3 has now.
    pub(crate) fn remove(&mut self, seq: Seq, outcome: &Outcome) -> Option<(Op, T)> {
        let entry = self.entries.remove(&seq)?;
        for path in entry.op.paths() {
            if let Some(seqs) = self.by_path.get_mut(path) {
                seqs.retain(|other| *other != seq);
                if seqs.is_empty() {
                    self.by_path.remove(path);
                }
            }
        }
        self.subtree.retain(|other| *other != seq);
        self.ready.remove(&seq);
        for later in &entry.waiting {
            let Some(waiting) = self.entries.get_mut(later) else { continue };
            waiting.waits -= 1;
            if waiting.waits == 0 {
                self.ready.insert(*later);
            }
        }
        self.teach(outcome);
        Some((entry.op, entry.tag))
    }

    /// Operations that wait learn what S3 has under their paths.
    pub(crate) fn teach(&mut self, outcome: &Outcome) {
        for (path, version) in outcome {
            for seq in self.by_path.get(path).into_iter().flatten() {
                if let Some(entry) = self.entries.get_mut(seq) {
                    entry.op.set_base(path, version);
                }
            }
        }
    }

    /// The file that was to be at `path` is lost: see [`journal::left::orphan`].
    pub(crate) fn orphan(&mut self, path: &str) {
        let Some(seqs) = self.by_path.get(path) else { return };
        let first = seqs.first().copied().unwrap_or(Seq(u64::MAX));
        journal::left::orphan(self.entries.range_mut(first..).map(|(_, entry)| &mut entry.op), path);
    }

    /// All operations, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Seq, &Op, &T)> {
        self.entries.iter().map(|(seq, entry)| (*seq, &entry.op, &entry.tag))
    }

    /// How many have started.
    pub(crate) fn running(&self) -> usize {
        self.entries.values().filter(|entry| entry.started).count()
    }

    pub(crate) fn contains(&self, seq: Seq) -> bool {
        self.entries.contains_key(&seq)
    }

    /// Paths below or at `path` that some operation touches: an outcome need not tell about others.
    pub(crate) fn touched_below(&self, path: &str) -> Vec<String> {
        self.by_path.keys().filter(|other| is_below(other, path)).cloned().collect()
    }
}

/// Whether `path` is `above` or lies below it.
pub(crate) fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || above.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::journal::Base;
    use crate::volume::store::Etag;

    fn delete(path: &str) -> Op {
        Op::Delete { path: path.into(), base: Base::Unknown }
    }

    fn move_dir(from: &str, to: &str) -> Op {
        Op::RenameDir { from: from.into(), to: to.into(), attr: None }
    }

    fn table(ops: Vec<Op>) -> Pending<()> {
        let mut pending = Pending::default();
        for (seq, op) in ops.into_iter().enumerate() {
            pending.add(Seq(seq as u64), op, ());
        }
        pending
    }

    fn startable(pending: &mut Pending<()>) -> Vec<u64> {
        std::iter::from_fn(|| pending.start_next()).map(|(seq, _)| seq.0).collect()
    }

    #[test]
    fn one_path_in_order_different_paths_side_by_side() {
        let mut pending = table(vec![delete("a"), delete("b"), delete("a"), delete("ab")]);
        assert_eq!(startable(&mut pending), [0, 1, 3]);
        pending.remove(Seq(0), &vec![]);
        assert_eq!(startable(&mut pending), [2]);
    }

    #[test]
    fn a_directory_moves_after_what_is_below_and_before_what_comes_below() {
        let mut pending = table(vec![
            delete("d/x/y"),
            delete("dx"),
            move_dir("d", "e"),
            delete("e/x"),
            delete("d/new"),
            Op::Rmdir { path: "e".into() },
        ]);
        assert_eq!(startable(&mut pending), [0, 1]);
        pending.remove(Seq(0), &vec![]);
        assert_eq!(startable(&mut pending), [2]);
        pending.remove(Seq(2), &vec![]);
        assert_eq!(startable(&mut pending), [3, 4]);
        pending.remove(Seq(3), &vec![]);
        assert_eq!(startable(&mut pending), [5]);
    }

    #[test]
    fn an_outcome_is_the_next_base() {
        let mut pending = table(vec![delete("a"), delete("a")]);
        let version = Base::Version(Etag("e".into()));
        pending.remove(Seq(0), &vec![("a".into(), version.clone())]);
        assert_eq!(pending.start_next(), Some((Seq(1), Op::Delete { path: "a".into(), base: version })));
    }

    #[test]
    fn below_is_by_components() {
        assert!(is_below("a/b", "a") && is_below("a", "a") && is_below("a", ""));
        assert!(!is_below("ab", "a") && !is_below("a", "a/b"));
    }

    #[test]
    fn what_an_earlier_process_may_have_done_is_repeated_as_it_was() {
        let put = || Op::Put {
            path: "a".into(),
            data: serde_json::from_str(r#""00000000000000000000000000000001""#).unwrap(),
            spilled: Vec::new(),
            attr: Attr::new(0, 0, 0),
            extra: Extra::default(),
            base: Base::Absent,
            write: uuid::Uuid::new_v4(),
        };
        for again in [false, true] {
            let mut pending = Pending::default();
            if again {
                pending.add_again(Seq(1), put(), ())
            } else {
                pending.add(Seq(1), put(), ())
            }
            assert_eq!(pending.replaceable("a").is_some(), !again);
            assert_eq!(pending.amend(Seq(1), Attr::new(0, 7, 7), None), !again);
            assert!(pending.start_next().is_some());
        }
    }
}
