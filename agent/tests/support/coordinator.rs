//! A coordinator that answers a node over real TLS, and the metadata service beside it. The test reads what the node
//! said and tells it what to do.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterId, LaunchId};
use ec2mpi_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use ec2mpi_proto::v1::*;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// How long anything that a test waits for may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// What the metadata service says the identity document is.
pub(crate) const DOCUMENT: &str = "c2lnbmVk";

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One session that a node began.
pub(crate) struct Session {
    pub(crate) hello: Hello,
    pub(crate) to_node: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    from_node: Streaming<AgentMessage>,
}

/// One copy that a node began.
pub(crate) struct Copy {
    pub(crate) to_node: mpsc::Sender<Result<TransferFrame, Status>>,
    pub(crate) from_node: Streaming<TransferFrame>,
}

/// What happened, and what shall happen.
#[derive(Default)]
struct Script {
    joins: Vec<JoinRequest>,
    refuse_session: bool,
    connections: usize,
}

/// The fake itself.
pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    pub(crate) cluster_id: ClusterId,
    ca_pem: String,
    script: Arc<Mutex<Script>>,
    sessions: mpsc::Receiver<Session>,
    copies: mpsc::Receiver<Copy>,
}

struct Service {
    issuer: Issuer<'static, KeyPair>,
    cluster_id: ClusterId,
    script: Arc<Mutex<Script>>,
    sessions: mpsc::Sender<Session>,
    copies: mpsc::Sender<Copy>,
}

impl Coordinator {
    /// Starts it on a free port of loopback.
    pub(crate) async fn start() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let server_key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["coordinator.ec2mpi".to_owned()]).unwrap();
        let server = server.signed_by(&server_key, &issuer).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(server.pem(), server_key.serialize_pem()))
            .client_ca_root(Certificate::from_pem(&ca_pem))
            .client_auth_optional(true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cluster_id, script) = (ClusterId::random(), Arc::new(Mutex::new(Script::default())));
        let (to_sessions, sessions) = mpsc::channel(8);
        let (to_copies, copies) = mpsc::channel(8);
        let service = Service {
            issuer,
            cluster_id: cluster_id.clone(),
            script: script.clone(),
            sessions: to_sessions,
            copies: to_copies,
        };
        let router = Server::builder().tls_config(tls).unwrap().add_service(AgentServiceServer::new(service));
        let counted = script.clone();
        let incoming = TcpListenerStream::new(listener).inspect(move |_| counted.lock().connections += 1);
        tokio::spawn(router.serve_with_incoming(incoming));
        Self { address, cluster_id, ca_pem, script, sessions, copies }
    }

    /// What user-data would write.
    pub(crate) fn agent_toml(&self) -> String {
        format!(
            "coordinator = \"https://{}\"\nserver_name = \"coordinator.ec2mpi\"\ncluster = \"demo\"\n\
             cluster_id = \"{}\"\nlaunch_id = \"{}\"\nca_pem = \"\"\"\n{}\"\"\"\n",
            self.address,
            self.cluster_id,
            LaunchId::random(),
            self.ca_pem
        )
    }

    /// The joins so far; the first of them was answered with UNAVAILABLE.
    pub(crate) fn joins(&self) -> Vec<JoinRequest> {
        self.script.lock().joins.clone()
    }

    /// How many connections were opened so far, whatever became of them.
    pub(crate) fn connections(&self) -> usize {
        self.script.lock().connections
    }

    /// Whether new sessions are answered with PERMISSION_DENIED.
    pub(crate) fn refuse_sessions(&self, refuse: bool) {
        self.script.lock().refuse_session = refuse;
    }

    /// The next session that a node begins.
    pub(crate) async fn session(&mut self) -> Session {
        tokio::time::timeout(LIMIT, self.sessions.recv()).await.expect("no session came").unwrap()
    }

    /// The next copy that a node begins.
    pub(crate) async fn copy(&mut self) -> Copy {
        tokio::time::timeout(LIMIT, self.copies.recv()).await.expect("no copy came").unwrap()
    }
}

impl Session {
    /// Sends a command.
    pub(crate) async fn command(&self, id: &str, command: command::Command) {
        let command = Command { id: id.to_owned(), command: Some(command) };
        let message = CoordinatorMessage { message: Some(coordinator_message::Message::Command(command)) };
        self.to_node.send(Ok(message)).await.unwrap();
    }

    /// The next message that `wanted` takes; others are passed over.
    pub(crate) async fn next<T>(&mut self, wanted: impl Fn(agent_message::Message) -> Option<T>) -> T {
        let search = async {
            loop {
                let message = self.from_node.message().await.unwrap().expect("the session ended");
                if let Some(found) = message.message.and_then(&wanted) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LIMIT, search).await.expect("the message did not come")
    }

    /// The reply to a command.
    pub(crate) async fn reply(&mut self, id: &str) -> CommandReply {
        self.next(|message| match message {
            agent_message::Message::Reply(reply) if reply.command_id == id => Some(reply),
            _ => None,
        })
        .await
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = Out<CoordinatorMessage>;
    type TransferStream = Out<TransferFrame>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let first = {
            let mut script = self.script.lock();
            script.joins.push(request.clone());
            script.joins.len() == 1
        };
        if first {
            return Err(Status::unavailable("not yet"));
        }
        let csr = CertificateSigningRequestParams::from_pem(&request.csr_pem).unwrap();
        let certificate_pem = csr.signed_by(&self.issuer).unwrap().pem();
        Ok(Response::new(answer(certificate_pem, &self.cluster_id)))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Out<CoordinatorMessage>>, Status> {
        if request.peer_certs().is_none_or(|certificates| certificates.is_empty()) || self.script.lock().refuse_session
        {
            return Err(Status::permission_denied("no certificate of ours"));
        }
        let mut from_node = request.into_inner();
        let first = from_node.message().await?.and_then(|message| message.message);
        let Some(agent_message::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no Hello"));
        };
        let (to_node, stream) = mpsc::channel(8);
        let welcome = coordinator_message::Message::Welcome(Welcome { heartbeat_seconds: 1 });
        to_node.send(Ok(CoordinatorMessage { message: Some(welcome) })).await.unwrap();
        self.sessions.send(Session { hello, to_node, from_node }).await.ok();
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn transfer(
        &self,
        request: Request<Streaming<TransferFrame>>,
    ) -> Result<Response<Out<TransferFrame>>, Status> {
        let (to_node, stream) = mpsc::channel(8);
        self.copies.send(Copy { to_node, from_node: request.into_inner() }).await.ok();
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

fn answer(certificate_pem: String, cluster_id: &ClusterId) -> JoinResponse {
    JoinResponse {
        certificate_pem,
        node: Some(NodeIdentity {
            cluster: "demo".into(),
            cluster_id: cluster_id.to_string(),
            index: 0,
            host_name: "demo-0".into(),
            instance_id: "i-00000000000000001".into(),
            address: "10.0.0.1".into(),
        }),
        ssh: Some(SshMaterial {
            host_certificate: "ssh-ed25519-cert-v01@openssh.com HOST".into(),
            user_certificate: "ssh-ed25519-cert-v01@openssh.com USER".into(),
            authority_public_key: "ssh-ed25519 AUTHORITY".into(),
            known_hosts: "@cert-authority * ssh-ed25519 AUTHORITY".into(),
            user_name: "mpi".into(),
            user_id: 2009,
        }),
        volume: Some(VolumeSettings {
            bucket: "ec2mpi".into(),
            prefix: "c/".into(),
            region: "local-1".into(),
            endpoint: String::new(),
            mount_point: "/shared".into(),
            owner_id: 2009,
        }),
        cluster_cidr: "10.0.0.0/16".into(),
    }
}

/// A metadata service that knows one token and the identity document.
pub(crate) async fn metadata_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
            let (status, body) = match request.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["put", "/latest/api/token", ..] => ("200 OK", "token"),
                ["get", "/latest/dynamic/instance-identity/rsa2048", ..]
                    if request.contains("x-aws-ec2-metadata-token: token") =>
                {
                    ("200 OK", DOCUMENT)
                }
                _ => ("404 Not Found", ""),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// The files of a machine that the agent finds.
pub(crate) fn machine(root: &Path, coordinator: &Coordinator) {
    for dir in ["etc/ec2mpi", "var/lib", "run", "home"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::write(root.join("etc/ec2mpi/agent.toml"), coordinator.agent_toml()).unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
}
