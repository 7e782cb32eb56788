//! One mounted volume in this process: its runtime, its FUSE session, its end.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::volume::cache::Cache;
use crate::volume::control::{Answer, Request, Status, server};
use crate::volume::fuse::Adapter;
use crate::volume::journal::Journal;
use crate::volume::store::ObjectStore;
use crate::volume::tree::Ino;
use crate::volume::{Options, Volume, replay};

/// Threads that read requests of the kernel.
const FUSE_THREADS: usize = 4;
/// What the kernel reads ahead: one request of the largest size.
const READAHEAD_KIB: u32 = 1024;
/// Threads that run operations.
const WORKERS: usize = 4;
/// How long tasks may take to notice the end.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long the local disk may take for what was written.
const SETTLE: Duration = Duration::from_secs(60);
/// How long a busy mount is waited for before it is detached.
const BUSY: Duration = Duration::from_secs(2);

/// A mounted volume. Dropped, it unmounts without waiting for uploads; the journal keeps them.
#[derive(Debug)]
pub struct MountedVolume {
    volume: Arc<Volume>,
    session: Option<BackgroundSession>,
    runtime: Option<Runtime>,
    /// Held as long as the volume lives: one volume a cache directory.
    _lock: Flock<File>,
}

/// Mounts a volume over any store. Must not be called inside a runtime.
pub fn mount_with(store: Arc<dyn ObjectStore>, options: Options) -> anyhow::Result<MountedVolume> {
    mount_on(runtime()?, store, options)
}

pub(super) fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(WORKERS).thread_name("volume-task").enable_all();
    builder.build().context("starting the runtime")
}

pub(super) fn mount_on(
    runtime: Runtime,
    store: Arc<dyn ObjectStore>,
    options: Options,
) -> anyhow::Result<MountedVolume> {
    let cache = Cache::open(&options.cache_dir)
        .with_context(|| format!("opening the cache directory {}", options.cache_dir.display()))?;
    let lock = lock(&options.cache_dir)?;
    clear_dead_mount(&options.dir)?;
    let (journal, left) = Journal::open(&options.cache_dir).context("opening the journal")?;
    cache.collect(&replay::needed(&left)).context("cleaning the cache directory")?;
    if !left.is_empty() {
        tracing::info!(operations = left.len(), "replaying the journal");
    }
    let spills = replay::needed_spills(&left, &cache).context("reading lost+found")?;
    let volume = Volume::new(store, options, cache, journal).context("opening the cache directory")?;
    let volume = volume.share();
    volume.replay(left).context("replaying the journal")?;
    let session = fuse_session(&volume, &runtime)?;
    widen_readahead(&volume.options.dir);
    let notifier = session.notifier();
    let forget = move |known: &[Ino]| {
        for ino in known {
            // Attributes only. One the kernel has forgotten meanwhile is as good.
            let _ = notifier.inval_inode(fuser::INodeNo(ino.0), -1, 0);
        }
    };
    let _ = volume.invalidate.set(Box::new(forget));
    let listener = {
        let _inside = runtime.enter();
        server::listen(&volume.options.control)?
    };
    runtime.spawn(volume.clone().write_back());
    runtime.spawn(volume.clone().sweep_spills(spills));
    runtime.spawn(volume.clone().keep_up());
    runtime.spawn(volume.clone().keep_records());
    runtime.spawn(volume.clone().bring_to_disk());
    runtime.spawn(volume.clone().watch_stores());
    runtime.spawn(volume.clone().serve_control(listener));
    Ok(MountedVolume { volume, session: Some(session), runtime: Some(runtime), _lock: lock })
}

fn lock(cache_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = cache_dir.join("lock");
    let file = File::options().create(true).append(true).open(&path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => anyhow::anyhow!("another volume uses the cache directory {}", cache_dir.display()),
        error => anyhow::anyhow!("locking {}: {error}", path.display()),
    })
}

/// A mount whose process is dead answers ENOTCONN: it is detached.
fn clear_dead_mount(dir: &Path) -> anyhow::Result<()> {
    match nix::sys::stat::stat(dir) {
        Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => Ok(()),
        Ok(_) => bail!("{} is not a directory", dir.display()),
        Err(Errno::ENOTCONN | Errno::ECONNABORTED) => {
            tracing::warn!(dir = %dir.display(), "detaching the mount of a dead process");
            umount2(dir, MntFlags::MNT_DETACH).with_context(|| format!("detaching {}", dir.display()))
        }
        Err(error) => Err(error).with_context(|| format!("the mount point {}", dir.display())),
    }
}

fn fuse_session(volume: &Arc<Volume>, runtime: &Runtime) -> anyhow::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(volume.options.source.clone()),
        // The kernel's own option, so that the type is fuse.ec2mpi and umount(8) finds its helper.
        MountOption::CUSTOM("subtype=ec2mpi".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    if volume.options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    if volume.options.no_exec {
        config.mount_options.push(MountOption::NoExec);
    }
    // Others see a user's own mount where /etc/fuse.conf lets them only; root's is everybody's.
    config.acl = if nix::unistd::geteuid().is_root() { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(FUSE_THREADS);
    config.clone_fd = true;
    let adapter = Adapter::new(volume.clone(), runtime.handle().clone());
    let dir = &volume.options.dir;
    fuser::spawn_mount(adapter, dir, &config).with_context(|| format!("mounting at {}", dir.display()))
}

/// The kernel asks for at most 128 KiB at a time unless it is told otherwise, which only root may do.
fn widen_readahead(dir: &Path) {
    let Ok(stat) = nix::sys::stat::stat(dir) else { return };
    let (major, minor) = (nix::sys::stat::major(stat.st_dev), nix::sys::stat::minor(stat.st_dev));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READAHEAD_KIB.to_string()) {
        tracing::debug!(setting, %error, "the kernel reads in small requests");
    }
}

impl MountedVolume {
    /// What is not in S3, and what went wrong.
    pub fn status(&self) -> Status {
        self.volume.status()
    }

    /// Carries out a request of the control socket. Must not be called inside a runtime.
    pub fn ask(&self, request: &Request) -> Answer {
        match &self.runtime {
            Some(runtime) => runtime.block_on(self.volume.answer(request)),
            None => Answer::failed("the volume is closing", Status::default()),
        }
    }

    /// Waits for a signal, an unmount from outside, or [`Request::Umount`], and ends the volume. After a signal it first
    /// drains for at most `drain`.
    pub(super) fn serve(mut self, drain: Duration) -> anyhow::Result<()> {
        if let Some(runtime) = &self.runtime {
            let volume = self.volume.clone();
            let session = self.session.as_ref();
            runtime.block_on(async move {
                let end = wait_for_end(&volume, session).await?;
                let drained = if end == End::Signal { volume.drain(drain).await } else { Ok(()) };
                if let Err(error) = drained {
                    tracing::warn!(error, "not everything is in s3, the journal keeps it");
                }
                anyhow::Ok(())
            })?;
        }
        self.end()
    }

    /// Unmounts and stops. What is not in S3 stays in the journal. A mount in use is detached: it goes with its last
    /// user.
    pub fn unmount(mut self) -> anyhow::Result<()> {
        self.end()
    }

    /// Ends as a killed process would: nothing more is written, sent or cleaned up. For tests of the replay.
    pub fn crash(mut self) {
        self.volume.closing.cancel();
        self.volume.cache.freeze();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if umount2(&self.volume.options.dir, MntFlags::MNT_DETACH).is_err() {
            tracing::debug!("the mount is gone already");
        }
        std::mem::forget(self.session.take());
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let Some(runtime) = self.runtime.take() else { return Ok(()) };
        let result = detach(&self.volume.options.dir);
        runtime.block_on(self.volume.note_all_stores());
        self.volume.closing.cancel();
        let settled = runtime.block_on(async { tokio::time::timeout(SETTLE, self.volume.settle_all()).await });
        if !matches!(settled, Ok(Ok(()))) {
            tracing::warn!("not all that was written is on the local disk: it must not lose its power now");
        }
        self.volume.cache.freeze();
        let _ = std::fs::remove_file(&self.volume.options.control);
        drop(self.session.take());
        runtime.shutdown_timeout(SHUTDOWN);
        result
    }
}

impl Drop for MountedVolume {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the volume did not end well");
        }
    }
}

/// Unmounts; after a while of EBUSY lazily.
fn detach(dir: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + BUSY;
    loop {
        match umount2(dir, MntFlags::empty()) {
            // Only root may: for others the session's end asks fusermount3.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT | Errno::EPERM) => return Ok(()),
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Err(Errno::EBUSY) => {
                tracing::warn!(dir = %dir.display(), "the mount is in use and detached");
                return umount2(dir, MntFlags::MNT_DETACH).with_context(|| format!("detaching {}", dir.display()));
            }
            Err(error) => return Err(error).with_context(|| format!("unmounting {}", dir.display())),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Signal,
    Asked,
    Unmounted,
}

async fn wait_for_end(volume: &Volume, session: Option<&BackgroundSession>) -> anyhow::Result<End> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut look = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(End::Signal),
            _ = interrupt.recv() => return Ok(End::Signal),
            () = volume.leave.cancelled() => return Ok(End::Asked),
            _ = look.tick() => {
                if session.is_none_or(|session| session.guard.is_finished()) {
                    return Ok(End::Unmounted);
                }
            }
        }
    }
}
