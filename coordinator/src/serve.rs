//! The coordinator as a process: takes its directory, opens its listeners, and goes on with what was written down.
//!
//! Its end touches no cluster: machines, agents and jobs go on, and the next start picks everything up.

mod agent_file;
mod cloud;
mod listen;
mod lock;
mod open_files;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use self::agent_file::AgentFile;
use self::cloud::Cloud;
use crate::api::agent::{AgentApi, AgentContext};
use crate::api::control::{ControlApi, ServiceInfo};
use crate::cluster::launch::Coordinates;
use crate::cluster::{Clusters, now};
use crate::config::{ServeArgs, Settings};
use crate::identity::Validity;
use crate::identity::authority::{Authority, ServerIdentity};
use crate::job::Jobs;
use crate::registry::Registry;
use crate::state::{AuthorityKeys, State};
use crate::telemetry;
use crate::user_data::AgentBinary;

/// DNS name in the certificate of the agents' listener; what nodes check instead of an address.
pub const SERVER_NAME: &str = "coordinator.ec2mpi";

/// The listener's certificate is made anew at every start.
const SERVER_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(2 * 365 * 24 * 3600);

/// How long calls under way may take at the end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// A dead connection is noticed after two of these.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How often the coordinator looks whether it is idle.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Is the coordinator until a signal, a Stop call, or idleness ends it.
pub async fn run(settings: Settings, args: ServeArgs) -> anyhow::Result<()> {
    telemetry::init();
    use_ring();
    make_private_directory(&settings.state_dir)?;
    let _lock = lock::acquire(&settings.state_dir).await?;
    open_files::raise();
    let shutdown = CancellationToken::new();
    end_on_signals(&shutdown)?;
    tokio::select! {
        started = Coordinator::start(&settings, &shutdown) => started?.serve(&args, &shutdown).await,
        () = shutdown.cancelled() => Ok(()),
    }
}

/// rustls wants to be told which of its providers to use.
pub fn use_ring() {
    // It was told before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn make_private_directory(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the directory {}", path.display()))
}

fn end_on_signals(shutdown: &CancellationToken) -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("cannot listen for signals")?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            signals.recv().await;
            tracing::info!(signal = kind.as_raw_value(), "signal received");
            shutdown.cancel();
        });
    }
    Ok(())
}

/// Everything that runs.
struct Coordinator {
    clusters: Clusters,
    servers: JoinSet<anyhow::Result<()>>,
    /// Removes the socket at the end.
    _socket: listen::SocketFile,
}

impl Coordinator {
    async fn start(settings: &Settings, shutdown: &CancellationToken) -> anyhow::Result<Self> {
        let agent_file = AgentFile::load(&settings.agent_binary)?;
        let state = State::open(&settings.state_dir.join("state.sqlite"))?;
        let cloud = cloud::open(settings, &state).await?;
        let authority = authority(&state)?;
        let agents = listen::agents(&state, cloud.listen.address, cloud.listen.agents_port).await?;
        let files = listen::agent_files(&state, cloud.listen.address, cloud.listen.files_port).await?;
        let (control, socket) = listen::control(&settings.socket).await?;
        let coordinates = coordinates(&agents, &files, cloud.advertise, &authority, &agent_file)?;
        let tls = authority.issue_server(SERVER_NAME, &[cloud.advertise], server_validity())?;
        let parts = Parts::assemble(settings, state, &cloud, authority, coordinates)?;
        let mut servers = JoinSet::new();
        servers.spawn(agent_file.serve(files, shutdown.clone()));
        servers.spawn(serve_agents(parts.agents, agents, &tls, shutdown.clone())?);
        // Before callers are served: one that follows a job must find it.
        parts.jobs.resume()?;
        let info = ServiceInfo {
            state_directory: settings.state_dir.clone(),
            cloud: settings.cloud.name().to_owned(),
            cloud_settings: settings.aws.given(),
        };
        let api =
            ControlApi::new(parts.clusters.clone(), parts.registry, parts.state, parts.jobs, info, shutdown.clone());
        servers.spawn(serve_control(api, control, shutdown.clone()));
        tracing::info!(pid = std::process::id(), socket = %settings.socket.display(), "coordinator is up");
        Ok(Self { clusters: parts.clusters, servers, _socket: socket })
    }

    /// Until the end, and then in order: no new calls, no new steps of clusters, calls under way for a short while.
    async fn serve(mut self, args: &ServeArgs, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let failure = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            () = idle(&self.clusters, args.idle_timeout) => Ok(()),
            // A server ends by itself only when it fails.
            Some(ended) = self.servers.join_next() => ended.context("a listener panicked").and_then(|result| result),
        };
        shutdown.cancel();
        self.clusters.shut_down(SHUTDOWN_LIMIT).await;
        let all_ended = async { while self.servers.join_next().await.is_some() {} };
        // Sessions of agents are streams without end; agents reconnect.
        let _ = tokio::time::timeout(SHUTDOWN_LIMIT, all_ended).await;
        tracing::info!("coordinator ends; clusters and jobs go on");
        failure
    }
}

struct Parts {
    state: State,
    registry: Registry,
    clusters: Clusters,
    jobs: Jobs,
    agents: AgentApi,
}

impl Parts {
    fn assemble(
        settings: &Settings,
        state: State,
        cloud: &Cloud,
        authority: Authority,
        coordinates: Coordinates,
    ) -> anyhow::Result<Self> {
        let registry = Registry::default();
        let provider = Arc::clone(&cloud.provider);
        let clusters = Clusters::start(state.clone(), provider, registry.clone(), cloud.place.clone(), coordinates)?;
        let jobs = Jobs::new(state.clone(), clusters.clone(), registry.clone(), settings.state_dir.join("jobs"));
        let agents = AgentApi::new(AgentContext {
            state: state.clone(),
            registry: registry.clone(),
            clusters: clusters.clone(),
            authority,
            place: cloud.place.clone(),
            document_certificates: cloud.document_certificates.clone(),
            started: now(),
        });
        Ok(Self { state, registry, clusters, jobs, agents })
    }
}

/// The authority that nodes pin: made at the first start, the same ever after.
fn authority(state: &State) -> anyhow::Result<Authority> {
    if let Some(keys) = state.authority()? {
        return Ok(Authority::from_pem(&keys.certificate_pem, &keys.key_pem)?);
    }
    let authority = Authority::generate(Timestamp::now())?;
    state.set_authority(&AuthorityKeys {
        certificate_pem: authority.certificate_pem().to_owned(),
        key_pem: authority.key_pem(),
    })?;
    Ok(authority)
}

fn server_validity() -> Validity {
    Validity::starting(Timestamp::now(), SERVER_CERTIFICATE_LIFETIME)
}

fn coordinates(
    agents: &TcpListener,
    files: &TcpListener,
    advertise: IpAddr,
    authority: &Authority,
    agent: &AgentFile,
) -> anyhow::Result<Coordinates> {
    let reached =
        |listener: &TcpListener| Ok::<_, std::io::Error>(SocketAddr::new(advertise, listener.local_addr()?.port()));
    let binary =
        AgentBinary { url: format!("http://{}{}", reached(files)?, agent.path()), sha256: agent.sha256().to_owned() };
    Ok(Coordinates {
        url: format!("https://{}", reached(agents)?),
        server_name: SERVER_NAME.to_owned(),
        ca_pem: authority.certificate_pem().to_owned(),
        // The executable beside this one is of this machine's kind.
        agents: [(std::env::consts::ARCH.to_owned(), binary)].into(),
    })
}

/// The agents' listener: TLS, certificates of clients checked against the authority where there are any.
pub(crate) fn serve_agents(
    api: AgentApi,
    listener: TcpListener,
    tls: &ServerIdentity,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
    let ca = api.authority_pem();
    let config = ServerTlsConfig::new()
        .identity(Identity::from_pem(&tls.certificate_pem, &tls.key_pem))
        .client_ca_root(Certificate::from_pem(ca))
        .client_auth_optional(true)
        .timeout(HANDSHAKE_LIMIT);
    let mut server = Server::builder()
        .tls_config(config)
        .context("cannot set up TLS for agents")?
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE));
    let router = server.add_service(api.into_service());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(async move {
        let served = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await;
        served.context("the agents' listener failed")
    })
}

async fn serve_control(api: ControlApi, listener: UnixListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let incoming = UnixListenerStream::new(listener);
    let server = Server::builder().add_service(api.into_service());
    let served = server.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await;
    served.context("the control socket failed")
}

/// Ends when there has been no cluster for so long; never for zero.
async fn idle(clusters: &Clusters, limit: Duration) {
    if limit.is_zero() {
        return std::future::pending().await;
    }
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(IDLE_CHECK.min(limit)).await;
        if !clusters.is_empty() {
            since = Instant::now();
        } else if since.elapsed() >= limit {
            tracing::info!(seconds = limit.as_secs(), "no clusters for a while");
            return;
        }
    }
}
