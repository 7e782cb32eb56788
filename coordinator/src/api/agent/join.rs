//! Joining: from an identity document and a key to a member's certificates.
//!
//! The document proves which machine asks; the launch record, that this coordinator launched it; the peer's address,
//! that nobody else shows its document; the first join binds the machine to one key for good.

use std::net::IpAddr;
use std::time::Duration;

use ec2mpi_proto::id::LaunchId;
use ec2mpi_proto::v1::{JoinRequest, JoinResponse, NodeIdentity, RenewResponse, SshMaterial, VolumeSettings};
use jiff::Timestamp;

use super::{AgentContext, check_counted_on, check_protocol};
use crate::cluster::launch::volume_prefix;
use crate::cluster::{host_name, now};
use crate::error::Error;
use crate::failpoint;
use crate::identity::Validity;
use crate::identity::authority::{NodeSubject, csr_public_key};
use crate::identity::document::{self, Document};
use crate::identity::ssh::{SshAuthority, address_patterns};
use crate::state::{Binding, ClusterRecord, Goal, Issued, JoinRecord, LaunchRecord, Milestone, NodeRecord};

/// How long a node's client certificate lives; agents renew it long before.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a node's SSH certificates live: longer than clusters do.
const SSH_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// The account that jobs run as, the same on every node.
pub const MPI_USER: &str = "mpi";

/// Its uid and gid.
pub const MPI_USER_ID: u32 = 2009;

/// Where the volume is mounted on every node.
pub const MOUNT_POINT: &str = "/shared";

/// A machine that may join.
struct Candidate {
    cluster: ClusterRecord,
    node: NodeRecord,
    subject: NodeSubject,
}

/// Answers a join. Blocks for the signatures and the records: milliseconds.
pub(super) fn join(context: &AgentContext, peer: IpAddr, request: &JoinRequest) -> Result<JoinResponse, Error> {
    check_protocol(request.protocol_version)?;
    let launch: LaunchId = request.launch_id.parse().map_err(|error| Error::Invalid(format!("{error}")))?;
    let document = document::verify(&request.identity_pkcs7, &context.document_certificates)?;
    let candidate = admit(context, &launch, &document, peer)?;
    let public_key = csr_public_key(&request.csr_pem)?;
    let issued = match context.state.join_of(&document.instance)? {
        Some(bound) => again(context, &candidate, &bound, &public_key, request)?,
        None => first(context, &candidate, public_key, request)?,
    };
    context.clusters.wake(&candidate.cluster.spec.name);
    response(context, &candidate, issued)
}

/// Whether this machine is one that was launched for a cluster that still wants it.
fn admit(context: &AgentContext, launch: &LaunchId, document: &Document, peer: IpAddr) -> Result<Candidate, Error> {
    if IpAddr::V4(document.private_ip) != peer {
        let instance = &document.instance;
        return Err(Error::Denied(format!(
            "the document of {instance} is shown from {peer}, not from its own address"
        )));
    }
    let state = &context.state;
    let launch = state.launch(launch)?;
    let launch = launch.ok_or_else(|| Error::Denied("this coordinator knows no such launch".to_owned()))?;
    let cluster = state.cluster(&launch.cluster)?;
    let cluster = cluster.ok_or_else(|| Error::NotNow("the cluster has been destroyed".to_owned()))?;
    check_wanted(&cluster)?;
    let node = node_of(context, &launch, document)?;
    check_counted_on(&node)?;
    check_as_launched(&context.place.region, &launch, document)?;
    check_age(context, &cluster, &node, document)?;
    let subject = NodeSubject { cluster: cluster.id.clone(), instance: document.instance.clone() };
    Ok(Candidate { cluster, node, subject })
}

fn check_wanted(cluster: &ClusterRecord) -> Result<(), Error> {
    let name = &cluster.spec.name;
    match (&cluster.goal, &cluster.milestone) {
        (Goal::Destroy { .. }, _) => Err(Error::NotNow(format!("cluster {name} is being destroyed"))),
        (Goal::Run, Milestone::Failed { .. }) => Err(Error::NotNow(format!("cluster {name} has failed"))),
        (Goal::Run, Milestone::Creating | Milestone::Ready { .. }) => Ok(()),
    }
}

fn node_of(context: &AgentContext, launch: &LaunchRecord, document: &Document) -> Result<NodeRecord, Error> {
    let instance = &document.instance;
    match context.state.node_of(instance)? {
        Some((_, node)) if node.launch == launch.id => Ok(node),
        None if launch.answered_at.is_none() => {
            Err(Error::Unreachable(format!("the launch of {instance} is not on record yet; try again")))
        }
        Some(_) | None => Err(Error::Denied(format!("{instance} is no machine of this launch"))),
    }
}

fn check_as_launched(region: &str, launch: &LaunchRecord, document: &Document) -> Result<(), Error> {
    if document.region != region {
        let (instance, other) = (&document.instance, &document.region);
        return Err(Error::Denied(format!("{instance} is in region {other}, this coordinator launches in {region}")));
    }
    let (image, kind) = (&launch.request.image, &launch.request.instance_type);
    if document.image == *image && document.instance_type == *kind {
        return Ok(());
    }
    Err(Error::Denied(format!("{} is not the {kind} of {image} that was launched", document.instance)))
}

/// A machine that never joined must be young, so that an old document is of no use. While the coordinator was away
/// nobody could join: that time does not count.
fn check_age(
    context: &AgentContext,
    cluster: &ClusterRecord,
    node: &NodeRecord,
    document: &Document,
) -> Result<(), Error> {
    if node.joined_at.is_some() {
        return Ok(());
    }
    let away = Duration::try_from_secs_f64(context.started - cluster.created_at).unwrap_or_default();
    Ok(document.check_age(Timestamp::now(), cluster.spec.timeout + away)?)
}

/// The first join of a machine: its key is bound, and the answer stored, before anybody sees it.
fn first(
    context: &AgentContext,
    candidate: &Candidate,
    public_key: Vec<u8>,
    request: &JoinRequest,
) -> Result<Issued, Error> {
    let issued = issue(context, candidate, request)?;
    let instance = &candidate.subject.instance;
    let join = JoinRecord { public_key, answer: issued.clone(), issued_at: now() };
    match context.state.bind(instance, &join)? {
        Binding::First => {
            tracing::info!(cluster = %candidate.cluster.spec.name, node = candidate.node.index, %instance, "joined");
            die_at_half(context, candidate)?;
            Ok(issued)
        }
        // Two calls of the same agent at a time.
        Binding::Same(bound) => Ok(bound.answer),
        Binding::Other => Err(other_key(candidate)),
    }
}

/// A repeated join: the same key gets the same answer; its client certificate is made anew when half its life is over.
fn again(
    context: &AgentContext,
    candidate: &Candidate,
    bound: &JoinRecord,
    public_key: &[u8],
    request: &JoinRequest,
) -> Result<Issued, Error> {
    if bound.public_key != public_key {
        return Err(other_key(candidate));
    }
    if now() < bound.issued_at + CERTIFICATE_LIFETIME.as_secs_f64() / 2.0 {
        return Ok(bound.answer.clone());
    }
    let issued =
        Issued { certificate_pem: certificate(context, &candidate.subject, &request.csr_pem)?, ..bound.answer.clone() };
    context.state.renew_answer(&candidate.subject.instance, &issued, now())?;
    Ok(issued)
}

fn other_key(candidate: &Candidate) -> Error {
    Error::Denied(format!("{} has joined with another key", candidate.subject.instance))
}

fn certificate(context: &AgentContext, subject: &NodeSubject, csr_pem: &str) -> Result<String, Error> {
    let validity = Validity::starting(Timestamp::now(), CERTIFICATE_LIFETIME);
    Ok(context.authority.issue_node(csr_pem, subject, validity)?.certificate_pem)
}

fn issue(context: &AgentContext, candidate: &Candidate, request: &JoinRequest) -> Result<Issued, Error> {
    let ssh = ssh_authority(context, candidate)?;
    let validity = Validity::starting(Timestamp::now(), SSH_LIFETIME);
    let principals = [name_of(candidate), address_of(candidate)?];
    Ok(Issued {
        certificate_pem: certificate(context, &candidate.subject, &request.csr_pem)?,
        host_certificate: ssh.sign_host(&request.ssh_host_public_key, &principals, validity)?,
        user_certificate: ssh.sign_user(&request.ssh_user_public_key, &[MPI_USER.to_owned()], validity)?,
    })
}

fn ssh_authority(context: &AgentContext, candidate: &Candidate) -> Result<SshAuthority, Error> {
    let key = context.state.ssh_authority(&candidate.cluster.id)?;
    let key = key.ok_or_else(|| Error::Internal("the cluster has no SSH authority".to_owned()))?;
    Ok(SshAuthority::from_openssh(&key)?)
}

fn name_of(candidate: &Candidate) -> String {
    host_name(&candidate.cluster.spec.name, candidate.node.index)
}

fn address_of(candidate: &Candidate) -> Result<String, Error> {
    let address = candidate.node.address.map(|address| address.to_string());
    address.ok_or_else(|| Error::Unreachable("the machine's address is not on record yet; try again".to_owned()))
}

fn response(context: &AgentContext, candidate: &Candidate, issued: Issued) -> Result<JoinResponse, Error> {
    let ssh = ssh_authority(context, candidate)?;
    let cluster = &candidate.cluster;
    let mut patterns = address_patterns(&context.place.cidr)?;
    patterns.push(format!("{}-*", cluster.spec.name));
    Ok(JoinResponse {
        certificate_pem: issued.certificate_pem,
        node: Some(NodeIdentity {
            cluster: cluster.spec.name.to_string(),
            cluster_id: cluster.id.to_string(),
            index: candidate.node.index,
            host_name: name_of(candidate),
            instance_id: candidate.subject.instance.to_string(),
            address: address_of(candidate)?,
        }),
        ssh: Some(SshMaterial {
            host_certificate: issued.host_certificate,
            user_certificate: issued.user_certificate,
            authority_public_key: ssh.public_line(),
            known_hosts: ssh.known_hosts(&patterns),
            user_name: MPI_USER.to_owned(),
            user_id: MPI_USER_ID,
        }),
        volume: Some(VolumeSettings {
            bucket: context.place.bucket.clone(),
            prefix: volume_prefix(&context.place, &cluster.spec.name),
            region: context.place.region.clone(),
            endpoint: context.place.node_s3_endpoint.clone(),
            mount_point: MOUNT_POINT.to_owned(),
            owner_id: MPI_USER_ID,
        }),
        cluster_cidr: context.place.cidr.clone(),
    })
}

/// A fresh client certificate for the key that the node joined with.
pub(super) fn renew(context: &AgentContext, subject: &NodeSubject, csr_pem: &str) -> Result<RenewResponse, Error> {
    let bound = context.state.join_of(&subject.instance)?;
    let bound = bound.ok_or_else(|| Error::Denied(format!("{} has not joined", subject.instance)))?;
    if csr_public_key(csr_pem)? != bound.public_key {
        return Err(Error::Denied(format!("{} has joined with another key", subject.instance)));
    }
    let certificate_pem = certificate(context, subject, csr_pem)?;
    let issued = Issued { certificate_pem: certificate_pem.clone(), ..bound.answer };
    context.state.renew_answer(&subject.instance, &issued, now())?;
    Ok(RenewResponse { certificate_pem })
}

fn die_at_half(context: &AgentContext, candidate: &Candidate) -> Result<(), Error> {
    // With every join a look at all nodes would be a million of them in a cluster of a thousand.
    if !failpoint::is_chosen(failpoint::JOIN_HALF) {
        return Ok(());
    }
    let nodes = context.state.nodes(&candidate.cluster.id)?;
    if nodes.iter().filter(|node| node.joined_at.is_some()).count() * 2 >= nodes.len() {
        failpoint::hit(failpoint::JOIN_HALF);
    }
    Ok(())
}
