//! A keeper as seen from the cloud: its child, or the child of a cloud that is gone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

use crate::layout::MachineDir;
use crate::lock;
use crate::machine::process::Pidfd;
use crate::machine::{EXIT_LOCKED, KeeperStatus};

/// From a keeper's lock to its first word.
const SPEAK_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// A keeper that ran when it was found.
#[derive(Debug)]
pub(super) struct Keeper {
    process: AsyncFd<Pidfd>,
    /// Set when this process must bury it.
    child: Mutex<Option<Child>>,
}

impl Keeper {
    /// The keeper that holds the machine's lock; none where nobody does.
    pub(super) async fn find(dir: &MachineDir) -> anyhow::Result<Option<Self>> {
        let deadline = Instant::now() + SPEAK_LIMIT;
        while lock::is_held(&dir.lock())? {
            if let Some(keeper) = Self::speaking(dir)? {
                return Ok(Some(keeper));
            }
            anyhow::ensure!(Instant::now() < deadline, "the keeper of {} says nothing", dir.root().display());
            sleep(POLL).await;
        }
        Ok(None)
    }

    fn speaking(dir: &MachineDir) -> anyhow::Result<Option<Self>> {
        let Some(status) = KeeperStatus::load(dir)? else { return Ok(None) };
        let Ok(process) = Pidfd::open(status.pid) else { return Ok(None) };
        // With the lock still held, the process that wrote its pid under it has been alive all the time.
        if !lock::is_held(&dir.lock())? {
            return Ok(None);
        }
        Ok(Some(Self { process: register(process)?, child: Mutex::new(None) }))
    }

    /// Starts a keeper; or finds the one that was started by a cloud which is gone and has only now taken its lock.
    pub(super) async fn start(dir: &MachineDir) -> anyhow::Result<Self> {
        let mut child = spawn(dir)?;
        let process = register(Pidfd::open(child.id())?)?;
        let deadline = Instant::now() + SPEAK_LIMIT;
        while KeeperStatus::load(dir)?.is_none_or(|status| status.pid != child.id()) {
            if let Some(ended) = child.try_wait()? {
                let is_second = ended.code() == Some(i32::from(EXIT_LOCKED));
                let found = if is_second { Self::find(dir).await? } else { None };
                return found.ok_or_else(|| anyhow::anyhow!("the keeper ended at once: {ended}"));
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                anyhow::bail!("the keeper says nothing");
            }
            sleep(POLL).await;
        }
        Ok(Self { process, child: Mutex::new(Some(child)) })
    }

    /// Returns when the process has ended.
    pub(super) async fn ended(&self) -> io::Result<()> {
        let _ready = self.process.readable().await?;
        if let Some(mut child) = self.child.lock().take() {
            child.wait()?;
        }
        Ok(())
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.process.get_ref().signal(signal)
    }
}

fn register(process: Pidfd) -> io::Result<AsyncFd<Pidfd>> {
    // SAFETY: a Pidfd owns its descriptor and never changes it, so it stays the same and open while it is registered.
    unsafe { AsyncFd::register(process) }.map_err(io::Error::from)
}

/// The keeper is this very program, also when its file was replaced since.
fn spawn(dir: &MachineDir) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.keeper_log())?;
    Command::new("/proc/self/exe")
        .arg0("ec2mpi")
        .args(["cloud", "machine", "--dir"])
        .arg(dir.root())
        .current_dir("/")
        .stdin(File::open("/dev/null")?)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}
