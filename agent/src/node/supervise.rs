//! Keeps agent, sshd and volume running, where systemd keeps this and where nothing does.
//!
//! Every service holds the flock on a file of its own, open as its standard input, for as long as it lives. So a
//! service outlives a killed supervisor, and the next supervisor finds it by its lock instead of starting a second one.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::membership::{Membership, Volume};
use super::paths::Paths;
use super::{join, limits, procfs, spool, ssh};
use crate::durable;

const POLL: Duration = Duration::from_millis(200);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// An agent that the coordinator refuses asks again so seldom.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
/// A log of this size is put aside when its service starts anew, over the one before; bytes.
const LOG_LIMIT: u64 = 16 << 20;
/// What ran for so long was fine: the next restart is quick again.
const STABLE: Duration = Duration::from_secs(60);

/// A process that is kept running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Agent,
    Sshd,
    Volume,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Sshd => "sshd",
            Self::Volume => "volume",
        }
    }

    /// How long it may take to end after SIGTERM. The volume drains.
    fn grace(self) -> Duration {
        match self {
            Self::Agent | Self::Sshd => Duration::from_secs(5),
            Self::Volume => Duration::from_secs(150),
        }
    }

    /// Its command line; `None` while what it needs is not there yet.
    fn argv(self, paths: &Paths, agent: &str) -> anyhow::Result<Option<Vec<String>>> {
        match self {
            Self::Agent => Ok(Some(vec![agent.to_owned(), "run".to_owned()])),
            Self::Sshd => Ok(sshd_argv(paths)),
            Self::Volume => {
                let member = Membership::load(&paths.join_json()).context("cannot read the membership")?;
                Ok(member.map(|member| volume_argv(paths, agent, &member.volume, &member.node.host_name)))
            }
        }
    }
}

fn sshd_argv(paths: &Paths) -> Option<Vec<String>> {
    let config = paths.ssh_dir().join("sshd_config");
    let argv = [ssh::SSHD, "-D", "-e", "-f"].map(str::to_owned);
    config.exists().then(|| argv.into_iter().chain([config.display().to_string()]).collect())
}

fn volume_argv(paths: &Paths, agent: &str, volume: &Volume, node: &str) -> Vec<String> {
    let bucket = match volume.prefix.trim_end_matches('/') {
        "" => volume.bucket.clone(),
        prefix => format!("{}/{prefix}", volume.bucket),
    };
    let (id, cache, socket) = (volume.owner_id.to_string(), paths.volume_cache(), paths.volume_socket());
    let mut argv = vec![agent.to_owned(), "mount".to_owned(), bucket, volume.mount_point.clone()];
    let options = [
        ("--region", volume.region.clone()),
        ("--endpoint", volume.endpoint.clone()),
        ("--cache-dir", cache.display().to_string()),
        ("--control", socket.display().to_string()),
        ("--uid", id.clone()),
        ("--gid", id),
        ("--node-name", node.to_owned()),
    ];
    for (name, value) in options {
        if !value.is_empty() {
            argv.extend([name.to_owned(), value]);
        }
    }
    argv.push("--foreground".to_owned());
    argv
}

/// Keeps the services running until SIGTERM or SIGINT, then ends them: agent and sshd at once, the volume drained.
pub async fn run(paths: Paths) -> anyhow::Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("ec2mpi-agent supervise must run as root");
    }
    for dir in [paths.run_dir(), paths.log_dir()] {
        durable::create_dirs(&dir, 0o755).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    durable::create_dirs(&paths.state_dir(), 0o700)?;
    let Some(_alone) = spool::try_lock(&paths.lock("supervise"))? else { bail!("a supervisor runs already") };
    limits::raise();
    let agent = std::env::current_exe()?.display().to_string();
    let stop = CancellationToken::new();
    let services = [Service::Agent, Service::Sshd, Service::Volume];
    let tasks = services.map(|service| tokio::spawn(keep(service, paths.clone(), agent.clone(), stop.clone())));
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
    info!("stopping");
    stop.cancel();
    for task in tasks {
        let _ = task.await;
    }
    Ok(())
}

async fn keep(service: Service, paths: Paths, agent: String, stop: CancellationToken) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    while !stop.is_cancelled() {
        let began = Instant::now();
        match turn(service, &paths, &agent, &stop).await {
            Ok(Turn::NotYet) => {
                pause(POLL, &stop).await;
                continue;
            }
            Ok(Turn::Ended(how)) => warn!(service = service.name(), how, "service ended"),
            Ok(Turn::Refused) => {
                warn!(service = service.name(), wait = ?REFUSED_WAIT, "the coordinator refuses this node");
                pause(REFUSED_WAIT, &stop).await;
                continue;
            }
            Err(error) => warn!(service = service.name(), error = format!("{error:#}"), "cannot run a service"),
        }
        if began.elapsed() > STABLE {
            backoff.reset();
        }
        pause(backoff.next_wait(), &stop).await;
    }
}

async fn pause(wait: Duration, stop: &CancellationToken) {
    tokio::select! { () = sleep(wait) => {}, () = stop.cancelled() => {} }
}

enum Turn {
    NotYet,
    Ended(String),
    Refused,
}

fn ended(service: Service, status: ExitStatus) -> Turn {
    let refused = service == Service::Agent && status.code() == Some(join::REFUSED_EXIT_CODE.into());
    if refused { Turn::Refused } else { Turn::Ended(status.to_string()) }
}

/// One life of a service: one that is found, or a new one.
async fn turn(service: Service, paths: &Paths, agent: &str, stop: &CancellationToken) -> anyhow::Result<Turn> {
    let Some(argv) = service.argv(paths, agent)? else { return Ok(Turn::NotYet) };
    let path = paths.lock(service.name());
    match spool::try_lock(&path)? {
        None => adopt(service, &path, stop).await,
        Some(lock) => {
            if service == Service::Volume {
                let member = Membership::load(&paths.join_json())?.context("no membership")?;
                make_mount_point(&paths.at(&member.volume.mount_point));
            }
            let child = spawn(service, paths, &argv, lock)?;
            watch(service, child, stop).await
        }
    }
}

/// A mount whose process is gone answers ENOTCONN to everything; the volume detaches it, and it is a directory.
fn make_mount_point(dir: &Path) {
    if let Err(error) = std::fs::create_dir_all(dir) {
        info!(dir = %dir.display(), %error, "the mount point is there or cannot be made");
    }
}

fn spawn(service: Service, paths: &Paths, argv: &[String], lock: File) -> anyhow::Result<Child> {
    let (program, arguments) = argv.split_first().context("no command")?;
    let log = open_log(&paths.log(service.name())).context("cannot open the log")?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(lock))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .current_dir("/")
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    info!(service = service.name(), pid = child.id(), "service started");
    Ok(child)
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    File::options().create(true).append(true).open(path)
}

async fn watch(service: Service, mut child: Child, stop: &CancellationToken) -> anyhow::Result<Turn> {
    tokio::select! {
        status = child.wait() => return Ok(ended(service, status?)),
        () = stop.cancelled() => {}
    }
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    match tokio::time::timeout(service.grace(), child.wait()).await {
        Ok(status) => Ok(Turn::Ended(status?.to_string())),
        Err(_) => {
            child.kill().await?;
            Ok(Turn::Ended("killed: it did not end in time".to_owned()))
        }
    }
}

/// A service that an earlier supervisor started: watched through its lock.
async fn adopt(service: Service, lock: &PathBuf, stop: &CancellationToken) -> anyhow::Result<Turn> {
    info!(service = service.name(), "service runs already");
    let mut limit = None;
    while spool::try_lock(lock)?.is_none() {
        if stop.is_cancelled() && limit.is_none() {
            limit = Some(Instant::now() + service.grace());
            signal_holder(lock, Signal::SIGTERM)?;
        }
        if limit.is_some_and(|limit| Instant::now() > limit) {
            signal_holder(lock, Signal::SIGKILL)?;
        }
        sleep(POLL).await;
    }
    Ok(Turn::Ended("adopted, then ended".to_owned()))
}

fn signal_holder(lock: &PathBuf, signal: Signal) -> anyhow::Result<()> {
    let meta = std::fs::metadata(lock)?;
    if let Some(pid) = procfs::with_stdin(meta.dev(), meta.ino()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volume_is_mounted_as_the_join_said() {
        let volume = Volume {
            bucket: "b".into(),
            prefix: "clusters/x/".into(),
            region: "r".into(),
            endpoint: String::new(),
            mount_point: "/shared".into(),
            owner_id: 2009,
        };
        let argv = volume_argv(&Paths::new("/"), "/a", &volume, "demo-0");
        assert_eq!(argv[..4], ["/a", "mount", "b/clusters/x", "/shared"].map(str::to_owned));
        assert!(!argv.contains(&"--endpoint".to_owned()), "an empty endpoint means AWS's own");
        assert_eq!(argv.last().map(String::as_str), Some("--foreground"));
    }

    #[test]
    fn a_refused_agent_is_told_from_one_that_fell() {
        use std::os::unix::process::ExitStatusExt;
        let status = |code: i32| ExitStatus::from_raw(code << 8);
        assert!(matches!(ended(Service::Agent, status(3)), Turn::Refused));
        assert!(matches!(ended(Service::Agent, status(1)), Turn::Ended(_)));
        assert!(matches!(ended(Service::Volume, status(3)), Turn::Ended(_)));
    }

    #[test]
    fn a_log_that_is_too_long_is_put_aside() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("agent.log");
        drop(open_log(&path).unwrap());
        File::options().write(true).open(&path).unwrap().set_len(LOG_LIMIT + 1).unwrap();
        assert_eq!(open_log(&path).unwrap().metadata().unwrap().len(), 0);
        assert!(root.path().join("agent.log.1").exists());
    }

    #[test]
    fn nothing_but_the_agent_runs_before_the_join() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        assert!(Service::Agent.argv(&paths, "/a").unwrap().is_some());
        assert!(Service::Sshd.argv(&paths, "/a").unwrap().is_none());
        assert!(Service::Volume.argv(&paths, "/a").unwrap().is_none());
    }
}
