//! A node's session: its words to the registry, the registry's requests to it.

use std::time::Duration;

use ec2mpi_proto::id::InstanceId;
use ec2mpi_proto::v1::{AgentMessage, CoordinatorMessage, Hello, Welcome, agent_message, coordinator_message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Outgoing, check_protocol, convert};
use crate::cluster::now;
use crate::error::Error;
use crate::registry::{Registry, Session};

/// How often agents are told to send a heartbeat.
pub(super) const HEARTBEAT_SECONDS: u32 = 2;

/// An agent that says nothing for three heartbeats is gone.
const SILENCE: Duration = Duration::from_secs(3 * HEARTBEAT_SECONDS as u64);

/// How long an agent may take for its Hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// Messages on their way to one agent.
const OUTGOING_QUEUE: usize = 16;

/// Takes the Hello and starts the session.
pub(super) async fn begin(
    registry: &Registry,
    node: InstanceId,
    mut incoming: Streaming<AgentMessage>,
) -> Result<Response<Outgoing<CoordinatorMessage>>, Status> {
    let hello = hello(&mut incoming).await?;
    check_protocol(hello.protocol_version)?;
    let facts = convert::facts(hello.facts.unwrap_or_default(), hello.boot_id);
    let session = registry
        .attach(&node, facts)
        .ok_or_else(|| Error::NotNow(format!("{node} is no member of its cluster any more")))?;
    tracing::info!(%node, build = hello.build.escape_debug().to_string(), "session began");
    let (outgoing, stream) = mpsc::channel(OUTGOING_QUEUE);
    tokio::spawn(drive(registry.clone(), session, node, incoming, outgoing));
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

async fn hello(incoming: &mut Streaming<AgentMessage>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_DEADLINE, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no Hello came"))??;
    match first.and_then(|message| message.message) {
        Some(agent_message::Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message of a session is Hello")),
    }
}

/// Until the connection breaks, the agent falls silent, or it begins another session.
async fn drive(
    registry: Registry,
    session: Session,
    node: InstanceId,
    incoming: Streaming<AgentMessage>,
    outgoing: mpsc::Sender<Result<CoordinatorMessage, Status>>,
) {
    let why = tokio::select! {
        why = listen(&session, incoming) => why,
        why = speak(&session, &outgoing) => why,
    };
    tracing::info!(%node, why, "session ended");
    registry.note(&node, now(), &format!("its session ended: {why}"));
}

async fn speak(session: &Session, outgoing: &mpsc::Sender<Result<CoordinatorMessage, Status>>) -> &'static str {
    let welcome = coordinator_message::Message::Welcome(Welcome { heartbeat_seconds: HEARTBEAT_SECONDS });
    if outgoing.send(Ok(CoordinatorMessage { message: Some(welcome) })).await.is_err() {
        return "connection closed";
    }
    while let Some((id, request)) = session.next().await {
        let message = coordinator_message::Message::Command(convert::command(id, request));
        if outgoing.send(Ok(CoordinatorMessage { message: Some(message) })).await.is_err() {
            return "connection closed";
        }
    }
    "replaced or retired"
}

async fn listen(session: &Session, mut incoming: Streaming<AgentMessage>) -> &'static str {
    loop {
        match tokio::time::timeout(SILENCE, incoming.message()).await {
            Err(_) => return "no heartbeat",
            Ok(Err(_)) => return "connection broke",
            Ok(Ok(None)) => return "closed by the agent",
            Ok(Ok(Some(message))) => {
                if let Err(why) = take(session, message).await {
                    return why;
                }
            }
        }
    }
}

async fn take(session: &Session, message: AgentMessage) -> Result<(), &'static str> {
    match message.message {
        Some(agent_message::Message::Heartbeat(heartbeat)) => {
            session.heartbeat(convert::volume(heartbeat.volume.unwrap_or_default()));
        }
        Some(agent_message::Message::Reply(reply)) => session.reply(&reply.command_id, reply.error, reply.value),
        Some(agent_message::Message::Output(output)) => {
            let (job, event) = convert::output(output)?;
            session.event(&job, event).await;
        }
        Some(agent_message::Message::Exit(exit)) => {
            let (job, event) = convert::exit(exit)?;
            session.event(&job, event).await;
        }
        Some(agent_message::Message::Hello(_)) => return Err("a second Hello came"),
        // A kind of message that a newer agent knows.
        None => {}
    }
    Ok(())
}
