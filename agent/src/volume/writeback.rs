//! Brings what the journal holds to S3, in the order that [`pending`] allows, many operations side by side.
//!
//! Owns the queue; [`run`] takes operations out of it, and [`finish`] says what becomes of each.

mod copy;
mod finish;
mod forms;
mod object;
pub(crate) mod pending;
mod put;
mod rename;
mod run;
mod settle;
mod wait;
mod width;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use self::pending::Pending;
use self::settle::Unsettled;
use self::width::Width;
use super::Volume;
use super::attr::{Attr, Extra};
use super::cache::DataFile;
use super::content::Origin;
use super::error::{Result, VolumeError};
use super::journal::{Base, Op, OpenUpload, Position, Record, Seq};
use super::spill::Spilled;
use super::store::{ObjectKey, StoreError};
use super::tree::{Ino, Tree};

/// Operations at a time: most of them are one request for a small file, and wait for the network.
const PARALLEL: usize = 128;
/// Parts of large files on their way at a time.
const PARALLEL_PARTS: usize = 16;
/// Keys of moved directories copied and deleted at a time.
const PARALLEL_MOVES: usize = 96;
/// As many of each are tried whatever becomes of them.
const LEAST_PARALLEL: usize = 4;
/// The first pause after a failure.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// How long somebody who waits for S3 bears an operation that keeps failing.
pub(crate) const FAILING_PATIENCE: Duration = Duration::from_secs(25);

/// What an operation's end is told to.
#[derive(Debug, Default)]
pub(crate) struct Tag {
    /// The inode it is about.
    pub(crate) ino: Option<Ino>,
    /// The cache file it reads.
    pub(crate) data: Option<Arc<DataFile>>,
    /// What the cache file lacks.
    pub(crate) spilled: Spilled,
    /// The version that it differs from only where it was touched.
    pub(crate) origin: Option<Origin>,
    /// Its length.
    pub(crate) bytes: u64,
    /// Names it changes.
    pub(crate) touched: Vec<(Ino, String)>,
    /// Open inodes whose object it destroys: their bytes are fetched first.
    pub(crate) preserve: Vec<Ino>,
    /// Of a directory: it has no marker of another form.
    pub(crate) plain: bool,
    /// Its bytes are on the local disk already.
    pub(crate) on_disk: bool,
}

#[derive(Debug, Default)]
struct Table {
    pending: Pending<Tag>,
    last: u64,
    /// `Open` records in the journal.
    open: BTreeMap<Seq, Op>,
    /// Multipart uploads that were begun and perhaps not ended.
    uploads: HashMap<Seq, OpenUpload>,
    /// Operations of an earlier process, which may have begun a multipart upload that the journal does not know.
    replayed: HashSet<Seq>,
    /// Since when an operation has been failing.
    failing: HashMap<Seq, Instant>,
    /// The operation that does the work of a replaced one.
    replaced: HashMap<Seq, Seq>,
    /// Operations and `Open` records whose bytes are on disk, as the journal says.
    on_disk: HashSet<Seq>,
    /// What the disk does not have.
    unsettled: Unsettled,
}

impl Table {
    fn next_seq(&mut self) -> Seq {
        self.last += 1;
        Seq(self.last)
    }

    /// Its bytes are on disk, or are to be brought there.
    fn note_bytes(&mut self, seq: Seq, tag: &Tag) {
        match &tag.data {
            Some(_) if tag.on_disk => drop(self.on_disk.insert(seq)),
            Some(data) => self.unsettled.add(seq, data),
            None => {}
        }
    }

    /// The operation that does what `seq` was to do.
    fn current(&self, mut seq: Seq) -> Seq {
        while let Some(later) = self.replaced.get(&seq) {
            seq = *later;
        }
        seq
    }

    /// Drops what is remembered of operations that `seq` replaced.
    fn forget(&mut self, seq: Seq) {
        self.on_disk.remove(&seq);
        self.failing.remove(&seq);
        self.uploads.remove(&seq);
        self.replayed.remove(&seq);
        let mut ended = vec![seq];
        while let Some(end) = ended.pop() {
            ended.extend(self.replaced.iter().filter(|(_, later)| **later == end).map(|(old, _)| *old));
            self.replaced.retain(|_, later| *later != end);
        }
    }
}

/// The queue of one volume.
#[derive(Debug)]
pub(crate) struct Queue {
    table: Mutex<Table>,
    changed: Notify,
    /// Bytes in queued uploads.
    unsent: AtomicU64,
    operations: Width,
    parts: Width,
    moves: Width,
    /// Held by the one who brings a group to the disk.
    settling: tokio::sync::Mutex<()>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            changed: Notify::default(),
            unsent: AtomicU64::default(),
            operations: Width::new(LEAST_PARALLEL, PARALLEL),
            parts: Width::new(LEAST_PARALLEL, PARALLEL_PARTS),
            moves: Width::new(LEAST_PARALLEL, PARALLEL_MOVES),
            settling: tokio::sync::Mutex::default(),
        }
    }
}

impl Queue {
    /// Bytes in queued uploads.
    pub(crate) fn unsent_bytes(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }

    /// Operations that are not done.
    pub(crate) fn unsent(&self) -> usize {
        self.table.lock().pending.iter().count()
    }

    /// Operations that S3 is being asked for.
    pub(crate) fn running(&self) -> usize {
        self.table.lock().pending.running()
    }

    /// Whether an operation on `path` is not done.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.table.lock().pending.has(path)
    }

    /// Whether an operation that is not done moves or removes the directory at `path`, or one above it.
    pub(crate) fn moves_or_removes(&self, path: &str) -> bool {
        self.table.lock().pending.moves_or_removes(path)
    }

    /// Returns when an operation was acknowledged or has ended, at the latest after `limit`.
    pub(crate) async fn wait_for_change(&self, limit: Duration) {
        // Which of both it was, the caller sees.
        let _ = tokio::time::timeout(limit, self.changed.notified()).await;
    }

    /// The operations that are not done now and whose path `concerns`.
    pub(crate) fn outstanding(&self, concerns: impl Fn(&str) -> bool) -> Vec<Seq> {
        let table = self.table.lock();
        let concerned = table.pending.iter().filter(|(_, op, _)| op.paths().into_iter().any(&concerns));
        concerned.map(|(seq, _, _)| seq).collect()
    }
}

impl Volume {
    /// Acknowledges an operation: it is in the journal (not yet synced) and in the queue. `open`: the journal's `Open` of
    /// the same file, which it replaces. A queued upload of the same file that has not started is replaced too.
    pub(crate) fn submit(&self, tree: &mut Tree, op: Op, tag: Tag, open: Option<Seq>) -> Result<(Seq, Position)> {
        if self.closing.is_cancelled() {
            return Err(VolumeError::Closing);
        }
        let mut table = self.queue.table.lock();
        let (op, replaced) = chain(&table.pending, op);
        let seq = table.next_seq();
        let supersedes = open.into_iter().chain(replaced).collect();
        let begin = Record::Begin { seq, op: op.clone(), supersedes, on_disk: tag.on_disk };
        let position = self.journal.append(&begin)?;
        if let Some(old) = replaced {
            if let Some((_, tag)) = table.pending.remove(old, &Vec::new()) {
                self.queue.unsent.fetch_sub(tag.bytes, Ordering::Relaxed);
                tag.data.iter().for_each(|data| data.set_needed_until(position));
            }
            table.failing.remove(&old);
            table.on_disk.remove(&old);
            self.take_over_upload(&mut table, old, seq)?;
            table.replaced.insert(old, seq);
            tree.end(old);
        }
        if let Some(open) = open {
            table.open.remove(&open);
            table.on_disk.remove(&open);
        }
        table.note_bytes(seq, &tag);
        tag.touched.iter().for_each(|(parent, name)| tree.touch(*parent, name));
        self.queue.unsent.fetch_add(tag.bytes, Ordering::Relaxed);
        table.pending.add(seq, op, tag);
        tree.begin(seq);
        drop(table);
        self.queue.changed.notify_waiters();
        Ok((seq, position))
    }

    /// Notes in the journal that a file is being written, before its first byte is acknowledged.
    pub(crate) fn note_open(&self, op: Op, replaces: Option<Seq>) -> Result<Seq> {
        if self.closing.is_cancelled() {
            return Err(VolumeError::Closing);
        }
        let mut table = self.queue.table.lock();
        let seq = table.next_seq();
        self.journal.append(&Record::Open { seq, op: op.clone(), supersedes: replaces.into_iter().collect() })?;
        table.open.insert(seq, op);
        if let Some(old) = replaces {
            table.open.remove(&old);
            if table.on_disk.remove(&old) {
                self.journal.append(&Record::Synced { seqs: vec![seq] })?;
                table.on_disk.insert(seq);
            }
        }
        Ok(seq)
    }

    /// Notes in the journal what is spilled of a file that is being written.
    pub(crate) fn change_open(&self, record: Record) -> Result<Position> {
        let mut table = self.queue.table.lock();
        let position = self.journal.append(&record)?;
        match record {
            Record::Spill { seq, run } => {
                table.open.get_mut(&seq).into_iter().for_each(|op| op.add_spilled(run.clone()));
            }
            Record::Unspill { seq, first, count } => {
                table.open.get_mut(&seq).into_iter().for_each(|op| op.remove_spilled(first, count));
            }
            _ => {}
        }
        Ok(position)
    }

    /// What an operation left of a multipart upload is for the one to give up that replaces it.
    fn take_over_upload(&self, table: &mut Table, old: Seq, seq: Seq) -> Result<()> {
        if let Some(upload) = table.uploads.remove(&old) {
            self.journal.append(&Record::Upload { seq, upload: upload.clone() })?;
            table.uploads.insert(seq, upload);
        }
        if table.replayed.remove(&old) {
            table.replayed.insert(seq);
        }
        Ok(())
    }

    /// Notes in the journal that an operation began a multipart upload.
    fn note_upload(&self, seq: Seq, upload: OpenUpload) -> std::io::Result<()> {
        let mut table = self.queue.table.lock();
        self.journal.append(&Record::Upload { seq, upload: upload.clone() })?;
        table.uploads.insert(seq, upload);
        Ok(())
    }

    /// Gives up the multipart uploads that earlier attempts of an operation, perhaps in another process, have left.
    async fn abort_leftovers(&self, seq: Seq, path: &str) -> std::result::Result<(), StoreError> {
        self.abort_leftover(seq).await?;
        let unknown = self.queue.table.lock().replayed.contains(&seq);
        if unknown {
            self.abort_uploads(|key| key == path, path).await?;
            self.queue.table.lock().replayed.remove(&seq);
        }
        Ok(())
    }

    /// Gives up what earlier attempts of an operation, perhaps in another process, have left of a copy in parts.
    async fn abort_copies(&self, seq: Seq, path: &str, size: u64) -> std::result::Result<(), StoreError> {
        let repeated = {
            let table = self.queue.table.lock();
            table.replayed.contains(&seq) || table.failing.contains_key(&seq)
        };
        if size <= self.cut.single_copy || !repeated {
            return Ok(());
        }
        self.abort_uploads(|key| key == path, path).await
    }

    /// Gives up the uploads of keys that begin with `prefix` and are `wanted`. One of another node for the same file just
    /// begins again.
    pub(crate) async fn abort_uploads(
        &self,
        wanted: impl Fn(&str) -> bool,
        prefix: &str,
    ) -> std::result::Result<(), StoreError> {
        let open = match self.store.multipart_list(prefix).await {
            // A server that does not know the call: the bucket's lifecycle rules, or `repair`, remove what is left.
            Err(StoreError::Refused(_, _)) => Vec::new(),
            result => result?,
        };
        for upload in open.iter().filter(|upload| wanted(upload.key.as_str())) {
            self.abort_upload(&upload.key, &upload.id).await?;
        }
        Ok(())
    }

    /// Gives up the multipart upload that an operation has begun.
    async fn abort_leftover(&self, seq: Seq) -> std::result::Result<(), StoreError> {
        let Some(upload) = self.queue.table.lock().uploads.get(&seq).cloned() else { return Ok(()) };
        self.abort_upload(&ObjectKey::new(&upload.key), &upload.id).await?;
        self.queue.table.lock().uploads.remove(&seq);
        Ok(())
    }

    async fn abort_upload(&self, key: &ObjectKey, id: &str) -> std::result::Result<(), StoreError> {
        match self.store.multipart_abort(key, id).await {
            Err(StoreError::NotFound(_)) => Ok(()),
            result => result,
        }
    }

    /// The id of the upload that an `Open` would become.
    pub(crate) fn open_write(&self, open: Seq) -> Option<Uuid> {
        match self.queue.table.lock().open.get(&open)? {
            Op::Put { write, .. } => Some(*write),
            _ => None,
        }
    }

    /// Notes that a file that was being written is not wanted any more.
    pub(crate) fn drop_open(&self, open: Seq) -> Result<()> {
        let mut table = self.queue.table.lock();
        table.on_disk.remove(&open);
        if table.open.remove(&open).is_some() {
            self.journal.append(&Record::Done { seq: open, outcome: Vec::new() })?;
        }
        Ok(())
    }

    /// Changes the attributes, and the other headers if there are any, that a queued operation or an open file's record
    /// will write. None when it is too late, or the operation does not write them.
    pub(crate) fn amend(&self, seq: Seq, attr: Attr, extra: Option<&Extra>) -> Result<Option<Position>> {
        let mut table = self.queue.table.lock();
        if let Some(op) = table.open.get_mut(&seq) {
            op.set_attr(attr, extra);
        } else if !table.pending.amend(seq, attr, extra) {
            return Ok(None);
        }
        Ok(Some(self.journal.append(&Record::Amend { seq, attr, extra: extra.cloned() })?))
    }

    /// Puts an operation that an earlier process left into the queue again. Only before the mount.
    pub(crate) fn requeue(&self, tree: &mut Tree, seq: Seq, op: Op, tag: Tag, upload: Option<OpenUpload>) {
        let mut table = self.queue.table.lock();
        let may_copy = matches!(op, Op::Rename { .. } | Op::RenameDir { .. } | Op::SetAttr { directory: false, .. });
        if may_copy || self.goes_in_parts(tag.bytes, &tag.spilled) {
            table.replayed.insert(seq);
        }
        upload.into_iter().for_each(|upload| drop(table.uploads.insert(seq, upload)));
        table.last = table.last.max(seq.0);
        self.queue.unsent.fetch_add(tag.bytes, Ordering::Relaxed);
        table.note_bytes(seq, &tag);
        table.pending.add_again(seq, op, tag);
        tree.begin(seq);
    }
}

/// Lets an upload or a deletion take the place of a queued upload of the same path, or wait for what is on its way.
fn chain(pending: &Pending<Tag>, mut op: Op) -> (Op, Option<Seq>) {
    if let Op::Put { path, .. } | Op::Delete { path, .. } = &op {
        let path = path.clone();
        if let Some((old, Op::Put { base, .. })) = pending.replaceable(&path) {
            op.set_base(&path, base);
            return (op, Some(old));
        }
    }
    if let Op::Delete { path, base: Base::Absent } | Op::SetAttr { path, base: Base::Absent, .. } = &op
        && pending.is_moved_to(path)
    {
        // An upload under the old name has its version still to tell, and the move may have been done in part.
        let path = path.clone();
        op.set_base(&path, &Base::Unknown);
    }
    let busy: Vec<String> = op.paths().into_iter().filter(|path| pending.has(path)).map(str::to_owned).collect();
    for path in busy {
        op.set_base(&path, &Base::Unknown);
    }
    (op, None)
}
