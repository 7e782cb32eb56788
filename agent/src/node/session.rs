//! One long stream to the coordinator: hello and heartbeats go up, commands come down, their outcomes and the output of
//! processes go up. It is begun again for as long as the node lives.

mod convert;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, bail};
use ec2mpi_proto::v1::agent_service_client::AgentServiceClient;
use ec2mpi_proto::v1::{self, agent_message, command, coordinator_message};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::client::Contact;
use super::command::Commander;
use super::exec::Executor;
use super::facts::{self, Phase};
use super::membership::Membership;
use super::paths::Paths;
use super::spool::ProcessId;
use super::{join, output, transfer};
use crate::volume::control;

/// Messages on their way up; a full queue slows output down, not the agent's memory.
const QUEUE: usize = 256;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const WELCOME_LIMIT: Duration = Duration::from_secs(15);
/// How often a volume that is not mounted yet is looked at.
const IMPATIENCE: Duration = Duration::from_millis(100);
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// A third of what the coordinator issues certificates for, so that two renewals may fail.
const RENEWAL: Duration = Duration::from_secs(8 * 3600);

type Outgoing = mpsc::Sender<v1::AgentMessage>;

/// Keeps a session, with growing waits between tries. Returns when the coordinator no longer takes the certificate.
pub async fn keep(contact: &Contact, member: &Membership) -> anyhow::Result<()> {
    let agent = std::env::current_exe().context("cannot find the agent's own program")?;
    let executor = Executor::new(contact.paths().clone(), member.user.clone(), agent);
    let commander = Commander::new(contact.paths().clone(), executor.clone());
    let renewal = tokio::spawn(renew_forever(contact.clone()));
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let rejected = loop {
        let began = Instant::now();
        let mut session = Session::new(contact, &executor, &commander);
        let Err(error) = session.run().await else { continue };
        if error.downcast_ref::<tonic::Status>().is_some_and(|status| status.code() == Code::Unauthenticated) {
            break error;
        }
        if began.elapsed() > LONGEST_WAIT {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        warn!(error = format!("{error:#}"), ?wait, "the session ended");
        sleep(wait).await;
    };
    renewal.abort();
    warn!(error = format!("{rejected:#}"), "the coordinator does not know this node");
    sleep(LONGEST_WAIT).await;
    Ok(())
}

async fn renew_forever(contact: Contact) {
    loop {
        sleep(RENEWAL).await;
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(600));
        while let Err(error) = join::renew(&contact).await {
            warn!(error = format!("{error:#}"), "cannot renew the certificate yet");
            sleep(backoff.next_wait()).await;
        }
    }
}

/// One connection's worth.
struct Session<'a> {
    contact: &'a Contact,
    executor: &'a Executor,
    commander: &'a Commander,
    followers: HashMap<ProcessId, AbortHandle>,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.followers.values().for_each(AbortHandle::abort);
    }
}

impl<'a> Session<'a> {
    fn new(contact: &'a Contact, executor: &'a Executor, commander: &'a Commander) -> Self {
        Self { contact, executor, commander, followers: HashMap::new() }
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
        let heart = tokio::spawn(heartbeats(self.contact.paths().clone(), beat, outgoing.clone()));
        let end = self.obey(&mut incoming, &client, &outgoing).await;
        heart.abort();
        end
    }

    async fn obey(
        &mut self,
        incoming: &mut Streaming<v1::CoordinatorMessage>,
        client: &AgentServiceClient<Channel>,
        outgoing: &Outgoing,
    ) -> anyhow::Result<()> {
        while let Some(message) = incoming.message().await? {
            if let Some(coordinator_message::Message::Command(command)) = message.message {
                self.take(command, client, outgoing).await?;
            }
        }
        bail!("the coordinator closed the session")
    }

    async fn take(
        &mut self,
        command: v1::Command,
        client: &AgentServiceClient<Channel>,
        outgoing: &Outgoing,
    ) -> anyhow::Result<()> {
        let v1::Command { id, command: Some(command) } = command else {
            bail!("a command of a kind that this agent does not know");
        };
        match command {
            command::Command::FollowProcess(follow) => {
                let outcome = self.follow(&follow, outgoing).map(|()| String::new());
                outgoing.send(reply(&id, outcome)).await?;
            }
            command::Command::Transfer(transfer) => {
                let (client, executor, outgoing) = (client.clone(), self.executor.clone(), outgoing.clone());
                tokio::spawn(async move {
                    let outcome = transfer::run(client, &executor, &transfer).await;
                    let outcome = outcome.map(|()| String::new()).map_err(|error| format!("{error:#}"));
                    let _ = outgoing.send(reply(&id, outcome)).await;
                });
            }
            other => self.obey_once(id, other, outgoing.clone()),
        }
        Ok(())
    }

    fn obey_once(&self, id: String, command: command::Command, outgoing: Outgoing) {
        let commander = self.commander.clone();
        tokio::spawn(async move {
            let outcome = match convert::command(command) {
                Ok(command) => commander.run_once(&id, command).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &outcome {
                warn!(command = %id, error, "command failed");
            }
            let _ = outgoing.send(reply(&id, outcome)).await;
        });
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

/// The volume's state, at once when it changes for the first time to mounted, then every `beat`.
async fn heartbeats(paths: Paths, beat: Duration, outgoing: Outgoing) {
    let mut mounted = false;
    let mut last: Option<Instant> = None;
    loop {
        let status = volume_status(&paths).await;
        let now_mounted = status.state == v1::volume_status::State::Mounted as i32;
        if now_mounted && let Err(error) = facts::reached(&paths, Phase::Mount) {
            warn!(error = format!("{error:#}"), "cannot note the mount");
        }
        if now_mounted != mounted || last.is_none_or(|last| last.elapsed() >= beat) {
            let heartbeat = v1::Heartbeat { volume: Some(status) };
            if outgoing.send(message(agent_message::Message::Heartbeat(heartbeat))).await.is_err() {
                return;
            }
            last = Some(Instant::now());
        }
        mounted = now_mounted;
        sleep(if mounted { beat } else { IMPATIENCE.min(beat) }).await;
    }
}

async fn volume_status(paths: &Paths) -> v1::VolumeStatus {
    let answer = control::call(&paths.volume_socket(), &control::Request::Status, STATUS_LIMIT).await;
    convert::volume_status(answer)
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
