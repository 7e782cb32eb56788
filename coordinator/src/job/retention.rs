//! How long the output of jobs that are over is kept: as long as they are among the newest.

use std::collections::HashSet;
use std::path::Path;

use ec2mpi_proto::id::JobId;
use tracing::{debug, warn};

use super::Jobs;
use crate::error::Error;
use crate::output::Spool;

/// Jobs kept of each cluster name, beside those under way.
const KEPT_PER_CLUSTER: u32 = 200;
/// Jobs kept in all, beside those under way.
const KEPT_IN_ALL: u32 = 2000;

impl Jobs {
    /// Removes the oldest jobs that are over, output first: a record without output is found again, the reverse not.
    pub(super) async fn prune(&self) {
        if let Err(error) = self.try_prune().await {
            warn!(%error, "cannot remove old jobs");
        }
    }

    /// After a restart: prunes, and removes output that no record names.
    pub(super) async fn prune_and_sweep(&self) {
        self.prune().await;
        for id in stored(&self.output_dir) {
            if let Ok(None) = self.parts.state.job(&id) {
                debug!(job = %id, "removing output without a record");
                self.remove_output(&id).await;
            }
        }
    }

    async fn try_prune(&self) -> Result<(), Error> {
        let live: HashSet<JobId> = self.live.lock().keys().cloned().collect();
        for id in self.parts.state.surplus_jobs(KEPT_PER_CLUSTER, KEPT_IN_ALL)? {
            if !live.contains(&id) {
                self.remove_output(&id).await;
                self.parts.state.delete_job(&id)?;
            }
        }
        Ok(())
    }

    async fn remove_output(&self, id: &JobId) {
        if let Err(error) = Spool::new(&self.output_dir, id).remove().await {
            warn!(job = %id, %error, "cannot remove a job's output");
        }
    }
}

/// The jobs with a directory; nothing where there is none yet.
fn stored(output_dir: &Path) -> Vec<JobId> {
    let entries = std::fs::read_dir(output_dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
