//! What the records of a journal leave to be done, on this machine as it is now.
//!
//! A process that died leaves all it wrote in the page cache, as long as the machine goes on: the journal names the boot
//! it was written in. After another boot only those bytes are trusted that a [`Record::Synced`], or their `Begin`, says
//! were on disk. An upload of others becomes an [`Op::Salvage`].

use std::collections::BTreeMap;

use super::{Base, Op, OpenUpload, Record, Seq};

/// An operation that the journal says is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// What to do.
    pub op: Op,
    /// Whether it is the `Open` of a file that was never closed.
    pub open: bool,
    /// The multipart upload it was in.
    pub upload: Option<OpenUpload>,
    /// Whether the bytes it needs are surely on disk.
    pub on_disk: bool,
}

/// What is left to do after all `records`. `boot`: the one that the machine is in; without it nothing is doubted.
pub fn unfinished(records: impl IntoIterator<Item = Record>, boot: Option<&str>) -> BTreeMap<Seq, Unfinished> {
    let mut log = Log::default();
    for record in records {
        log.apply(record);
    }
    boot.into_iter().for_each(|boot| log.enter(boot));
    log.left
}

#[derive(Debug, Default)]
struct Log {
    left: BTreeMap<Seq, Unfinished>,
    boot: Option<String>,
}

impl Log {
    fn apply(&mut self, record: Record) {
        let left = &mut self.left;
        match record {
            Record::Boot { id } => self.enter(&id),
            Record::Begin { seq, op, supersedes, on_disk } => {
                supersedes.iter().for_each(|old| drop(left.remove(old)));
                left.insert(seq, Unfinished { op, open: false, upload: None, on_disk });
            }
            Record::Open { seq, op, supersedes } => {
                supersedes.iter().for_each(|old| drop(left.remove(old)));
                left.insert(seq, Unfinished { op, open: true, upload: None, on_disk: false });
            }
            Record::Synced { seqs } => seqs.iter().for_each(|seq| {
                left.get_mut(seq).into_iter().for_each(|entry| entry.on_disk = true);
            }),
            Record::Amend { seq, attr, extra } => {
                left.get_mut(&seq).into_iter().for_each(|entry| entry.op.set_attr(attr, extra.as_ref()));
            }
            Record::Spill { seq, run } => {
                left.get_mut(&seq).into_iter().for_each(|entry| entry.op.add_spilled(run.clone()));
            }
            Record::Unspill { seq, first, count } => {
                left.get_mut(&seq).into_iter().for_each(|entry| entry.op.remove_spilled(first, count));
            }
            Record::Upload { seq, upload } => {
                left.get_mut(&seq).into_iter().for_each(|entry| entry.upload = Some(upload.clone()));
            }
            Record::Done { seq, outcome } => {
                left.remove(&seq);
                for (path, version) in &outcome {
                    left.range_mut(seq..).for_each(|(_, later)| later.op.set_base(path, version));
                }
            }
            Record::Failed { seq, .. } => {
                if let Some(Unfinished { op: Op::Salvage { path, .. }, .. }) = left.remove(&seq) {
                    orphan(left.range_mut(seq..).map(|(_, later)| &mut later.op), &path);
                }
            }
        }
    }

    /// What follows was written in this boot of the machine.
    fn enter(&mut self, boot: &str) {
        match self.boot.replace(boot.to_owned()) {
            Some(before) if before == boot => {}
            Some(_) => self.left.values_mut().for_each(Unfinished::doubt),
            // A program that named no boot had everything on disk before it said so.
            None => self.left.values_mut().for_each(|entry| entry.on_disk = true),
        }
    }
}

impl Unfinished {
    /// The machine went down since: bytes that were not on disk may be others now.
    fn doubt(&mut self) {
        if self.on_disk {
            return;
        }
        if let Op::Put { path, data, spilled, attr, extra, write, .. } = self.op.clone() {
            self.op = Op::Salvage { path, data, spilled, attr, extra, write };
            self.open = false;
        }
    }

    /// The records that say it again.
    pub(super) fn records(&self, seq: Seq) -> impl Iterator<Item = Record> {
        let (op, on_disk, supersedes) = (self.op.clone(), self.on_disk, Vec::new());
        let begin = match self.open {
            true => Record::Open { seq, op, supersedes },
            false => Record::Begin { seq, op, supersedes, on_disk },
        };
        let synced = (self.open && on_disk).then(|| Record::Synced { seqs: vec![seq] });
        let upload = self.upload.clone().map(|upload| Record::Upload { seq, upload });
        std::iter::once(begin).chain(synced).chain(upload)
    }
}

/// The file that was to be at `path` is lost. A move of it that was acknowledged has nothing to move: what S3 has there
/// is older. `later`: the operations after that one, in order.
pub(crate) fn orphan<'a>(later: impl Iterator<Item = &'a mut Op>, path: &str) {
    for op in later.filter(|op| op.paths().contains(&path)) {
        match op {
            Op::SetAttr { .. } | Op::RenameDir { .. } | Op::Mkdir { .. } => {}
            Op::Rename { from, source, .. } if from == path => return *source = Base::Absent,
            // From here on it is another file's name.
            _ => return,
        }
    }
}
