//! Jobs: one `mpirun`, or one plain command, with its state, output and exit code.
//!
//! A job is written down before anything is asked of a node, and every step of it can be repeated, so a coordinator
//! that comes back goes on where the record says ([`Jobs::resume`]). [`JobState::advance`] is the only place that
//! moves a state; one task a job ([`drive`](self)) acts on it:
//!
//! ```text
//! Preparing   opening barrier, hostfile, start    -> Running
//! Running     output into the spool, exit; or a node is lost -> Finishing
//! Cancelling  SIGINT, SIGTERM, SIGKILL, all nodes -> Finishing
//! Finishing   leftovers ended, closing barrier    -> Ended
//! ```
//!
//! Listeners read the spool ([`crate::output`]); a job neither knows nor waits for them.

mod barrier;
mod drive;
mod follow;
mod kill;
mod nodes;
mod record;
mod resolve;
mod retention;
mod settle;
mod state;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterName, JobId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::cluster::{ClusterPhase, ClusterView, Clusters, NodePhase, NodeView, now};
use crate::error::Error;
use crate::output::{Listener, Offsets, Progress, Spool};
use crate::registry::Registry;
use crate::state::State;
use drive::Driver;

pub use record::{DEFAULT_NODE_TIMEOUT, JobNode, JobRecord, MpiPart, Process};
pub use resolve::{ExecSpec, Explanation, RunSpec, usable_node};
pub use settle::settled;
pub use state::{Ending, Event, JobState};

/// How many jobs may be under way at once; each has a task and two open files.
const MAX_LIVE: usize = 256;
/// How long a cancel call waits for the end before it answers with the state at that time.
const CANCEL_WAIT: Duration = Duration::from_secs(25);

/// How long agents may take to come back to a coordinator that was restarted, before a run is refused or goes without.
const SESSIONS_WAIT: Duration = Duration::from_secs(15);
const SESSIONS_PAUSE: Duration = Duration::from_millis(50);

/// The jobs of this coordinator. Cheap to clone; clones share.
#[derive(Debug, Clone)]
pub struct Jobs {
    parts: Parts,
    output_dir: PathBuf,
    live: Arc<Mutex<HashMap<JobId, Live>>>,
}

/// What jobs see of clusters.
pub(crate) trait ClusterViews: std::fmt::Debug + Send + Sync {
    /// The cluster of this name as it is now.
    fn get(&self, name: &ClusterName) -> Result<ClusterView, Error>;
}

impl ClusterViews for Clusters {
    fn get(&self, name: &ClusterName) -> Result<ClusterView, Error> {
        Clusters::get(self, name)
    }
}

/// What jobs work with.
#[derive(Debug, Clone)]
struct Parts {
    state: State,
    clusters: Arc<dyn ClusterViews>,
    registry: Registry,
}

/// A job with a task of its own.
#[derive(Debug, Clone)]
struct Live {
    progress: watch::Receiver<Progress>,
    cancel: CancellationToken,
}

impl Jobs {
    /// `output_dir` holds a directory a job with its output (`<state-dir>/jobs`).
    pub fn new(state: State, clusters: Clusters, registry: Registry, output_dir: PathBuf) -> Self {
        Self::with_views(state, Arc::new(clusters), registry, output_dir)
    }

    fn with_views(state: State, clusters: Arc<dyn ClusterViews>, registry: Registry, output_dir: PathBuf) -> Self {
        Self { parts: Parts { state, clusters, registry }, output_dir, live: Arc::default() }
    }

    /// Goes on with every job that had not ended when the coordinator did. Call once, inside the runtime, after the
    /// clusters are known and before callers are served.
    pub fn resume(&self) -> Result<(), Error> {
        for record in self.parts.state.unfinished_jobs()? {
            info!(job = %record.id, cluster = %record.cluster_name, state = ?record.state, "going on with job");
            let jobs = self.clone();
            let (progress, cancel) = self.enlist(&record, Offsets::default());
            tokio::spawn(async move {
                let id = record.id.clone();
                if let Err(error) = jobs.drive(record, progress, cancel).await {
                    error!(job = %id, %error, "cannot go on with job");
                }
            });
        }
        let jobs = self.clone();
        tokio::spawn(async move { jobs.prune_and_sweep().await });
        Ok(())
    }

    /// Starts an MPI run. The record is on disk when this returns; how it goes is heard by [`Jobs::listen`].
    pub async fn run(&self, cluster: &ClusterName, spec: RunSpec) -> Result<JobRecord, Error> {
        self.facts_are_known(cluster).await?;
        let run = |view: &ClusterView| resolve::run(view, JobId::random(), spec.clone(), now());
        self.start(settled(|| self.parts.clusters.get(cluster), run).await?).await
    }

    /// Starts a plain command; otherwise as [`Jobs::run`].
    pub async fn exec(&self, cluster: &ClusterName, spec: ExecSpec) -> Result<JobRecord, Error> {
        let exec = |view: &ClusterView| resolve::exec(view, JobId::random(), spec.clone(), now());
        self.start(settled(|| self.parts.clusters.get(cluster), exec).await?).await
    }

    /// What [`Jobs::run`] would do. Starts nothing.
    pub async fn explain(&self, cluster: &ClusterName, spec: &RunSpec) -> Result<Explanation, Error> {
        self.facts_are_known(cluster).await?;
        settled(|| self.parts.clusters.get(cluster), |view| resolve::explain(view, &JobId::random(), spec)).await
    }

    /// The hostfile for so many ranks, or for all slots.
    pub async fn hostfile(&self, cluster: &ClusterName, ranks: Option<u32>) -> Result<String, Error> {
        self.facts_are_known(cluster).await?;
        settled(|| self.parts.clusters.get(cluster), |view| resolve::hostfile(view, ranks)).await
    }

    /// The jobs of a cluster, the oldest first; also of one that is destroyed.
    pub fn list(&self, cluster: &ClusterName) -> Result<Vec<JobRecord>, Error> {
        let records = self.parts.state.jobs_of(cluster)?;
        if records.is_empty() {
            self.parts.clusters.get(cluster)?;
        }
        Ok(records)
    }

    /// A reader of a job's output, of the newest job if none is named.
    pub async fn listen(
        &self,
        cluster: &ClusterName,
        job: Option<&JobId>,
        from: Offsets,
        follow: bool,
    ) -> Result<Listener, Error> {
        let record = self.find(cluster, job)?;
        let spool = Spool::new(&self.output_dir, &record.id);
        let live = self.live.lock().get(&record.id).map(|live| live.progress.clone());
        let progress = match live {
            Some(progress) => progress,
            None => self.finished(record.id, &spool).await?,
        };
        Ok(Listener::new(spool, progress, from, follow))
    }

    /// Ends a job on all nodes. Answers with the job when it is over, or as it is after [`CANCEL_WAIT`].
    pub async fn cancel(&self, cluster: &ClusterName, job: &JobId) -> Result<JobRecord, Error> {
        let record = self.find(cluster, Some(job))?;
        let Some(mut live) = self.live.lock().get(job).cloned() else { return Ok(record) };
        live.cancel.cancel();
        let over = live.progress.wait_for(|progress| progress.record.state.is_final());
        // Over, out of time, or the task is gone: the latest state is the answer in each case.
        let _ = tokio::time::timeout(CANCEL_WAIT, over).await.is_ok();
        let latest = live.progress.borrow().record.clone();
        Ok(Arc::unwrap_or_clone(latest))
    }

    /// Returns when the facts of the cluster's nodes are known: after a restart of the coordinator they come with the
    /// agents' sessions, which is waited for, up to [`SESSIONS_WAIT`].
    async fn facts_are_known(&self, cluster: &ClusterName) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let view = self.parts.clusters.get(cluster)?;
            let waits = view.phase == ClusterPhase::Ready && view.nodes.iter().any(|node| self.lacks_facts(node));
            if !waits || begun.elapsed() > SESSIONS_WAIT {
                return Ok(());
            }
            sleep(SESSIONS_PAUSE).await;
        }
    }

    /// Whether what this node has may not have been told yet.
    fn lacks_facts(&self, node: &NodeView) -> bool {
        let Some(instance) = node.instance.as_ref().filter(|_| node.phase == NodePhase::Ready && node.mpi.is_empty())
        else {
            return false;
        };
        // With a session the facts are known, perhaps not in the view yet.
        self.parts.registry.liveness(instance).is_none_or(|live| !live.connected || !live.facts.mpi.is_empty())
    }

    async fn start(&self, record: JobRecord) -> Result<JobRecord, Error> {
        if self.live.lock().len() >= MAX_LIVE {
            return Err(Error::NotNow(format!("{MAX_LIVE} jobs are under way already: wait until one ends")));
        }
        self.parts.state.put_job(&record)?;
        info!(job = %record.id, cluster = %record.cluster_name, ranks = record.ranks(), "job started");
        let (progress, cancel) = self.enlist(&record, Offsets::default());
        let (jobs, started) = (self.clone(), record.clone());
        tokio::spawn(async move {
            let id = record.id.clone();
            if let Err(error) = jobs.drive(record, progress, cancel).await {
                error!(job = %id, %error, "cannot run job");
            }
            jobs.prune().await;
        });
        Ok(started)
    }

    fn enlist(&self, record: &JobRecord, lengths: Offsets) -> (watch::Sender<Progress>, CancellationToken) {
        let (sender, progress) = watch::channel(Progress { record: Arc::new(record.clone()), lengths });
        let cancel = CancellationToken::new();
        self.live.lock().insert(record.id.clone(), Live { progress, cancel: cancel.clone() });
        (sender, cancel)
    }

    /// Drives a job to its end, and takes it off the list of the living.
    async fn drive(
        &self,
        record: JobRecord,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        let id = record.id.clone();
        let opened = Spool::new(&self.output_dir, &id).writer().await;
        let result = match opened {
            Ok(spool) => {
                let driver = Driver { parts: self.parts.clone(), record, spool, progress, cancel };
                driver.publish();
                driver.run().await;
                Ok(())
            }
            Err(error) => self.give_up(record, &progress, &format!("its output cannot be stored: {error}")),
        };
        self.live.lock().remove(&id);
        result
    }

    fn give_up(&self, mut record: JobRecord, progress: &watch::Sender<Progress>, why: &str) -> Result<(), Error> {
        let ending = Ending::Failed { why: why.to_owned(), code: state::NO_EXIT_CODE };
        record.state = JobState::Ended { ending, not_in_s3: None };
        record.ended_at = Some(now());
        let written = self.parts.state.put_job(&record);
        progress.send_replace(Progress { record: Arc::new(record), lengths: Offsets::default() });
        written
    }

    fn find(&self, cluster: &ClusterName, job: Option<&JobId>) -> Result<JobRecord, Error> {
        let found = match job {
            Some(id) => self.parts.state.job(id)?.filter(|record| record.cluster_name == *cluster),
            None => self.parts.state.jobs_of(cluster)?.pop(),
        };
        match (found, job) {
            (Some(record), _) => Ok(record),
            (None, job) => {
                // A cluster that is unknown is the better message.
                self.parts.clusters.get(cluster)?;
                let what = job.map_or("no job yet".into(), |id| format!("no job {id}"));
                Err(Error::NotFound(format!("cluster {cluster} has {what}: `ec2mpi jobs {cluster}` lists them")))
            }
        }
    }

    /// The last word on a job without a task: read again, as it may have ended since it was found.
    async fn finished(&self, id: JobId, spool: &Spool) -> Result<watch::Receiver<Progress>, Error> {
        let record = self.parts.state.job(&id)?.ok_or_else(|| Error::NotFound(format!("job {id} was removed")))?;
        let lengths = spool.lengths().await;
        let lengths = lengths.map_err(|error| Error::Internal(format!("the output of job {id}: {error}")))?;
        Ok(watch::channel(Progress { record: Arc::new(record), lengths }).1)
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod scripted_tests;
#[cfg(test)]
mod tests;
