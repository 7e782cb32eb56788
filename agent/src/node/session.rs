//! One long stream to the coordinator: hello and heartbeats go up, commands come down, their outcomes and the output of
//! processes go up. It is begun again for as long as the node lives.

mod convert;
mod heartbeat;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ec2mpi_proto::v1::{self, agent_message, command, coordinator_message};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Streaming};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::client::Contact;
use super::command::{Command, Commander, Pending};
use super::exec::Executor;
use super::membership::Membership;
use super::spool::ProcessId;
use super::{certificate, facts, join, output, transfer};

/// Messages on their way up; a full queue slows output down, not the agent's memory.
const QUEUE: usize = 256;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const WELCOME_LIMIT: Duration = Duration::from_secs(15);
/// Commands under way at once; more wait in the connection.
const CONCURRENT: usize = 128;

type Outgoing = mpsc::Sender<v1::AgentMessage>;

/// Keeps a session, with growing waits between tries. Returns when the coordinator no longer takes the certificate:
/// joining again tells whether it takes the node.
pub async fn keep(contact: &Contact, member: &Membership, agent: PathBuf) -> anyhow::Result<()> {
    let executor = Executor::new(contact.paths().clone(), member.user.clone(), agent);
    let commander = Commander::new(contact.paths().clone(), executor.clone());
    let _renewal = AbortOnDropHandle::new(tokio::spawn(join::keep_renewed(contact.clone())));
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let began = Instant::now();
        let Err(error) = Session::new(contact, &executor, &commander).run().await else { continue };
        if is_rejection(&error) || certificate::has_expired(contact.paths()) {
            warn!(error = format!("{error:#}"), "the coordinator does not take the certificate");
            sleep(LONGEST_WAIT).await;
            return Ok(());
        }
        if began.elapsed() > LONGEST_WAIT {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        warn!(error = format!("{error:#}"), ?wait, "the session ended");
        sleep(wait).await;
    }
}

/// The answers of a coordinator that does not know this node, or not with this certificate.
fn is_rejection(error: &anyhow::Error) -> bool {
    error.downcast_ref::<tonic::Status>().is_some_and(|status| {
        matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition)
    })
}

/// One connection's worth.
struct Session<'a> {
    contact: &'a Contact,
    executor: &'a Executor,
    commander: &'a Commander,
    followers: HashMap<ProcessId, AbortHandle>,
    room: Arc<Semaphore>,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.followers.values().for_each(AbortHandle::abort);
    }
}

impl<'a> Session<'a> {
    fn new(contact: &'a Contact, executor: &'a Executor, commander: &'a Commander) -> Self {
        Self { contact, executor, commander, followers: HashMap::new(), room: Arc::new(Semaphore::new(CONCURRENT)) }
    }

    /// Ends only with an error: the coordinator never closes a session that it still wants.
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut client = self.contact.member().await?;
        let (outgoing, stream) = mpsc::channel(QUEUE);
        outgoing.send(message(agent_message::Message::Hello(self.hello().await))).await?;
        let answer = timeout(WELCOME_LIMIT, client.session(ReceiverStream::new(stream))).await;
        let mut incoming = answer.context("the coordinator does not answer")??.into_inner();
        let beat = welcome(&mut incoming).await?;
        info!(?beat, "session begun");
        let heart = heartbeat::run(self.contact.paths().clone(), beat, outgoing.clone());
        let _heart = AbortOnDropHandle::new(tokio::spawn(heart));
        self.obey(&mut incoming, &outgoing).await
    }

    async fn obey(
        &mut self,
        incoming: &mut Streaming<v1::CoordinatorMessage>,
        outgoing: &Outgoing,
    ) -> anyhow::Result<()> {
        while let Some(message) = incoming.message().await? {
            if let Some(coordinator_message::Message::Command(command)) = message.message {
                self.take(command, outgoing).await?;
            }
        }
        bail!("the coordinator closed the session")
    }

    async fn take(&mut self, command: v1::Command, outgoing: &Outgoing) -> anyhow::Result<()> {
        let id = command.id;
        match command.command {
            Some(command::Command::FollowProcess(follow)) => {
                let outcome = self.follow(&follow, outgoing).map(|()| String::new());
                outgoing.send(reply(&id, outcome)).await?;
            }
            Some(command::Command::Transfer(transfer)) => {
                let work = transfer::run(self.contact.clone(), self.executor.clone(), transfer);
                let pending = self.commander.once(&id, async { work.await.map(|()| String::new()) });
                self.answer_later(id, pending, false, outgoing).await?;
            }
            Some(other) => match convert::command(other) {
                Ok(command) => {
                    let drained = matches!(command, Command::Drain { .. });
                    let pending = self.commander.begin(&id, command);
                    self.answer_later(id, pending, drained, outgoing).await?;
                }
                Err(error) => outgoing.send(reply(&id, Err(error))).await?,
            },
            None => {
                let error = "this agent does not know a command of this kind".to_owned();
                outgoing.send(reply(&id, Err(error))).await?;
            }
        }
        Ok(())
    }

    /// After a drain the volume's state goes first: who was told that all is in S3 must not then see old numbers.
    async fn answer_later(
        &self,
        id: String,
        pending: Pending,
        drained: bool,
        outgoing: &Outgoing,
    ) -> anyhow::Result<()> {
        let room = self.room.clone().acquire_owned().await?;
        let (outgoing, paths) = (outgoing.clone(), self.contact.paths().clone());
        tokio::spawn(async move {
            let outcome = pending.outcome().await;
            if drained {
                let _ = outgoing.send(heartbeat::now(&paths).await).await;
            }
            if let Err(error) = &outcome {
                warn!(command = %id, error, "command failed");
            }
            let _ = outgoing.send(reply(&id, outcome)).await;
            drop(room);
        });
        Ok(())
    }

    /// Follows from these offsets on, in place of an earlier follower of the same process.
    fn follow(&mut self, follow: &v1::FollowProcess, outgoing: &Outgoing) -> Result<(), String> {
        let id: ProcessId = follow.process_id.parse()?;
        let (sender, mut followed) = mpsc::channel(4);
        let from = [follow.stdout_offset, follow.stderr_offset];
        let (executor, outgoing, name) = (self.executor.clone(), outgoing.clone(), id.clone());
        let task = tokio::spawn(async move {
            let forward = async {
                while let Some(event) = followed.recv().await {
                    if outgoing.send(convert::followed(&name, event)).await.is_err() {
                        break;
                    }
                }
            };
            tokio::join!(output::follow(executor, name.clone(), from, sender), forward);
        });
        if let Some(former) = self.followers.insert(id, task.abort_handle()) {
            former.abort();
        }
        Ok(())
    }

    async fn hello(&self) -> v1::Hello {
        let paths = self.contact.paths();
        v1::Hello {
            protocol_version: ec2mpi_proto::PROTOCOL_VERSION,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: facts::boot_id(),
            facts: Some(convert::facts(paths).await),
            process_ids: self.executor.known().iter().map(ToString::to_string).collect(),
        }
    }
}

async fn welcome(incoming: &mut Streaming<v1::CoordinatorMessage>) -> anyhow::Result<Duration> {
    let first = timeout(WELCOME_LIMIT, incoming.message()).await.context("no welcome came")??;
    match first.and_then(|message| message.message) {
        Some(coordinator_message::Message::Welcome(welcome)) => {
            Ok(Duration::from_secs(u64::from(welcome.heartbeat_seconds.clamp(1, 60))))
        }
        _ => bail!("the coordinator's first message is no welcome"),
    }
}

fn message(message: agent_message::Message) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

fn reply(id: &str, outcome: Result<String, String>) -> v1::AgentMessage {
    let (value, error) = match outcome {
        Ok(value) => (value, String::new()),
        Err(error) if error.is_empty() => (String::new(), "unknown error".to_owned()),
        Err(error) => (String::new(), error),
    };
    message(agent_message::Message::Reply(v1::CommandReply { command_id: id.to_owned(), error, value }))
}
