//! Brings what the journal holds to S3, in the order that [`pending`] allows, many operations side by side.
//!
//! Owns the queue and what becomes of each operation. A transient failure is tried again as long as the volume lives,
//! with growing pauses; access denied for a while, since credentials are renewed; anything else fails for good: the data
//! goes to lost+found, the file reports it at the next fsync or close, and status shows it.

mod copy;
mod finish;
mod forms;
mod object;
pub(crate) mod pending;
mod put;
mod rename;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use self::finish::Performed;
use self::pending::Pending;
use super::Volume;
use super::attr::{Attr, Extra};
use super::cache::DataFile;
use super::error::{Result, VolumeError};
use super::journal::{Base, Op, OpenUpload, Position, Record, Seq};
use super::name;
use super::spill::Spilled;
use super::store::{ObjectKey, StoreError};
use super::tree::{Ino, Tree};

/// Operations at a time.
const PARALLEL: usize = 16;
/// The first pause after a failure.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);
/// How long "access denied" is taken for credentials that are being renewed.
const DENIED_PATIENCE: Duration = Duration::from_secs(300);
/// How long somebody who waits for S3 bears an operation that keeps failing.
pub(crate) const FAILING_PATIENCE: Duration = Duration::from_secs(25);
/// How often somebody who waits asks S3 whether it is there, and how long that may take.
const LOOK: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(500);

/// What an operation's end is told to.
#[derive(Debug, Default)]
pub(crate) struct Tag {
    /// The inode it is about.
    pub(crate) ino: Option<Ino>,
    /// The cache file it reads.
    pub(crate) data: Option<Arc<DataFile>>,
    /// What the cache file lacks.
    pub(crate) spilled: Spilled,
    /// Its length.
    pub(crate) bytes: u64,
    /// Names it changes.
    pub(crate) touched: Vec<(Ino, String)>,
    /// Open inodes whose object it destroys: their bytes are fetched first.
    pub(crate) preserve: Vec<Ino>,
}

#[derive(Debug, Default)]
struct Table {
    pending: Pending<Tag>,
    last: u64,
    /// `Open` records in the journal.
    open: BTreeMap<Seq, Op>,
    /// Multipart uploads that were begun and perhaps not ended.
    uploads: HashMap<Seq, OpenUpload>,
    /// Large uploads of an earlier process, which may have begun a multipart upload that the journal does not know.
    replayed: HashSet<Seq>,
    /// Since when an operation has been failing.
    failing: HashMap<Seq, Instant>,
    /// The operation that does the work of a replaced one.
    replaced: HashMap<Seq, Seq>,
}

impl Table {
    fn next_seq(&mut self) -> Seq {
        self.last += 1;
        Seq(self.last)
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
#[derive(Debug, Default)]
pub(crate) struct Queue {
    table: Mutex<Table>,
    changed: Notify,
    /// Bytes in queued uploads.
    unsent: AtomicU64,
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
        let position = self.journal.append(&Record::Begin { seq, op: op.clone(), supersedes })?;
        if let Some(old) = replaced {
            let removed = table.pending.remove(old, &Vec::new());
            self.queue.unsent.fetch_sub(removed.map_or(0, |(_, tag)| tag.bytes), Ordering::Relaxed);
            table.failing.remove(&old);
            self.take_over_upload(&mut table, old, seq)?;
            table.replaced.insert(old, seq);
            tree.end(old);
        }
        open.map(|open| table.open.remove(&open));
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
        replaces.map(|old| table.open.remove(&old));
        table.open.insert(seq, op);
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
            // One of another node for the same file just begins again.
            let open = match self.store.multipart_list(path).await {
                // A server that does not know the call: the bucket's lifecycle rules, or `repair`, remove what is left.
                Err(StoreError::Refused(_, _)) => Vec::new(),
                result => result?,
            };
            for upload in open.iter().filter(|upload| upload.key.as_str() == path) {
                self.abort_upload(&upload.key, &upload.id).await?;
            }
            self.queue.table.lock().replayed.remove(&seq);
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
        if self.goes_in_parts(tag.bytes, &tag.spilled) {
            table.replayed.insert(seq);
        }
        upload.into_iter().for_each(|upload| drop(table.uploads.insert(seq, upload)));
        table.last = table.last.max(seq.0);
        self.queue.unsent.fetch_add(tag.bytes, Ordering::Relaxed);
        table.pending.add(seq, op, tag);
        tree.begin(seq);
    }

    /// Starts operations as they may run, until the volume closes.
    pub(crate) async fn write_back(self: Arc<Self>) {
        let slots = Arc::new(Semaphore::new(PARALLEL));
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let Some((seq, op)) = self.next_operation().await else { return };
            let (volume, slots) = (self.clone(), slots.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = volume.carry_out(seq, &op, slot, &slots) => {}
                    () = volume.closing.cancelled() => {}
                }
            });
        }
    }

    async fn next_operation(&self) -> Option<(Seq, Op)> {
        loop {
            let changed = self.queue.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.closing.is_cancelled() {
                return None;
            }
            if let Some(next) = self.start_next() {
                return Some(next);
            }
            tokio::select! {
                () = changed => {}
                () = self.closing.cancelled() => return None,
            }
        }
    }

    fn start_next(&self) -> Option<(Seq, Op)> {
        let mut tree = self.tree();
        let (seq, op) = self.queue.table.lock().pending.start_next()?;
        tree.started(seq);
        Some((seq, op))
    }

    /// Gives its slot to others while it pauses: what cannot be done now does not hold up what can.
    async fn carry_out(&self, seq: Seq, op: &Op, slot: OwnedSemaphorePermit, slots: &Arc<Semaphore>) {
        let mut backoff = self.options.first_pause;
        let mut slot = Some(slot);
        loop {
            let error = match self.perform(seq, op).await {
                Ok(performed) => {
                    let discarding = self.spills.discarding();
                    if let Some(ino) = self.finish(seq, performed) {
                        self.release_spilled(ino).await;
                    }
                    drop(discarding);
                    return self.make_room(0).await;
                }
                Err(error) => error,
            };
            if !self.may_retry(seq, &error) {
                return self.give_up(seq, &error.to_string());
            }
            tracing::info!(%seq, path = op.subject(), %error, "write-back failed, trying again");
            drop(slot.take());
            let jitter = backoff.mul_f64(rand::thread_rng().gen_range(0.0..0.5));
            tokio::time::sleep(backoff + jitter).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            slot = slots.clone().acquire_owned().await.ok();
        }
    }

    fn may_retry(&self, seq: Seq, error: &StoreError) -> bool {
        let since = *self.queue.table.lock().failing.entry(seq).or_insert_with(Instant::now);
        match error {
            StoreError::Transient(_, _) => true,
            StoreError::Denied(_, _) => since.elapsed() < DENIED_PATIENCE,
            StoreError::NotFound(_) | StoreError::Conflict(_) | StoreError::Refused(_, _) | StoreError::Local(_) => {
                false
            }
        }
    }

    async fn perform(&self, seq: Seq, op: &Op) -> std::result::Result<Performed, StoreError> {
        self.preserve(seq).await;
        match op {
            Op::Put { path, attr, extra, base, write, .. } => {
                self.abort_leftovers(seq, path).await?;
                let (data, spilled) = self.data_of(seq)?;
                let source = put::Source::Data(data, spilled);
                self.put_file(&put::Upload { seq, path, attr, extra, base, write: *write, source }).await
            }
            Op::Symlink { path, target, attr, base, write } => {
                let source = put::Source::Inline(name::from_key(target).into_encoded_bytes().into());
                let extra = &Extra::default();
                self.put_file(&put::Upload { seq, path, attr, extra, base, write: *write, source }).await
            }
            Op::Mknod { path, attr, base, write } => {
                let (source, extra) = (put::Source::Inline(Bytes::new()), &Extra::default());
                self.put_file(&put::Upload { seq, path, attr, extra, base, write: *write, source }).await
            }
            Op::Delete { path, base } => {
                self.abort_leftovers(seq, path).await?;
                self.delete_object(path, base).await
            }
            Op::Rename { from, to, source, base, size, attr, extra, write } => {
                let copy = rename::Copy { from, to, source, base, size: *size, attr, extra, write: *write };
                self.rename_object(&copy).await
            }
            Op::RenameDir { from, to, .. } => self.rename_directory(from, to).await,
            Op::SetAttr { path, directory: true, attr, extra, write, .. } => {
                self.put_marker(path, attr, extra, *write).await
            }
            Op::SetAttr { path, directory: false, size, attr, extra, base, write } => {
                self.set_attributes(&object::Change { path, size: *size, attr, extra, base, write: *write }).await
            }
            Op::Mkdir { path, attr, write } => self.make_marker(path, attr, *write).await,
            Op::Rmdir { path } => self.remove_marker(path).await,
        }
    }

    fn data_of(&self, seq: Seq) -> std::result::Result<(Arc<DataFile>, Spilled), StoreError> {
        let table = self.queue.table.lock();
        let data = table.pending.get(seq).and_then(|(_, tag)| Some((tag.data.clone()?, tag.spilled.clone())));
        data.ok_or_else(|| StoreError::Local("the cache file is gone".to_owned()))
    }

    /// Fetches what open files still need of the objects that are about to go. Bytes that cannot be had are missing then.
    async fn preserve(&self, seq: Seq) {
        let inos = {
            let table = self.queue.table.lock();
            table.pending.get(seq).map(|(_, tag)| tag.preserve.clone()).unwrap_or_default()
        };
        for ino in inos {
            let content = self.tree().get(ino).ok().filter(|node| node.opens > 0).and_then(|node| node.content().ok());
            let Some(content) = content else { continue };
            if let Err(error) = self.complete(ino, &content).await {
                tracing::warn!(%ino, %error, "an open file that was deleted cannot be read any more");
            }
        }
    }

    /// Returns when an operation is not outstanding any more; an error when it has been failing for `patience`.
    pub(crate) async fn wait_for(&self, seq: Seq, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut next_look = begun + LOOK;
        loop {
            let changed = self.queue.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let table = self.queue.table.lock();
                let seq = table.current(seq);
                if !table.pending.contains(seq) {
                    return Ok(());
                }
                if table.failing.get(&seq).is_some_and(|since| since.max(&begun).elapsed() > patience) {
                    return Err(VolumeError::TimedOut);
                }
            }
            if patience <= FAILING_PATIENCE && Instant::now() > next_look {
                // A large upload takes its time; an S3 that answers nothing at all is not waited for.
                self.expect_answer().await?;
                next_look = Instant::now() + LOOK;
            }
            if self.closing.is_cancelled() {
                return Err(VolumeError::Closing);
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

impl Volume {
    /// Whether S3 answers anything.
    async fn expect_answer(&self) -> Result<()> {
        match tokio::time::timeout(LOOK, self.store.list("", None, None, 1)).await {
            Ok(Err(StoreError::Transient(_, _))) | Err(_) => Err(VolumeError::TimedOut),
            Ok(_) => Ok(()),
        }
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
    let busy: Vec<String> = op.paths().into_iter().filter(|path| pending.has(path)).map(str::to_owned).collect();
    for path in busy {
        op.set_base(&path, &Base::Unknown);
    }
    (op, None)
}
