//! Deletes objects with spilled parts that nobody needs any more: at once those of this process, at the start those of
//! the processes before.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;

use super::Discarded;
use crate::volume::Volume;
use crate::volume::store::{Condition, ObjectKey, StoreError};

/// How long what S3 did not answer waits for the next try.
const AGAIN: Duration = Duration::from_secs(60);
/// Objects that one sync of the journal is enough for.
const BATCH: usize = 1000;
/// Deletions at a time.
const PARALLEL: usize = 8;

impl Volume {
    /// Deletes what is discarded, until the volume closes. `needed`: the objects that journal and lost+found name.
    pub(crate) async fn sweep_spills(self: Arc<Self>, needed: HashSet<String>) {
        let Some(mut discarded) = self.spills.discarded.lock().take() else { return };
        tokio::select! {
            () = self.closing.cancelled() => {}
            ((), ()) = async { tokio::join!(self.sweep_old(&needed), self.sweep_own(&mut discarded)) } => {}
        }
    }

    /// Those of this process, as they come. What could not be deleted is tried again with later ones, or at the next start.
    async fn sweep_own(&self, discarded: &mut mpsc::UnboundedReceiver<Discarded>) {
        let mut left: Vec<String> = Vec::new();
        loop {
            let mut batch = Vec::new();
            let patience = if left.is_empty() { Duration::MAX } else { AGAIN };
            let received = tokio::time::timeout(patience, discarded.recv_many(&mut batch, BATCH)).await;
            if received == Ok(0) {
                return;
            }
            left.extend(batch.iter_mut().map(|object| std::mem::take(&mut object.key)));
            left = self.remove_spills(left).await;
        }
    }

    async fn sweep_old(&self, needed: &HashSet<String>) {
        if !self.spills.mark.was_set() {
            return;
        }
        while let Err(error) = self.try_sweep_old(needed).await {
            tracing::info!(%error, "objects of an earlier process cannot be looked for yet");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn try_sweep_old(&self, needed: &HashSet<String>) -> Result<(), StoreError> {
        let prefix = format!("{}/", self.spills.prefix);
        let mut token = None;
        loop {
            let page = self.store.list(&prefix, None, token.as_deref(), 1000).await?;
            let keys = page.objects.iter().map(|object| object.key.to_string());
            let old = keys.filter(|key| !key.starts_with(&self.spills.own) && !needed.contains(key));
            self.remove_spills(old.collect()).await;
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Deletes objects; those that could not be. That they are not needed is on disk first.
    async fn remove_spills(&self, keys: Vec<String>) -> Vec<String> {
        if let Err(error) = self.journal.sync_all().await {
            tracing::warn!(%error, "spilled parts stay, the journal cannot be synced");
            return keys;
        }
        let deletions = futures::stream::iter(keys).map(|key| self.remove_spill(key)).buffer_unordered(PARALLEL);
        deletions.filter_map(std::future::ready).collect().await
    }

    /// The key, when S3 did not delete the object.
    async fn remove_spill(&self, key: String) -> Option<String> {
        let error = self.store.delete(&ObjectKey::new(&key), &Condition::Always).await.err()?;
        tracing::info!(key, %error, "a spilled part stays for now");
        Some(key)
    }
}
