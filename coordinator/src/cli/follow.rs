//! Following a job: its output to this process's streams, exactly and completely, across restarts of the coordinator.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail};
use ec2mpi_proto::v1::{self, JobEvent, JobLogsRequest, ListJobsRequest, job, job_event};
use tokio::sync::watch;
use tonic::{Code, Response, Status, Streaming};

use super::connect::{Client, Coordinator, is_lost, told};
use super::output::Sink;
use super::{FAILURE, OK, interrupt};

/// How often a start is asked for whose answer is lost again and again.
const START_ATTEMPTS: u32 = 3;

/// A job that is being started or followed.
pub(super) struct Follower<'a> {
    coordinator: &'a Coordinator,
    cluster: String,
    sink: Sink,
    stdout: u64,
    stderr: u64,
    /// Told as soon as it is known.
    job: watch::Sender<Option<String>>,
}

/// What a start that lost its answer is recognized by.
pub(super) struct Asked {
    pub(super) command: Vec<String>,
    /// 0: a plain command.
    pub(super) ranks: u32,
}

/// How a follower came to its end.
pub(super) enum Followed {
    Ended(v1::Job),
    /// Not followed to the end: all the output there is.
    SoFar,
}

impl<'a> Follower<'a> {
    pub(super) fn new(coordinator: &'a Coordinator, cluster: String) -> Self {
        Self { coordinator, cluster, sink: Sink::new(), stdout: 0, stderr: 0, job: watch::Sender::new(None) }
    }

    /// Starts a job and follows it to its end; Ctrl-C cancels it.
    pub(super) async fn run<S, W>(mut self, asked: &Asked, start: S) -> anyhow::Result<u8>
    where
        S: Fn(Client) -> W,
        W: Future<Output = Result<Response<Streaming<JobEvent>>, Status>>,
    {
        let (coordinator, cluster) = (self.coordinator.clone(), self.cluster.clone());
        let watcher = tokio::spawn(interrupt::cancel_then_leave(coordinator, cluster, self.job.subscribe()));
        let outcome = async {
            let (stream, _) = self.start(asked, start).await?;
            self.follow(stream, true).await
        }
        .await;
        watcher.abort();
        match outcome? {
            Followed::Ended(job) => Ok(conclude(&job)),
            Followed::SoFar => bail!("the coordinator ended the output of the job early: see `ec2mpi jobs`"),
        }
    }

    /// Starts a job and gives its id; the stream begins after the event that told it.
    pub(super) async fn start<S, W>(&mut self, asked: &Asked, start: S) -> anyhow::Result<(Streaming<JobEvent>, String)>
    where
        S: Fn(Client) -> W,
        W: Future<Output = Result<Response<Streaming<JobEvent>>, Status>>,
    {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let mut client = self.coordinator.connect().await?;
        for _ in 0..START_ATTEMPTS {
            match first_event(start(client.clone()).await).await {
                Ok((stream, job)) => return Ok(self.started(stream, job)),
                Err(status) if is_lost(&status) => client = self.coordinator.reconnect().await?,
                Err(status) => return Err(told(status)),
            }
            if let Some(job) = self.find(&mut client, asked, begun).await? {
                let stream = client.job_logs(self.logs_request(&job, true)).await.map_err(told)?.into_inner();
                return Ok(self.started(stream, job));
            }
        }
        bail!("lost the coordinator {START_ATTEMPTS} times while starting; see its log, then try again")
    }

    fn started(&mut self, stream: Streaming<JobEvent>, job: String) -> (Streaming<JobEvent>, String) {
        self.job.send_replace(Some(job.clone()));
        (stream, job)
    }

    /// The job that was started by a call whose answer was lost, if it was.
    async fn find(&self, client: &mut Client, asked: &Asked, begun: f64) -> anyhow::Result<Option<String>> {
        let request = ListJobsRequest { cluster: self.cluster.clone() };
        let jobs = client.list_jobs(request).await.map_err(told)?.into_inner().jobs;
        let same =
            |job: &v1::Job| job.command == asked.command && job.ranks == asked.ranks && job.started_at + 0.001 >= begun;
        let mut found = jobs.into_iter().filter(same).map(|job| job.job_id);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => {
                bail!(
                    "lost the coordinator while starting, and cannot tell which job is ours: `ec2mpi jobs {}`",
                    self.cluster
                )
            }
            (job, _) => Ok(job),
        }
    }

    /// Prints a job's output; with `follow`, to its end.
    pub(super) async fn logs(&mut self, job: Option<String>, follow: bool) -> anyhow::Result<Followed> {
        let mut client = self.coordinator.connect().await?;
        let request = self.logs_request(job.as_deref().unwrap_or_default(), follow);
        let stream = client.job_logs(request).await.map_err(told)?.into_inner();
        self.follow(stream, follow).await
    }

    async fn follow(&mut self, mut stream: Streaming<JobEvent>, to_the_end: bool) -> anyhow::Result<Followed> {
        loop {
            match stream.message().await {
                Ok(Some(JobEvent { event: Some(event) })) => match event {
                    job_event::Event::Started(job) => self.name(&job.job_id),
                    job_event::Event::Output(output) => self.write(output).await?,
                    job_event::Event::Ended(job) => return Ok(Followed::Ended(job)),
                },
                Ok(Some(JobEvent { event: None })) => {}
                Ok(None) if !to_the_end => return Ok(Followed::SoFar),
                // The end of a stream without the end of its job is a coordinator that ended.
                Ok(None) => stream = self.resume(to_the_end).await?,
                Err(status) if is_lost(&status) || status.code() == Code::Unavailable => {
                    stream = self.resume(to_the_end).await?;
                }
                Err(status) => return Err(told(status)),
            }
        }
    }

    fn name(&self, job: &str) {
        if self.job.borrow().is_none() {
            self.job.send_replace(Some(job.to_owned()));
        }
    }

    /// Writes what is new of a piece of output.
    async fn write(&mut self, output: v1::Output) -> anyhow::Result<()> {
        let position = if output.stderr { &mut self.stderr } else { &mut self.stdout };
        let new = unseen(*position, output.offset, &output.data)?;
        let written = self.sink.write(output.stderr, new).await;
        *position += new.len() as u64;
        written.map_err(|error| self.how_to_pick_up(error))
    }

    /// After a lost connection: the same job, from where the output stopped.
    async fn resume(&self, follow: bool) -> anyhow::Result<Streaming<JobEvent>> {
        let job = self.job.borrow().clone();
        let job = job.ok_or_else(|| anyhow!("lost the coordinator before it named the job: try again"))?;
        eprintln!("lost the coordinator, going on with job {job} as soon as it is back");
        loop {
            let mut client = self.coordinator.reconnect().await.map_err(|error| self.how_to_pick_up(error))?;
            match client.job_logs(self.logs_request(&job, follow)).await {
                Ok(stream) => return Ok(stream.into_inner()),
                Err(status) if is_lost(&status) => {}
                Err(status) => return Err(self.how_to_pick_up(told(status))),
            }
        }
    }

    fn logs_request(&self, job: &str, follow: bool) -> JobLogsRequest {
        JobLogsRequest {
            cluster: self.cluster.clone(),
            job_id: job.to_owned(),
            follow,
            stdout_offset: self.stdout,
            stderr_offset: self.stderr,
        }
    }

    fn how_to_pick_up(&self, error: anyhow::Error) -> anyhow::Error {
        match &*self.job.borrow() {
            Some(job) => anyhow!("{error:#}; job {job} goes on: `ec2mpi logs {} {job} -f` picks it up", self.cluster),
            None => error,
        }
    }
}

/// The stream and the job that its first event names.
async fn first_event(
    answer: Result<Response<Streaming<JobEvent>>, Status>,
) -> Result<(Streaming<JobEvent>, String), Status> {
    let mut stream = answer?.into_inner();
    match stream.message().await? {
        Some(JobEvent { event: Some(job_event::Event::Started(job)) }) => Ok((stream, job.job_id)),
        _ => Err(Status::internal("the coordinator's first word on the job was not its id; is it of another build?")),
    }
}

/// What of `data`, which begins at `offset`, comes after `position`.
fn unseen(position: u64, offset: u64, data: &[u8]) -> anyhow::Result<&[u8]> {
    let seen = position.checked_sub(offset).ok_or_else(|| anyhow!("output from {position} to {offset} is missing"))?;
    Ok(usize::try_from(seen).ok().and_then(|seen| data.get(seen..)).unwrap_or_default())
}

/// Says how a job ended, where that is not plain, and gives the exit code for it.
pub(super) fn conclude(ended: &v1::Job) -> u8 {
    let code = exit_code(ended);
    if let Some(text) = epitaph(ended) {
        eprintln!("error: {text}");
    }
    code
}

/// The job's own code; a success whose files may not be in S3 is none.
fn exit_code(ended: &v1::Job) -> u8 {
    match (ended.exit_code, ended.message.is_empty()) {
        (0, true) => OK,
        (0, false) => FAILURE,
        (code, _) => u8::try_from(code).unwrap_or(FAILURE),
    }
}

fn epitaph(ended: &v1::Job) -> Option<String> {
    let (id, code) = (&ended.job_id, ended.exit_code);
    let program = ended.command.first().map_or("the program", String::as_str);
    let end = match (ended.state(), code) {
        (job::State::Ended, 0) => None,
        (job::State::Ended, code) if ended.message.is_empty() => Some(match signal_name(code) {
            Some(name) => format!("{program} was ended by {name}, exit code {code} (job {id})"),
            None => format!("{program} ended with exit code {code} (job {id})"),
        }),
        (job::State::Cancelled, _) => Some(format!("job {id} was cancelled")),
        (job::State::Lost, _) => Some(format!("job {id} is lost")),
        _ => Some(format!("job {id} failed")),
    };
    match (end, ended.message.as_str()) {
        (end, "" | "cancelled") => end,
        (Some(end), message) => Some(format!("{end}: {message}")),
        (None, message) => Some(format!("job {id}: {message}")),
    }
}

fn signal_name(code: i32) -> Option<&'static str> {
    let number = code.checked_sub(128).filter(|number| *number > 0)?;
    nix::sys::signal::Signal::try_from(number).ok().map(nix::sys::signal::Signal::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(state: job::State, exit_code: i32, message: &str) -> v1::Job {
        v1::Job {
            job_id: "j-0".into(),
            state: state.into(),
            exit_code,
            message: message.into(),
            command: vec!["./prog".into()],
            ..Default::default()
        }
    }

    #[test]
    fn the_exit_code_is_the_programs() {
        let cases = [
            (job::State::Ended, 0, "", 0, None),
            (job::State::Ended, 7, "", 7, Some("./prog ended with exit code 7 (job j-0)")),
            (job::State::Ended, 139, "", 139, Some("./prog was ended by SIGSEGV, exit code 139 (job j-0)")),
            (job::State::Ended, 127, "demo-0: no such file", 127, Some("job j-0 failed: demo-0: no such file")),
            (job::State::Ended, 0, "not in S3: x", 1, Some("job j-0: not in S3: x")),
            (job::State::Cancelled, 130, "cancelled", 130, Some("job j-0 was cancelled")),
            (job::State::Lost, 75, "node demo-0 is lost", 75, Some("job j-0 is lost: node demo-0 is lost")),
        ];
        for (state, code, message, expected, text) in cases {
            let job = ended(state, code, message);
            assert_eq!(exit_code(&job), expected, "{state:?} {code}");
            assert_eq!(epitaph(&job).as_deref(), text, "{state:?} {code}");
        }
    }

    #[test]
    fn output_is_neither_repeated_nor_skipped() {
        assert_eq!(unseen(0, 0, b"abc").unwrap(), b"abc");
        assert_eq!(unseen(2, 0, b"abc").unwrap(), b"c");
        assert_eq!(unseen(3, 0, b"abc").unwrap(), b"");
        assert_eq!(unseen(9, 0, b"abc").unwrap(), b"");
        assert!(unseen(2, 3, b"abc").is_err());
    }
}
