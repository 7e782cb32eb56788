//! Nothing is left behind: a run has one directory, and whatever mentions it (processes, mounts) goes with it, at the
//! end, after an error, on Ctrl-C, and, for a run that was killed, at the next start. A work that hangs has a limit, too:
//! its daemon is killed, and the work fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use ec2mpi_tests::{host, site};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::procs;

const PREFIX: &str = "e2m-bench-";

/// The directories of a run: `disk` for caches and mounts, `server` for what the S3 server stores.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) disk: PathBuf,
    pub(crate) server: PathBuf,
}

impl Ground {
    /// Clears away what killed runs left, makes the directories and starts to wait for signals.
    ///
    /// Must be called while the process has one thread: others would take the signals.
    pub(crate) fn new(disk: &Path, server: &Path) -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
        signals.thread_block().context("blocking signals")?;
        let mut made = Vec::new();
        for parent in [disk, server] {
            // The kernel tells of mounts and programs by their whole paths.
            let parent = &std::path::absolute(parent)?;
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
            remove_orphans(parent);
            let directory = parent.join(format!("{PREFIX}{}", std::process::id()));
            if !directory.exists() {
                fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
                fs::write(directory.join("owner"), site::owner_line())?;
            }
            made.push(directory);
        }
        let ground = Self { disk: made[0].clone(), server: made[1].clone() };
        let directories = made.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if let Ok(signal) = signals.wait() {
                eprintln!("{signal}: cleaning up");
                // What would be started from now on would be overlooked.
                let _nothing_more = starting();
                directories.iter().for_each(|directory| host::remove(directory, None));
                std::process::exit(130);
            }
        })?;
        std::thread::Builder::new().name("watch".to_owned()).spawn(watch)?;
        Ok(ground)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for directory in [&self.disk, &self.server] {
            if directory.exists() {
                host::remove(directory, None);
            }
        }
    }
}

fn remove_orphans(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
    let runs = entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)));
    for directory in runs {
        let owner = fs::read_to_string(directory.join("owner"));
        if owner.is_ok_and(|line| !site::owner_lives(&line)) {
            eprintln!("removing what a killed run left: {}", directory.display());
            host::remove(&directory, None);
        }
    }
}

/// Held while a program is started, and by the end of the run.
static STARTING: Mutex<()> = Mutex::new(());

/// Leave to start a program that mentions a directory of the run; never given once the run is being cleared away.
pub(crate) fn starting() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The work that runs now.
static WATCHED: Mutex<Option<Watched>> = Mutex::new(None);

#[derive(Debug)]
struct Watched {
    deadline: Instant,
    daemon: i32,
    fired: bool,
}

/// While it lives, a daemon is killed when the time is over: that ends every call into its mount.
#[derive(Debug)]
pub(crate) struct Limit;

impl Limit {
    pub(crate) fn new(limit: Duration, daemon: Option<i32>) -> Self {
        let watched = daemon.map(|daemon| Watched { deadline: Instant::now() + limit, daemon, fired: false });
        *WATCHED.lock().unwrap_or_else(PoisonError::into_inner) = watched;
        Self
    }

    /// Whether it had to.
    pub(crate) fn fired(&self) -> bool {
        WATCHED.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|watched| watched.fired)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        *WATCHED.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn watch() {
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = watched.as_mut().filter(|watched| !watched.fired && watched.deadline < Instant::now()) {
            watched.fired = true;
            for pid in procs::tree(watched.daemon) {
                // One that has ended meanwhile is what is wanted.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}
