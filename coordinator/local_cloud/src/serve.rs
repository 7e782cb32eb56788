//! The process that serves: puts the parts together, says that it is ready, and ends on SIGTERM or SIGINT.
//!
//! Ending it does not end the machines.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::document::DocumentSigner;
use crate::durable::{self, Outlive};
use crate::ec2_api::{self, Api};
use crate::faults::{Faults, Settle, admin};
use crate::fleet::Fleet;
use crate::fleet::supervisor::{Running, Supervisor};
use crate::imds::{self, Imds};
use crate::info::CloudInfo;
use crate::keys::Keys;
use crate::layout::Layout;
use crate::lock::{self, HeldLock};
use crate::network::{self, Cidr, Names};
use crate::settings::{CloudTag, Options, Ports, Settings};
use crate::{bucket, catalog};

/// Tried first on the bridge's own address, where seldom anything else listens.
const IMDS_PORT: u16 = 80;
const NODE_S3_PORT: u16 = 9000;
/// Requests in progress get this long when the process is told to end.
const GRACE: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_secs(60);
/// Every machine has dozens of connections to S3.
const OPEN_FILES: u64 = 65_536;
/// A port that a cloud had before may be closing still.
const BIND_TRIES: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(100);

/// Why a cloud does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Machines are namespaces, which only root can make.
    #[error("the local cloud must run as root: use sudo")]
    NotRoot,
    /// Another process serves this directory.
    #[error("a cloud is already running in {directory}{}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    AlreadyRunning {
        /// The directory.
        directory: std::path::PathBuf,
        /// The process, where it said so.
        pid: Option<u32>,
    },
}

/// Refuses to go on as anybody but root.
pub(crate) fn require_root() -> Result<(), StartError> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(StartError::NotRoot) }
}

/// Serves in the foreground until it is told to end.
pub(crate) fn run(directory: &Path, options: &Options) -> anyhow::Result<()> {
    require_root()?;
    let layout = Layout::create(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let _lock = exclusive(&layout)?;
    durable::remove_file(&layout.info())?;
    raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(&layout, options));
    durable::remove_file(&layout.admin())?;
    durable::remove_file(&layout.info())?;
    runtime.shutdown_timeout(GRACE);
    result
}

fn exclusive(layout: &Layout) -> anyhow::Result<HeldLock> {
    if let Some(lock) = lock::acquire(&layout.lock())? {
        return Ok(lock);
    }
    let pid = durable::load::<CloudInfo>(&layout.info()).ok().flatten().map(|info| info.pid);
    Err(StartError::AlreadyRunning { directory: layout.root().to_owned(), pid }.into())
}

fn raise_open_files() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(OPEN_FILES.min(hard)), hard)?;
    Ok(())
}

async fn serve(layout: &Layout, options: &Options) -> anyhow::Result<()> {
    let names = Names::new(CloudTag::of(layout));
    let mut settings = Settings::load_or_create(layout, options)?;
    let cidr = network::ensure_bridge(&names, settings.network)?;
    settings.network = Some(cidr);
    let listeners = Listeners::bind(&mut settings.ports, cidr).await?;
    settings.save(layout)?;
    let role_ttl = SignedDuration::from_secs(i64::from(settings.role_ttl));
    let keys = Arc::new(Keys::open(&settings, layout.role_keys(), role_ttl)?);
    let signer = DocumentSigner::load_or_create(layout)?;
    let settle = Settle { hidden_ms: settings.settle_ms, pending_ms: settings.settle_ms };
    let faults = Arc::new(Faults::open(layout.faults(), settle)?);
    let fleet = Arc::new(Fleet::open(layout.clone(), cidr, faults.clone())?);
    let buckets = bucket::open(&layout.bucket(), keys.clone())?.with_faults(faults);
    buckets.create_bucket_if_absent(catalog::BUCKET)?;
    let info = info(layout, &settings, &names, cidr, signer.certificate_pem()?, &listeners)?;
    let imds_endpoint = format!("http://{}", listeners.imds.local_addr()?);
    let supervisor = Supervisor::new(fleet.clone(), names, imds_endpoint, settings.masks.clone());
    let imds = Arc::new(Imds::new(fleet.clone(), keys.clone(), signer, &settings.token_key));
    let machines = Box::new(Running(supervisor.clone()));
    let api = Arc::new(Api { fleet: fleet.clone(), machines, keys, slots: settings.slots });
    let stop = CancellationToken::new();
    let served = listeners.serve(api, imds::router(imds), &buckets, &stop);
    let admin = admin::bind(layout).context("socket of the faults")?;
    tokio::spawn(admin::serve(admin, fleet.clone(), stop.clone()));
    supervisor.resume();
    durable::save(&layout.info(), &info, Outlive::Process)?;
    tracing::info!(pid = info.pid, ec2 = info.ec2_endpoint, s3 = info.s3_endpoint, network = %cidr, "cloud is ready");
    let swept = tokio::spawn(sweep(fleet));
    until_told_to_end().await?;
    tracing::info!("cloud ends; its machines go on");
    swept.abort();
    stop.cancel();
    let _ = tokio::time::timeout(GRACE, served).await;
    Ok(())
}

fn info(
    layout: &Layout,
    settings: &Settings,
    names: &Names,
    cidr: Cidr,
    certificate: String,
    listeners: &Listeners,
) -> anyhow::Result<CloudInfo> {
    let url = |listener: &TcpListener| -> anyhow::Result<String> { Ok(format!("http://{}", listener.local_addr()?)) };
    Ok(CloudInfo {
        pid: std::process::id(),
        directory: layout.root().to_owned(),
        region: catalog::REGION.to_owned(),
        ec2_endpoint: url(&listeners.ec2)?,
        s3_endpoint: url(&listeners.s3)?,
        node_s3_endpoint: url(&listeners.node_s3)?,
        gateway: cidr.gateway(),
        cidr: cidr.to_string(),
        bridge: names.bridge(),
        bucket: catalog::BUCKET.to_owned(),
        access_key: settings.access_key.clone(),
        secret_key: settings.secret_key.clone(),
        default_instance_type: catalog::DEFAULT_TYPE.to_owned(),
        document_certificate_pem: certificate,
    })
}

/// Two for clients on this machine, two for instances.
struct Listeners {
    ec2: TcpListener,
    s3: TcpListener,
    node_s3: TcpListener,
    imds: TcpListener,
}

impl Listeners {
    /// On the ports that were used before. Instances cannot be told of a change: theirs must be free again.
    async fn bind(ports: &mut Ports, cidr: Cidr) -> anyhow::Result<Self> {
        let (here, there) = (Ipv4Addr::LOCALHOST, cidr.gateway());
        let listeners = Self {
            ec2: bind_any(here, &[ports.ec2, 0]).await?,
            s3: bind_any(here, &[ports.s3, 0]).await?,
            node_s3: bind_node(there, ports.node_s3, NODE_S3_PORT).await.context("S3 for instances")?,
            imds: bind_node(there, ports.imds, IMDS_PORT).await.context("instance metadata service")?,
        };
        *ports = Ports {
            ec2: listeners.ec2.local_addr()?.port(),
            s3: listeners.s3.local_addr()?.port(),
            node_s3: listeners.node_s3.local_addr()?.port(),
            imds: listeners.imds.local_addr()?.port(),
        };
        Ok(listeners)
    }

    /// Starts a task a listener; the future ends when all of them have.
    fn serve(
        self,
        api: Arc<Api>,
        imds: Router,
        buckets: &bucket::BucketService,
        stop: &CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let stopped = || stop.clone().cancelled_owned();
        let ec2 = ec2_api::serve(self.ec2, api, stopped());
        let imds = imds.into_make_service_with_connect_info::<SocketAddr>();
        let imds = axum::serve(self.imds, imds).with_graceful_shutdown(stopped());
        let s3 = bucket::serve(self.s3, buckets.clone(), stopped());
        let node_s3 = bucket::serve(self.node_s3, buckets.clone(), stopped());
        let tasks = [
            tokio::spawn(said("ec2", ec2)),
            tokio::spawn(said("imds", async { imds.await })),
            tokio::spawn(said("s3", s3)),
            tokio::spawn(said("node s3", node_s3)),
        ];
        async move {
            futures::future::join_all(tasks).await;
        }
    }
}

async fn said(service: &'static str, serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(service, %error, "a service ended");
    }
}

async fn bind_any(address: Ipv4Addr, ports: &[u16]) -> anyhow::Result<TcpListener> {
    let wanted: Vec<SocketAddr> = ports.iter().map(|port| (IpAddr::V4(address), *port).into()).collect();
    TcpListener::bind(wanted.as_slice()).await.with_context(|| format!("cannot listen on {address}"))
}

async fn bind_node(address: Ipv4Addr, before: u16, first: u16) -> anyhow::Result<TcpListener> {
    if before == 0 {
        return bind_any(address, &[first, 0]).await;
    }
    let mut tries = 0;
    loop {
        match TcpListener::bind((address, before)).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tries < BIND_TRIES => tries += 1,
            bound => return bound.with_context(|| format!("cannot listen on {address}:{before} again")),
        }
        tokio::time::sleep(BIND_PAUSE).await;
    }
}

async fn until_told_to_end() -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Forgets instances that ended long ago.
async fn sweep(fleet: Arc<Fleet>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        let fleet = fleet.clone();
        let forgotten = tokio::task::spawn_blocking(move || fleet.forget_old(Timestamp::now())).await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!(%error, "cannot forget old instances");
        }
    }
}
