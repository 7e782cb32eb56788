//! Joins, sessions and copies over real TLS on 127.0.0.1, with documents signed by a cloud of our own.

mod signer;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ec2mpi_proto::id::{ClusterId, InstanceId};
use ec2mpi_proto::v1::agent_service_client::AgentServiceClient;
use ec2mpi_proto::v1::{
    CommandReply, Heartbeat, Hello, NodeIdentity, VolumeStatus, agent_message, command, coordinator_message,
};
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use self::signer::{Claims, Signer};
use super::*;
use crate::cluster::tests::{coordinates, place, spec};
use crate::cluster::{ClusterPhase, ClusterSpec, now};
use crate::identity::Validity;
use crate::provider::memory::MemoryProvider;
use crate::registry::{Direction, Request as NodeRequest};

const SOON: Duration = Duration::from_secs(10);
const NAME: &str = "coordinator.ec2mpi";

const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAuWocCkEPdsQFCgISNDqoRuPV4Lf8FME4rb95/rgz9A test";

struct World {
    state: State,
    registry: Registry,
    clusters: Clusters,
    provider: MemoryProvider,
    signer: Signer,
    ca_pem: String,
    address: SocketAddr,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    async fn new() -> Self {
        crate::serve::use_ring();
        let state = State::in_memory().unwrap();
        let registry = Registry::default();
        let provider = MemoryProvider::new();
        let authority = Authority::generate(jiff::Timestamp::now()).unwrap();
        let ca_pem = authority.certificate_pem().to_owned();
        let signer = Signer::new();
        let cloud = Arc::new(provider.clone());
        let clusters = Clusters::start(state.clone(), cloud, registry.clone(), place(), coordinates(&ca_pem)).unwrap();
        let here = Ipv4Addr::LOCALHOST.into();
        let validity = Validity::starting(jiff::Timestamp::now(), Duration::from_secs(3600));
        let tls = authority.issue_server(NAME, &[here], validity).unwrap();
        let api = AgentApi::new(AgentContext {
            state: state.clone(),
            registry: registry.clone(),
            clusters: clusters.clone(),
            authority,
            place: place(),
            document_certificates: vec![signer.certificate_pem()],
            started: now(),
        });
        let listener = TcpListener::bind((here, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(crate::serve::serve_agents(api, listener, &tls, shutdown.clone()).unwrap());
        Self { state, registry, clusters, provider, signer, ca_pem, address, shutdown }
    }

    /// A cluster whose machines are on record; the first one's launch id and the machines.
    async fn launched(&self, nodes: u32) -> (ClusterId, String, Vec<InstanceId>) {
        let view = self.clusters.create(spec("demo", nodes, 0)).await.unwrap();
        let mut views = self.clusters.watch(&view.spec.name).unwrap();
        let all_known = |view: &crate::cluster::ClusterView| view.nodes.iter().all(|node| node.instance.is_some());
        let view = tokio::time::timeout(SOON, views.wait_for(all_known)).await.unwrap().unwrap().clone();
        let launch = self.state.launches(&view.id).unwrap().remove(0).id.to_string();
        (view.id, launch, view.nodes.into_iter().filter_map(|node| node.instance).collect())
    }

    async fn client(&self, identity: Option<&Member>) -> AgentServiceClient<Channel> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca_pem)).domain_name(NAME);
        if let Some(member) = identity {
            tls = tls.identity(Identity::from_pem(&member.certificate_pem, member.key.serialize_pem()));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        AgentServiceClient::new(endpoint.tls_config(tls).unwrap().connect().await.unwrap())
    }

    async fn join(&self, request: JoinRequest) -> Result<JoinResponse, Status> {
        self.client(None).await.join(request).await.map(Response::into_inner)
    }

    /// A machine that joined.
    async fn member(&self, launch: &str, instance: &InstanceId) -> Member {
        let key = KeyPair::generate().unwrap();
        let answer = self.join(self.request(launch, instance, &key)).await.unwrap();
        Member { certificate_pem: answer.certificate_pem, key, instance: instance.clone() }
    }

    fn request(&self, launch: &str, instance: &InstanceId, key: &KeyPair) -> JoinRequest {
        request(&self.signer, launch, &Claims::of(instance), key)
    }
}

struct Member {
    certificate_pem: String,
    key: KeyPair,
    instance: InstanceId,
}

fn request(signer: &Signer, launch: &str, claims: &Claims, key: &KeyPair) -> JoinRequest {
    JoinRequest {
        protocol_version: PROTOCOL_VERSION,
        launch_id: launch.to_owned(),
        identity_pkcs7: signer.sign(claims),
        csr_pem: csr(key),
        ssh_host_public_key: SSH_KEY.to_owned(),
        ssh_user_public_key: SSH_KEY.to_owned(),
    }
}

fn csr(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

#[tokio::test]
async fn the_first_join_binds_the_key_and_its_answer() {
    let world = World::new().await;
    let (cluster, launch, machines) = world.launched(2).await;
    let key = key();
    let answer = world.join(world.request(&launch, &machines[1], &key)).await.unwrap();
    let node = answer.node.clone().unwrap();
    assert_eq!((node.index, node.host_name.as_str(), node.cluster_id), (1, "demo-1", cluster.to_string()));
    let volume = answer.volume.clone().unwrap();
    assert_eq!((volume.bucket.as_str(), volume.prefix.as_str(), volume.owner_id), ("ec2mpi", "demo/", 2009));
    let ssh = answer.ssh.clone().unwrap();
    assert!(ssh.known_hosts.contains("demo-*") && ssh.known_hosts.contains("10.213.*"), "{}", ssh.known_hosts);

    assert_eq!(world.join(world.request(&launch, &machines[1], &key)).await.unwrap(), answer, "same key, same answer");
    let thief = world.join(world.request(&launch, &machines[1], &self::key())).await.unwrap_err();
    assert_eq!(thief.code(), Code::PermissionDenied);
    assert!(thief.message().contains("another key"), "{thief}");
    let bound = world.state.join_of(&machines[1]).unwrap().unwrap();
    assert_eq!(bound.answer.certificate_pem, answer.certificate_pem);
}

#[tokio::test]
async fn joins_that_prove_nothing_are_refused() {
    let world = World::new().await;
    let (_, launch, machines) = world.launched(1).await;
    let good = Claims::of(&machines[0]);
    let other_launch = format!("l-{}", "0".repeat(32));
    let elsewhere = Claims { private_ip: "10.213.0.10".into(), ..good.clone() };
    let unlaunched = Claims { instance: "i-0badbadbadbadbad0".into(), ..good.clone() };
    let changed = Claims { instance_type: "c7i.large".into(), ..good.clone() };
    let old = Claims { pending_time: "2020-01-01T00:00:00Z".into(), ..good.clone() };
    let cases = [
        ("a foreign signer", request(&Signer::new(), &launch, &good, &key()), Code::PermissionDenied),
        ("an unknown launch", request(&world.signer, &other_launch, &good, &key()), Code::PermissionDenied),
        ("another address", request(&world.signer, &launch, &elsewhere, &key()), Code::PermissionDenied),
        ("a machine not of the launch", request(&world.signer, &launch, &unlaunched, &key()), Code::PermissionDenied),
        ("a machine of another type", request(&world.signer, &launch, &changed, &key()), Code::PermissionDenied),
        ("an old document", request(&world.signer, &launch, &old, &key()), Code::PermissionDenied),
        ("no launch id", request(&world.signer, "launch", &good, &key()), Code::InvalidArgument),
        (
            "another protocol",
            JoinRequest { protocol_version: 99, ..request(&world.signer, &launch, &good, &key()) },
            Code::FailedPrecondition,
        ),
        (
            "no document",
            JoinRequest { identity_pkcs7: "AAAA".into(), ..request(&world.signer, &launch, &good, &key()) },
            Code::InvalidArgument,
        ),
        (
            "no key",
            JoinRequest { csr_pem: String::new(), ..request(&world.signer, &launch, &good, &key()) },
            Code::InvalidArgument,
        ),
    ];
    for (what, request, code) in cases {
        let refused = world.join(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
        assert_eq!(world.state.join_of(&machines[0]).unwrap(), None, "{what} was bound");
    }
    world.join(request(&world.signer, &launch, &good, &key())).await.unwrap();
}

#[tokio::test]
async fn a_machine_whose_launch_is_not_answered_yet_is_asked_to_come_again() {
    let world = World::new().await;
    world.provider.delay_next_launch(Duration::from_millis(300));
    let view = world.clusters.create(spec("demo", 1, 0)).await.unwrap();
    let launch = world.state.launches(&view.id).unwrap().remove(0).id.to_string();
    let instance: InstanceId = "i-00000000000000000".parse().unwrap();
    let key = key();
    let early = world.join(world.request(&launch, &instance, &key)).await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable, "{early}");
    let mut views = world.clusters.watch(&view.spec.name).unwrap();
    views.wait_for(|view| view.nodes[0].instance.is_some()).await.unwrap();
    world.join(world.request(&launch, &instance, &key)).await.unwrap();
}

#[tokio::test]
async fn a_cluster_on_its_way_out_takes_nobody_in() {
    let world = World::new().await;
    let (cluster, launch, machines) = world.launched(2).await;
    world.state.give_up_node(&cluster, 0, "late").unwrap();
    let refused = world.join(world.request(&launch, &machines[0], &key())).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    world.provider.pending_for(u32::MAX);
    world.clusters.destroy(&"demo".parse().unwrap(), true, SOON).await.unwrap();
    let refused = world.join(world.request(&launch, &machines[1], &key())).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

#[tokio::test]
async fn everything_but_join_needs_a_members_certificate() {
    let world = World::new().await;
    let (cluster, launch, machines) = world.launched(1).await;
    let mut stranger = world.client(None).await;
    let refused = stranger.renew(RenewRequest { csr_pem: csr(&key()) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = stranger.session(tokio_stream::empty::<AgentMessage>()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = stranger.transfer(tokio_stream::empty::<TransferFrame>()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let member = world.member(&launch, &machines[0]).await;
    let mut client = world.client(Some(&member)).await;
    let renewed = client.renew(RenewRequest { csr_pem: csr(&member.key) }).await.unwrap().into_inner();
    assert_ne!(renewed.certificate_pem, member.certificate_pem);
    let refused = client.renew(RenewRequest { csr_pem: csr(&key()) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    world.state.give_up_node(&cluster, 0, "late").unwrap();
    let refused = client.renew(RenewRequest { csr_pem: csr(&member.key) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

/// An agent that mounts, and answers every command that it understands with "done".
async fn play(world: &World, member: &Member) -> mpsc::Sender<AgentMessage> {
    let (words, stream) = mpsc::channel(16);
    let hello = Hello { protocol_version: PROTOCOL_VERSION, boot_id: "boot".into(), ..Hello::default() };
    let volume = VolumeStatus { state: 2, ..VolumeStatus::default() };
    words.send(message(agent_message::Message::Hello(hello))).await.unwrap();
    let heartbeat = Heartbeat { volume: Some(volume) };
    words.send(message(agent_message::Message::Heartbeat(heartbeat))).await.unwrap();
    let mut client = world.client(Some(member)).await;
    let mut commands = client.session(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let replies = words.clone();
    tokio::spawn(async move {
        while let Ok(Some(word)) = commands.message().await {
            if let Some(coordinator_message::Message::Command(command)) = word.message {
                let error = command.command.map(complaint).unwrap_or_default();
                let reply = CommandReply { command_id: command.id, error, value: "done".into() };
                if replies.send(message(agent_message::Message::Reply(reply))).await.is_err() {
                    return;
                }
            }
        }
    });
    words
}

/// What an agent has against a command.
fn complaint(command: command::Command) -> String {
    let command::Command::SetPeers(peers) = command else { return String::new() };
    let whole = |peer: &NodeIdentity| {
        let named = peer.cluster == "demo" && peer.host_name == format!("demo-{}", peer.index);
        named && peer.cluster_id.parse::<ClusterId>().is_ok() && peer.address.parse::<Ipv4Addr>().is_ok()
    };
    if peers.peers.iter().all(whole) { String::new() } else { format!("not whole: {peers:?}") }
}

fn message(message: agent_message::Message) -> AgentMessage {
    AgentMessage { message: Some(message) }
}

#[tokio::test]
async fn sessions_make_a_cluster_ready_carry_requests_and_replace_each_other() {
    let world = World::new().await;
    let (_, launch, machines) = world.launched(1).await;
    let member = world.member(&launch, &machines[0]).await;
    let first = play(&world, &member).await;
    let mut views = world.clusters.watch(&"demo".parse().unwrap()).unwrap();
    let ready = views.wait_for(|view| view.phase == ClusterPhase::Ready);
    tokio::time::timeout(SOON, ready).await.unwrap().unwrap();
    let answer = world.registry.request(&member.instance, NodeRequest::RaiseEpoch, SOON).await;
    assert_eq!(answer, Ok("done".into()));

    let _second = play(&world, &member).await;
    let answer = world.registry.request(&member.instance, NodeRequest::RaiseEpoch, SOON).await;
    assert_eq!(answer, Ok("done".into()), "the second session answers");
    tokio::time::timeout(SOON, first.closed()).await.expect("the first session goes on");
    assert!(world.registry.liveness(&member.instance).unwrap().connected);
}

#[tokio::test]
async fn a_session_begins_with_hello() {
    let world = World::new().await;
    let (_, launch, machines) = world.launched(1).await;
    let member = world.member(&launch, &machines[0]).await;
    let mut client = world.client(Some(&member)).await;
    let heartbeat = message(agent_message::Message::Heartbeat(Heartbeat { volume: None }));
    let refused = client.session(tokio_stream::once(heartbeat)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let hello = message(agent_message::Message::Hello(Hello { protocol_version: 99, ..Hello::default() }));
    let refused = client.session(tokio_stream::once(hello)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

async fn transfer(
    world: &World,
    member: &Member,
    id: &str,
) -> (mpsc::Sender<TransferFrame>, Result<Streaming<TransferFrame>, Status>) {
    let (frames, stream) = mpsc::channel(4);
    frames.send(TransferFrame { transfer_id: id.into(), ..TransferFrame::default() }).await.unwrap();
    let mut client = world.client(Some(member)).await;
    let answer = client.transfer(ReceiverStream::new(stream)).await;
    (frames, answer.map(Response::into_inner))
}

#[tokio::test]
async fn a_copy_goes_in_and_out() {
    let world = World::new().await;
    let (_, launch, machines) = world.launched(1).await;
    let member = world.member(&launch, &machines[0]).await;
    assert_eq!(transfer(&world, &member, "none").await.1.unwrap_err().code(), Code::NotFound);

    let mut end = world.registry.open_transfer("in", Direction::In);
    let (frames, answer) = transfer(&world, &member, "in").await;
    end.to_node.send(Ok(Bytes::from(vec![7; 100_000]))).await.unwrap();
    drop(end.to_node);
    let mut received = 0;
    let mut answer = answer.unwrap();
    while let Some(frame) = answer.message().await.unwrap() {
        assert!(frame.data.len() <= ec2mpi_proto::CHUNK_BYTES);
        received += frame.data.len();
        if frame.end {
            frames.send(TransferFrame { end: true, ..TransferFrame::default() }).await.unwrap();
        }
    }
    assert_eq!((received, end.from_node.recv().await), (100_000, None), "written and said so");

    let mut end = world.registry.open_transfer("out", Direction::Out);
    let (frames, _answer) = transfer(&world, &member, "out").await;
    frames.send(TransferFrame { data: b"tar".to_vec(), ..TransferFrame::default() }).await.unwrap();
    frames.send(TransferFrame { error: "disk".into(), ..TransferFrame::default() }).await.unwrap();
    assert_eq!(end.from_node.recv().await, Some(Ok(Bytes::from_static(b"tar"))));
    assert_eq!(end.from_node.recv().await, Some(Err("disk".into())));
    assert_eq!(end.from_node.recv().await, None);

    let mut end = world.registry.open_transfer("cut", Direction::Out);
    drop(transfer(&world, &member, "cut").await);
    let broken = end.from_node.recv().await;
    assert!(matches!(broken, Some(Err(_))), "a copy that was cut looks whole: {broken:?}");
}

#[tokio::test]
async fn a_node_that_joins_twice_at_a_time_gets_one_answer() {
    let world = World::new().await;
    let (_, launch, machines) = world.launched(1).await;
    let key = key();
    let (one, two) = tokio::join!(
        world.join(world.request(&launch, &machines[0], &key)),
        world.join(world.request(&launch, &machines[0], &key))
    );
    assert_eq!(one.unwrap(), two.unwrap());
}

#[tokio::test]
async fn the_time_out_of_a_cluster_bounds_the_age_of_documents() {
    let world = World::new().await;
    let hasty = ClusterSpec { timeout: Duration::from_secs(60), ..spec("demo", 1, 0) };
    let view = world.clusters.create(hasty).await.unwrap();
    let mut views = world.clusters.watch(&view.spec.name).unwrap();
    views.wait_for(|view| view.nodes[0].instance.is_some()).await.unwrap();
    let launch = world.state.launches(&view.id).unwrap().remove(0).id.to_string();
    let age = |minutes: i64| {
        let at = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
        Claims { pending_time: at.to_string(), ..Claims::of(&"i-00000000000000000".parse().unwrap()) }
    };
    // Five minutes are allowed for clocks that differ.
    let old = world.join(request(&world.signer, &launch, &age(7), &key())).await.unwrap_err();
    assert_eq!(old.code(), Code::PermissionDenied, "{old}");
    world.join(request(&world.signer, &launch, &age(1), &key())).await.unwrap();
}
