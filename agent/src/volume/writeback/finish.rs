//! What becomes of an operation: the journal, the tree, and those who wait learn it.

use std::sync::atomic::Ordering;

use super::{Tag, pending};
use crate::volume::Volume;
use crate::volume::cache::DataFile;
use crate::volume::cache::usage::Hold;
use crate::volume::control::Failure;
use crate::volume::failpoint;
use crate::volume::journal::{Base, Op, Outcome, Record, Seq, Unfinished};
use crate::volume::store::Etag;
use crate::volume::tree::{Child, Ino, Kind, Node, Place, Remote, Told, Tree};

/// What S3 has after an operation.
#[derive(Debug, Default)]
pub(super) struct Performed {
    outcome: Outcome,
    effect: Effect,
}

impl Performed {
    pub(super) fn new(outcome: Outcome, effect: Effect) -> Self {
        Self { outcome, effect }
    }
}

#[derive(Debug, Default)]
pub(super) enum Effect {
    /// Nothing that an inode shows.
    #[default]
    None,
    /// The inode's object is this now.
    Uploaded(Uploaded),
    /// Somebody else's version has the name; the inode's is here.
    Lost(Uploaded),
    /// Everything below `from` is below `to`.
    Moved { from: String, to: String },
}

/// Proof that S3 has a version.
#[derive(Debug)]
pub(super) struct Uploaded {
    pub(super) path: String,
    pub(super) etag: Etag,
    pub(super) size: u64,
    pub(super) content_type: Option<String>,
}

impl Uploaded {
    pub(super) fn base(&self) -> Base {
        Base::Version(self.etag.clone())
    }

    fn into_remote(self) -> Remote {
        let Self { path, etag, size, .. } = self;
        Remote { path, etag, size, last_modified: None, told: Told::All, racy: true }
    }
}

impl Volume {
    /// An operation is done. The inode that it was about.
    pub(super) fn finish(&self, seq: Seq, performed: Performed) -> Option<Ino> {
        self.breaker.close();
        let Performed { outcome, effect } = performed;
        let mut tree = self.tree();
        let record = Record::Done { seq, outcome: outcome.clone() };
        failpoint::hit(failpoint::COMMIT);
        let (_, tag) = self.close_operation(&mut tree, seq, &record, &outcome)?;
        tag.data.iter().for_each(|data| data.hold(Hold::Clean));
        apply(&mut tree, seq, &tag, effect, &self.conflicts);
        settle_names(&mut tree, seq, &tag);
        drop(tree);
        tag.touched.iter().for_each(|(parent, _)| self.records.note(*parent));
        self.queue.changed.notify_waiters();
        tag.ino
    }

    /// An operation cannot be done: its data go to lost+found, and it is shown.
    pub(super) fn give_up(&self, seq: Seq, error: &str) {
        let mut tree = self.tree();
        let text = match self.keep_lost(seq) {
            Some(kept) => format!("{error}; {kept}"),
            None => error.to_owned(),
        };
        let record = Record::Failed { seq, error: error.to_owned() };
        let Some((op, tag)) = self.close_operation(&mut tree, seq, &record, &Vec::new()) else { return };
        tag.spilled.keep_objects();
        tracing::error!(%seq, path = op.subject(), error = text, "an operation failed for good");
        if let Some(node) = tag.ino.and_then(|ino| tree.get_mut(ino).ok()) {
            node.error = Some(text.clone());
        }
        settle_names(&mut tree, seq, &tag);
        drop(tree);
        self.failures.lock().push(Failure { path: op.subject().to_owned(), error: text });
        self.queue.changed.notify_waiters();
    }

    /// Journal first, then the table, then the tree: after a crash the operation is found done or is done again.
    fn close_operation(&self, tree: &mut Tree, seq: Seq, record: &Record, outcome: &Outcome) -> Option<(Op, Tag)> {
        let mut table = self.queue.table.lock();
        let position = self.journal.append(record).unwrap_or_else(|error| {
            tracing::error!(%seq, %error, "the journal cannot be written, the operation will be repeated after a restart");
            self.journal.position()
        });
        failpoint::hit(failpoint::COMMITTED);
        let removed = table.pending.remove(seq, outcome)?;
        table.unsettled.end(&removed.0, position);
        removed.1.data.iter().for_each(|data| data.set_needed_until(position));
        if let (Record::Failed { .. }, Op::Salvage { path, .. }) = (record, &removed.0) {
            table.pending.orphan(path);
        }
        table.forget(seq);
        tree.end(seq);
        self.queue.unsent.fetch_sub(removed.1.bytes, Ordering::Relaxed);
        if self.journal.is_long() {
            self.compact(&table);
        }
        Some(removed)
    }

    fn compact(&self, table: &super::Table) {
        let begun = table.pending.iter().map(|(seq, op, _)| {
            let upload = table.uploads.get(&seq).cloned();
            (seq, Unfinished { op: op.clone(), open: false, upload, on_disk: table.on_disk.contains(&seq) })
        });
        let open = table.open.iter().map(|(seq, op)| {
            let on_disk = table.on_disk.contains(seq);
            (*seq, Unfinished { op: op.clone(), open: true, upload: None, on_disk })
        });
        if let Err(error) = self.journal.compact(&begun.chain(open).collect()) {
            tracing::warn!(%error, "the journal cannot be compacted");
        }
    }

    /// In lost+found before the journal forgets it. Where it is kept, if it has bytes.
    fn keep_lost(&self, seq: Seq) -> Option<String> {
        let table = self.queue.table.lock();
        let (op, tag) = table.pending.get(seq)?;
        let (op, data) = (op.clone(), tag.data.clone()?);
        drop(table);
        Some(self.set_aside(seq, &op, &data))
    }

    fn set_aside(&self, seq: Seq, op: &Op, data: &DataFile) -> String {
        let name = format!("{seq}-{}-{}", data.id, op.subject().replace('/', "_"));
        let name: String = name.chars().take(120).collect();
        match self.cache.keep_lost(data, &name, op) {
            Ok(place) if op.spilled().is_empty() => format!("the data are kept in {}", place.display()),
            Ok(place) => {
                format!("the data are kept in {} and the objects that the .json beside it names", place.display())
            }
            Err(error) => format!("and the data could not be kept: {error}"),
        }
    }
}

impl super::Queue {
    /// Paths at or below `path` that later operations touch.
    pub(super) fn touched_below(&self, path: &str) -> Vec<String> {
        self.table.lock().pending.touched_below(path)
    }
}

fn apply(tree: &mut Tree, seq: Seq, tag: &Tag, effect: Effect, conflicts: &std::sync::atomic::AtomicU64) {
    match effect {
        Effect::None => {}
        Effect::Uploaded(uploaded) => note_uploaded(tree, seq, tag, uploaded),
        Effect::Lost(uploaded) => {
            conflicts.fetch_add(1, Ordering::Relaxed);
            move_aside(tree, tag, &uploaded.path);
            note_uploaded(tree, seq, tag, uploaded);
        }
        Effect::Moved { from, to } => {
            tag.ino.into_iter().for_each(|dir| note_moved(tree, dir, seq, &from, &to));
        }
    }
}

fn note_uploaded(tree: &mut Tree, seq: Seq, tag: &Tag, uploaded: Uploaded) {
    let Some(node) = tag.ino.and_then(|ino| tree.get_mut(ino).ok()) else { return };
    node.base = uploaded.base();
    node.uploaded = Some(seq);
    node.extra.content_type.clone_from(&uploaded.content_type);
    node.remote = Some(uploaded.into_remote());
}

/// The inode that lost its name goes on under the name of the conflict copy.
fn move_aside(tree: &mut Tree, tag: &Tag, copy: &str) {
    let Some(ino) = tag.ino else { return };
    let place = tree.get(ino).map(|node| node.place.clone());
    let parent = match &place {
        Ok(Place::At { parent, .. } | Place::Replaced { parent, .. }) => *parent,
        Ok(Place::Root | Place::Gone) | Err(_) => return,
    };
    let name = copy.rsplit('/').next().unwrap_or(copy).to_owned();
    if let Ok(Place::At { name: old, .. }) = place {
        tree.touch(parent, &old);
        if let Ok(dir) = tree.get_mut(parent).and_then(Node::dir_mut) {
            dir.children.remove(&old);
        }
        tree.distrust_listing(parent);
    }
    tree.touch(parent, &name);
    if let Err(error) = tree.reattach(ino, parent, &name) {
        tracing::debug!(%ino, %error, "the directory of a conflict copy is gone");
    }
}

/// Objects of the inodes below a moved directory have new keys.
fn note_moved(tree: &mut Tree, dir: Ino, seq: Seq, from: &str, to: &str) {
    let mut left = vec![dir];
    while let Some(ino) = left.pop() {
        let Ok(node) = tree.get_mut(ino) else { continue };
        if let Some(remote) = node.remote.as_mut().filter(|remote| pending::is_below(&remote.path, from)) {
            remote.path = format!("{to}{}", &remote.path[from.len()..]);
        }
        if let Kind::Dir(dir) = &mut node.kind {
            dir.moved_from.retain(|(moved, _)| *moved != seq);
            dir.listed = None;
            dir.children.retain(|_, child| !matches!(child, Child::Listed(_)));
            left.extend(dir.children.values().filter_map(|child| match child {
                Child::Node(ino) => Some(*ino),
                Child::Gone(_) | Child::Absent(_) | Child::Listed(_) => None,
            }));
        }
    }
}

/// The names an operation changed are as S3 has them now.
fn settle_names(tree: &mut Tree, seq: Seq, tag: &Tag) {
    let now = tree.stamp();
    let node = tag.ino.and_then(|ino| tree.get_mut(ino).ok());
    if let Some(node) = node.filter(|node| node.pending == Some(seq)) {
        node.pending = None;
        node.checked = Some(now);
    }
    for (parent, name) in &tag.touched {
        tree.touch(*parent, name);
        let Ok(dir) = tree.get_mut(*parent).and_then(Node::dir_mut) else { continue };
        if matches!(dir.children.get(name), Some(Child::Gone(gone)) if *gone == seq) {
            dir.children.insert(name.clone(), Child::Absent(now));
        }
    }
    tag.ino.into_iter().chain(tag.preserve.iter().copied()).for_each(|ino| tree.drop_if_unused(ino));
}
