//! Waiting for operations to end.

use std::time::{Duration, Instant};

use super::FAILING_PATIENCE;
use crate::volume::Volume;
use crate::volume::error::{Result, VolumeError};
use crate::volume::journal::Seq;
use crate::volume::store::StoreError;

/// How often somebody who waits asks S3 whether it is there, and how long that may take.
const LOOK: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(500);

impl Volume {
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

    /// Whether S3 answers anything.
    async fn expect_answer(&self) -> Result<()> {
        match tokio::time::timeout(LOOK, self.store.list("", None, None, 1)).await {
            Ok(Err(StoreError::Transient(_, _))) | Err(_) => Err(VolumeError::TimedOut),
            Ok(_) => Ok(()),
        }
    }
}
