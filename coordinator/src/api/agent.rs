//! AgentService: nodes join, keep their session, and carry copies. Validate, convert, call.

mod convert;
mod join;
mod session;
#[cfg(test)]
mod tests;
mod transfer;

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use ec2mpi_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use ec2mpi_proto::v1::{
    AgentMessage, CoordinatorMessage, JoinRequest, JoinResponse, RenewRequest, RenewResponse, TransferFrame,
};
use ec2mpi_proto::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION};
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

pub use self::join::{CERTIFICATE_LIFETIME, MOUNT_POINT, MPI_USER, MPI_USER_ID};
use crate::cluster::launch::Place;
use crate::cluster::{Clusters, now};
use crate::error::Error;
use crate::identity::authority::{Authority, NodeSubject, node_of_certificate};
use crate::registry::Registry;
use crate::state::{NodeRecord, State};

/// What the service works with.
pub struct AgentContext {
    pub state: State,
    pub registry: Registry,
    pub clusters: Clusters,
    pub authority: Authority,
    pub place: Place,
    /// Certificates that the cloud signs identity documents with, PEM.
    pub document_certificates: Vec<String>,
    /// When this process began, seconds since the epoch.
    pub started: f64,
}

impl fmt::Debug for AgentContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentContext").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Serves agents.
#[derive(Debug, Clone)]
pub struct AgentApi {
    context: Arc<AgentContext>,
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl AgentApi {
    pub fn new(context: AgentContext) -> Self {
        Self { context: Arc::new(context) }
    }

    /// The authority that signs certificates of nodes, PEM.
    pub fn authority_pem(&self) -> &str {
        self.context.authority.certificate_pem()
    }

    /// The tonic service, with this project's message limits.
    pub fn into_service(self) -> AgentServiceServer<Self> {
        AgentServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// By the address that the join came from: what the request says of itself is not to be trusted.
    fn note_refused_join(&self, peer: IpAddr, error: &Error) {
        let IpAddr::V4(address) = peer else { return };
        match self.context.state.instance_at(address) {
            Ok(Some(instance)) => {
                self.context.registry.note(&instance, now(), &format!("its join was refused: {error}"));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot find the node of a refused join"),
        }
    }

    /// The member whose certificate the peer has shown, as long as it is one.
    fn member<T>(&self, request: &Request<T>) -> Result<Member, Error> {
        let certificates = request.peer_certs();
        let certificate = certificates.as_ref().and_then(|chain| chain.first());
        let certificate =
            certificate.ok_or_else(|| Error::Denied("this call needs a node's certificate".to_owned()))?;
        let subject = node_of_certificate(certificate.as_ref())?;
        let found = self.context.state.node_of(&subject.instance)?;
        let (_, node) = found
            .filter(|(cluster, node)| *cluster == subject.cluster && node.joined_at.is_some())
            .ok_or_else(|| Error::NotNow(format!("{} is not a member of any cluster (any more)", subject.instance)))?;
        check_counted_on(&node)?;
        Ok(Member { subject })
    }
}

struct Member {
    subject: NodeSubject,
}

fn check_counted_on(node: &NodeRecord) -> Result<(), Error> {
    match &node.given_up {
        Some(why) => Err(Error::NotNow(format!("node {} was given up: {why}", node.index))),
        None if node.gone => Err(Error::NotNow(format!("the machine of node {} has ended", node.index))),
        None => Ok(()),
    }
}

fn check_protocol(version: u32) -> Result<(), Error> {
    if version == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Error::NotNow(format!(
        "the agent speaks protocol {version}, this coordinator {PROTOCOL_VERSION}: create the cluster anew, so that its \
         machines fetch the agent of this build"
    )))
}

fn peer_address<T>(request: &Request<T>) -> Result<IpAddr, Error> {
    let address = request.remote_addr().map(|address| address.ip().to_canonical());
    address.ok_or_else(|| Error::Internal("the peer's address is not known".to_owned()))
}

#[tonic::async_trait]
impl AgentService for AgentApi {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let peer = peer_address(&request)?;
        let request = request.into_inner();
        let answer = join::join(&self.context, peer, &request).inspect_err(|error| {
            tracing::warn!(%peer, launch = %request.launch_id.escape_debug(), %error, "join refused");
            self.note_refused_join(peer, error);
        })?;
        Ok(Response::new(answer))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let member = self.member(&request)?;
        Ok(Response::new(join::renew(&self.context, &member.subject, &request.into_inner().csr_pem)?))
    }

    type SessionStream = Outgoing<CoordinatorMessage>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let instance = self.member(&request)?.subject.instance;
        let begun = session::begin(&self.context.registry, instance.clone(), request.into_inner()).await;
        begun.inspect_err(|status| {
            self.context.registry.note(&instance, now(), &format!("its session was refused: {}", status.message()));
        })
    }

    type TransferStream = Outgoing<TransferFrame>;

    async fn transfer(
        &self,
        request: Request<Streaming<TransferFrame>>,
    ) -> Result<Response<Self::TransferStream>, Status> {
        self.member(&request)?;
        transfer::begin(&self.context.registry, request.into_inner()).await
    }
}
