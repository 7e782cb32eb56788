//! Copies: a tar stream between the caller and a node's agent, a bounded queue in between.

use std::time::Duration;

use bytes::Bytes;
use ec2mpi_proto::id::InstanceId;
use ec2mpi_proto::v1::{self, copy_in_request};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::unfold;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::parse::{self, CopyPath};
use super::stream::BoxStream;
use crate::cluster::Clusters;
use crate::error::Error;
use crate::job::{settled, usable_node};
use crate::registry::{Direction, Registry, Request, RequestError, TransferEnd};

/// No byte for so long, in either direction: the copy has failed.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// What the node may take to write to disk after the last byte.
const CLOSING_LIMIT: Duration = Duration::from_secs(600);
/// The command that begins the copy is answered at its end; the limits above notice a dead node much earlier.
const COPY_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A copy that the node was asked for.
struct Copy {
    end: TransferEnd,
    /// The answer to the command: an error comes before, or without, any byte.
    answer: BoxFuture<'static, Result<String, RequestError>>,
    answered: bool,
    node: String,
}

/// Receives the caller's stream and returns when the node has written all of it.
pub(super) async fn copy_in(
    clusters: &Clusters,
    registry: &Registry,
    mut caller: Streaming<v1::CopyInRequest>,
) -> Result<(), Status> {
    let target = match next_message(&mut caller).await? {
        Some(copy_in_request::Message::Target(target)) => parse::copy_target(target)?,
        _ => return Err(Status::invalid_argument("the first message of a copy is its target")),
    };
    let mut copy = begin(clusters, registry, &target, Direction::In).await?;
    loop {
        match next_message(&mut caller).await {
            Ok(Some(copy_in_request::Message::Data(data))) => copy.send(data.into()).await?,
            Ok(Some(copy_in_request::Message::Target(_))) => {
                return Err(copy.abort(Status::invalid_argument("a copy has one target")).await);
            }
            Ok(None) => return copy.finish().await,
            Err(status) => return Err(copy.abort(status).await),
        }
    }
}

/// The node's stream, as fast as the caller takes it.
pub(super) async fn copy_out(
    clusters: &Clusters,
    registry: &Registry,
    source: &CopyPath,
) -> Result<BoxStream<v1::CopyChunk>, Status> {
    let copy = begin(clusters, registry, source, Direction::Out).await?;
    Ok(Box::pin(unfold(Some(copy), async |copy| {
        let mut copy = copy?;
        match copy.receive(IDLE_LIMIT).await {
            Ok(Some(data)) => Some((Ok(v1::CopyChunk { data: data.to_vec() }), Some(copy))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    })))
}

async fn next_message(caller: &mut Streaming<v1::CopyInRequest>) -> Result<Option<copy_in_request::Message>, Status> {
    let message = timeout(IDLE_LIMIT, caller.message()).await.map_err(|_| idle("the caller"))??;
    match message {
        None => Ok(None),
        Some(v1::CopyInRequest { message: Some(message) }) => Ok(Some(message)),
        Some(v1::CopyInRequest { message: None }) => Err(Status::invalid_argument("an empty message in a copy")),
    }
}

async fn begin(clusters: &Clusters, registry: &Registry, at: &CopyPath, direction: Direction) -> Result<Copy, Error> {
    let node = settled(|| clusters.get(&at.cluster), |view| usable_node(view, at.node).cloned()).await?;
    let no_instance = || Error::Internal(format!("node {} has no instance", node.host_name));
    let instance: InstanceId = node.instance.clone().ok_or_else(no_instance)?;
    let id = uuid::Uuid::new_v4().to_string();
    let end = registry.open_transfer(&id, direction);
    let request = Request::Transfer { id, direction, path: at.path.clone() };
    let registry = registry.clone();
    let answer = async move { registry.request(&instance, request, COPY_LIMIT).await }.boxed();
    Ok(Copy { end, answer, answered: false, node: node.host_name })
}

impl Copy {
    /// Gives the node one chunk; an error it has in the meantime ends the copy.
    async fn send(&mut self, data: Bytes) -> Result<(), Status> {
        loop {
            let to_node = self.end.to_node.clone();
            tokio::select! {
                biased;
                answer = &mut self.answer, if !self.answered => self.took(answer)?,
                Some(Err(why)) = self.end.from_node.recv() => return Err(self.failure(why)),
                room = timeout(IDLE_LIMIT, to_node.reserve()) => match room {
                    Ok(Ok(room)) => { room.send(Ok(data)); return Ok(()) }
                    Ok(Err(_)) => return Err(self.failure("it closed the copy early".into())),
                    Err(_) => return Err(idle(&self.node)),
                },
            }
        }
    }

    /// The next chunk from the node; none at the end.
    async fn receive(&mut self, limit: Duration) -> Result<Option<Bytes>, Status> {
        loop {
            tokio::select! {
                biased;
                data = self.end.from_node.recv() => return match data {
                    Some(Ok(data)) => Ok(Some(data)),
                    Some(Err(why)) => Err(self.failure(why)),
                    None => self.outcome().await.map(|()| None),
                },
                answer = &mut self.answer, if !self.answered => self.took(answer)?,
                () = tokio::time::sleep(limit) => return Err(idle(&self.node)),
            }
        }
    }

    /// All data was sent: the node says when it is written.
    async fn finish(mut self) -> Result<(), Status> {
        // Dropping the sender is the end of the stream.
        self.end.to_node = tokio::sync::mpsc::channel(1).0;
        while self.receive(CLOSING_LIMIT).await?.is_some() {}
        Ok(())
    }

    /// Tells the node that the rest will not come.
    async fn abort(&mut self, why: Status) -> Status {
        // A node that has gone away needs no telling.
        let _ = timeout(Duration::from_secs(1), self.end.to_node.send(Err(why.message().to_owned()))).await.is_ok();
        why
    }

    fn took(&mut self, answer: Result<String, RequestError>) -> Result<(), Status> {
        self.answered = true;
        answer.map(|_| ()).map_err(|error| match error {
            RequestError::Failed(_, why) => self.failure(why),
            error => Status::unavailable(error.to_string()),
        })
    }

    /// Both directions closed: what the node answers to the command decides.
    async fn outcome(&mut self) -> Result<(), Status> {
        if self.answered {
            return Ok(());
        }
        match timeout(IDLE_LIMIT, &mut self.answer).await {
            Ok(answer) => self.took(answer),
            Err(_) => Err(idle(&self.node)),
        }
    }

    fn failure(&self, why: String) -> Status {
        Status::failed_precondition(format!("{}: {why}", self.node))
    }
}

fn idle(who: &str) -> Status {
    Status::unavailable(format!("the copy made no progress for {} s: {who} went quiet", IDLE_LIMIT.as_secs()))
}
