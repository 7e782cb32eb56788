//! Deletes objects with spilled parts that nobody needs any more: at once those of this process, at the start those of
//! the processes before.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::volume::Volume;
use crate::volume::store::{Condition, ObjectKey, StoreError};

/// How long a start that S3 did not answer waits before it looks again.
const AGAIN: Duration = Duration::from_secs(60);

impl Volume {
    /// Deletes what is discarded, until the volume closes. `needed`: the objects that journal and lost+found name.
    pub(crate) async fn sweep_spills(self: Arc<Self>, needed: HashSet<String>) {
        let Some(mut discarded) = self.spills.discarded.lock().take() else { return };
        let old = self.spills.marked.load(std::sync::atomic::Ordering::SeqCst);
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = async {
                if old {
                    self.sweep_old(&needed).await;
                }
                while let Some(key) = discarded.recv().await {
                    self.remove_spill(&key).await;
                }
            } => {}
        }
    }

    async fn sweep_old(&self, needed: &HashSet<String>) {
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
            for object in &page.objects {
                let key = object.key.as_str();
                if !key.starts_with(&self.spills.own) && !needed.contains(key) {
                    self.remove_spill(key).await;
                }
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// What cannot be deleted now is found at the next start. That the object is not needed is on disk first.
    async fn remove_spill(&self, key: &str) {
        if let Err(error) = self.journal.sync_all().await {
            return tracing::warn!(key, %error, "a spilled part stays, the journal cannot be synced");
        }
        if let Err(error) = self.store.delete(&ObjectKey::new(key), &Condition::Always).await {
            tracing::info!(key, %error, "a spilled part stays until the next start");
        }
    }
}
