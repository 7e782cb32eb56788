//! One task a job: does what its state says, and writes the next state down before acting on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::record::JobRecord;
use super::state::{Ending, Event, JobState};
use super::{Parts, barrier, kill, nodes, resolve};
use crate::cluster::now;
use crate::error::Error;
use crate::output::{Progress, SpoolWriter};
use crate::registry::Request;

/// How long a node may take to answer, its agent's restart included.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a node may take to confirm that a spool may go; it is asked once.
const FORGET_DEADLINE: Duration = Duration::from_secs(10);
/// Attempts to write a state down, a second apart, before the job goes on without.
const STORE_ATTEMPTS: u32 = 10;

/// What moves one job.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) parts: Parts,
    pub(super) record: JobRecord,
    pub(super) spool: SpoolWriter,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) cancel: CancellationToken,
}

impl Driver {
    /// Drives the job to its end.
    #[tracing::instrument(name = "job", skip_all, fields(job = %self.record.id, cluster = %self.record.cluster_name))]
    pub(super) async fn run(mut self) {
        while !self.record.state.is_final() {
            let event = self.act().await;
            debug!(?event, "job event");
            self.step(event).await;
        }
        info!(exit_code = self.record.exit_code(), "job ended");
        kill::when_they_come_back(&self.parts, &self.record);
        let request = Request::ForgetProcess { job: self.record.id.clone() };
        if let Err(error) = self.parts.registry.request(&self.record.node.instance, request, FORGET_DEADLINE).await {
            debug!(%error, "the node keeps the spool");
        }
    }

    async fn act(&mut self) -> Event {
        let cancel = self.cancel.clone();
        match self.record.state.clone() {
            JobState::Preparing => or_cancel(&cancel, self.prepare()).await,
            JobState::Running => or_cancel(&cancel, self.follow_while_nodes_are_there()).await,
            JobState::Cancelling { started: false } => {
                kill::leftovers(&self.parts, &self.record).await;
                Event::Killed
            }
            JobState::Cancelling { started: true } => self.cancel_running().await,
            JobState::Finishing { ending } => {
                if self.may_have_left_something() {
                    kill::leftovers(&self.parts, &self.record).await;
                }
                match ending {
                    // It is over because someone asked; that the token says so too is no news.
                    Ending::Cancelled => self.settle().await,
                    Ending::Exited { code } if code != 0 => or_cancel(&cancel, self.blame_or_settle()).await,
                    _ => or_cancel(&cancel, self.settle()).await,
                }
            }
            // `run` stops here.
            JobState::Ended { not_in_s3, .. } => Event::Settled { not_in_s3 },
        }
    }

    async fn prepare(&mut self) -> Event {
        match self.start().await {
            Ok(()) => Event::Started,
            Err(why) => Event::NotStarted { why },
        }
    }

    /// Opening barrier, hostfile, start. Each of them can be repeated.
    async fn start(&self) -> Result<(), String> {
        if let Some(mpi) = &self.record.mpi {
            if mpi.barrier {
                let barrier = barrier::barrier(&self.parts, &self.record).await;
                barrier.map_err(|why| format!("not started, the opening barrier failed: {why}"))?;
            }
            self.write_hostfile(&mpi.hostfile).await?;
        }
        let process = self.record.process.clone();
        self.ask(Request::StartProcess {
            job: self.record.id.clone(),
            argv: process.argv,
            environment: process.environment,
            working_directory: process.working_directory,
        })
        .await?;
        Ok(())
    }

    async fn write_hostfile(&self, text: &str) -> Result<(), String> {
        let request = Request::WriteHostfile { job: self.record.id.clone(), text: text.to_owned() };
        let (path, expected) = (self.ask(request).await?, resolve::hostfile_path(&self.record.id));
        if path == expected {
            return Ok(());
        }
        Err(format!("the agent of {} put the hostfile at {path}, not {expected}", self.record.node.host_name))
    }

    async fn ask(&self, request: Request) -> Result<String, String> {
        let node = &self.record.node;
        let answer = self.parts.registry.request(&node.instance, request, DEADLINE).await;
        answer.map_err(|error| format!("not started, {}: {}", node.host_name, barrier::reason(error)))
    }

    /// The program's own end counts, also when a node goes in the same moment.
    async fn follow_while_nodes_are_there(&mut self) -> Event {
        let (parts, record) = (self.parts.clone(), self.record.clone());
        tokio::select! {
            biased;
            event = self.follow() => event,
            event = nodes::lost(&parts, &record) => event,
        }
    }

    async fn blame_or_settle(&self) -> Event {
        match nodes::to_blame(&self.parts, &self.record).await {
            Some(event) => event,
            None => self.settle().await,
        }
    }

    async fn cancel_running(&mut self) -> Event {
        let (parts, record) = (self.parts.clone(), self.record.clone());
        tokio::select! {
            event = self.follow() => event,
            () = kill::escalate(&parts, &record) => Event::Killed,
        }
    }

    /// A plain command's background children are its own business; an aborted mpirun leaves ranks behind.
    fn may_have_left_something(&self) -> bool {
        match &self.record.state {
            JobState::Finishing { ending } if self.record.mpi.is_some() => !ending.is_clean(),
            JobState::Finishing { ending } => !matches!(ending, Ending::Exited { .. }),
            _ => false,
        }
    }

    async fn settle(&self) -> Event {
        if let Err(error) = self.spool.sync().await {
            error!(%error, "cannot write output to disk");
        }
        let wanted = self.record.mpi.as_ref().is_some_and(|mpi| mpi.barrier);
        let begun = !matches!(self.record.state, JobState::Finishing { ending: Ending::Failed { .. } });
        let outcome = if wanted && begun { barrier::barrier(&self.parts, &self.record).await } else { Ok(()) };
        Event::Settled { not_in_s3: outcome.err() }
    }

    /// Moves the job, writes it down, and tells the listeners.
    async fn step(&mut self, event: Event) {
        self.record.state = self.record.state.clone().advance(event);
        if self.record.state.is_final() {
            self.record.ended_at = Some(now());
        }
        if let Err(error) = self.write_down().await {
            error!(%error, "a job's state could not be written down");
        }
        self.publish();
    }

    async fn write_down(&self) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            match self.parts.state.put_job(&self.record) {
                Err(error) if attempt < STORE_ATTEMPTS => {
                    info!(%error, attempt, "writing a job's state again");
                    attempt += 1;
                    sleep(Duration::from_secs(1)).await;
                }
                result => return result,
            }
        }
    }

    pub(super) fn publish(&self) {
        let progress = Progress { record: Arc::new(self.record.clone()), lengths: self.spool.lengths() };
        self.progress.send_replace(progress);
    }
}

async fn or_cancel(cancel: &CancellationToken, work: impl Future<Output = Event>) -> Event {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Event::CancelAsked,
        event = work => event,
    }
}
