//! Takes operations out of the queue and carries them out.
//!
//! A transient failure is tried again as long as the volume lives, with growing pauses; access denied for a while, since
//! credentials are renewed; anything else fails for good: the data goes to lost+found, the file reports it at the next
//! fsync or close, and status shows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng;
use tokio::sync::OwnedSemaphorePermit;

use super::finish::Performed;
use super::{object, put, rename};
use crate::volume::Volume;
use crate::volume::attr::Extra;
use crate::volume::journal::{Op, Seq};
use crate::volume::name;
use crate::volume::store::StoreError;

const LONGEST_BACKOFF: Duration = Duration::from_secs(15);
/// How long "access denied" is taken for credentials that are being renewed.
const DENIED_PATIENCE: Duration = Duration::from_secs(300);

impl Volume {
    /// Starts operations as they may run, until the volume closes.
    pub(crate) async fn write_back(self: Arc<Self>) {
        while let Some(slot) = self.queue.operations.enter().await {
            let Some((seq, op)) = self.next_operation().await else { return };
            let volume = self.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = volume.carry_out(seq, &op, slot) => {}
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
    async fn carry_out(&self, seq: Seq, op: &Op, slot: OwnedSemaphorePermit) {
        let mut backoff = self.options.first_pause;
        let mut slot = Some(slot);
        loop {
            let result = self.perform(seq, op).await;
            let answered = !matches!(result, Err(StoreError::Transient(_, _)));
            slot.take().into_iter().for_each(|slot| self.queue.operations.leave(slot, answered));
            let error = match result {
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
            let jitter = backoff.mul_f64(rand::thread_rng().gen_range(0.0..0.5));
            tokio::time::sleep(backoff + jitter).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            slot = self.queue.operations.enter().await;
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
        self.remember_before(op).await;
        match op {
            Op::Put { path, attr, extra, base, write, .. } => {
                self.abort_leftovers(seq, path).await?;
                let source = put::Source::Data(self.data_of(seq)?);
                self.put_file(&put::Upload { seq, path, attr, extra, base, write: *write, source }).await
            }
            Op::Salvage { path, write, .. } => {
                self.abort_leftovers(seq, path).await?;
                self.expect_uploaded(path, *write).await
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
            Op::Rename { from, to, source, base, attr, extra, write, .. } => {
                let copy = rename::Copy { seq, from, to, source, base, attr, extra, write: *write };
                self.rename_object(&copy).await
            }
            Op::RenameDir { from, to, .. } => self.rename_directory(seq, from, to).await,
            Op::SetAttr { path, directory: true, attr, extra, write, .. } => {
                self.put_marker(path, attr, extra, *write, self.is_plain(seq)).await
            }
            Op::SetAttr { path, directory: false, size, attr, extra, base, write } => {
                self.set_attributes(&object::Change { seq, path, size: *size, attr, extra, base, write: *write }).await
            }
            Op::Mkdir { path, attr, write } => self.make_marker(path, attr, *write).await,
            Op::Rmdir { path } => self.remove_marker(path, self.is_plain(seq)).await,
        }
    }

    /// Whether the operation is about a directory that has no marker of another form.
    fn is_plain(&self, seq: Seq) -> bool {
        self.queue.table.lock().pending.get(seq).is_some_and(|(_, tag)| tag.plain)
    }

    fn data_of(&self, seq: Seq) -> std::result::Result<put::Data, StoreError> {
        let table = self.queue.table.lock();
        let data = table.pending.get(seq).and_then(|(_, tag)| {
            let (spilled, origin) = (tag.spilled.clone(), tag.origin.clone());
            Some(put::Data { file: tag.data.clone()?, spilled, origin })
        });
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
}
