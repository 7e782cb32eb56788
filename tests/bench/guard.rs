//! Nothing is left behind: a run has one directory, and whatever mentions it (processes, mounts) goes with it, at the
//! end, after an error, on Ctrl-C, and, for a run that was killed, at the next start. A work that hangs has a limit, too:
//! its daemon is killed, and the work fails; and so has the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use ec2mpi_tests::{host, site};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

const PREFIX: &str = "e2m-bench-";

/// The directories of a run: `disk` for caches and mounts, `server` for what the S3 server stores.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) disk: PathBuf,
    pub(crate) server: PathBuf,
}

impl Ground {
    /// Clears away what killed runs left, makes the directories and starts to wait for signals.
    pub(crate) fn new(disk: &Path, server: &Path) -> anyhow::Result<Self> {
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
        wait_for_signals(made.clone())?;
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || watch(&made))?;
        Ok(ground)
    }
}

/// By handlers: programs would inherit a mask, and not end when they are asked to.
fn wait_for_signals(directories: Vec<PathBuf>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(entered);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let came = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = hangup.recv() => "SIGHUP",
            }
        });
        give_up(came, &directories);
    })?;
    Ok(())
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
    lock(&STARTING)
}

/// The work that runs now.
static WATCHED: Mutex<Option<Watched>> = Mutex::new(None);
/// When the run is over, whatever it does.
static END: Mutex<Option<Instant>> = Mutex::new(None);

#[derive(Debug)]
struct Watched {
    deadline: Instant,
    base: PathBuf,
    fired: bool,
}

/// While it lives, and the time is over, whatever mentions a system's directory is killed: the daemon, which ends every
/// call into its mount, and the programs that work there.
#[derive(Debug)]
pub(crate) struct Limit;

impl Limit {
    /// `base` is the directory of the system; without one nothing is watched.
    pub(crate) fn new(limit: Duration, base: Option<&Path>) -> Self {
        let deadline = Instant::now() + limit;
        let watched = base.map(|base| Watched { deadline, base: base.to_owned(), fired: false });
        *lock(&WATCHED) = watched;
        Self
    }

    /// Whether it had to.
    pub(crate) fn fired(&self) -> bool {
        lock(&WATCHED).as_ref().is_some_and(|watched| watched.fired)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        *lock(&WATCHED) = None;
    }
}

/// Kills whatever mentions something in a system's directory.
pub(crate) fn kill_all(base: &Path) {
    // With the slash `ours` is not in `ours-plain`.
    for process in host::processes_of(&base.join("")) {
        // One that has ended meanwhile is what is wanted.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
}

/// From now on the run ends at `end` by force, if it has not ended by itself.
pub(crate) fn end_at(end: Instant) {
    *lock(&END) = Some(end);
}

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(directories: &[PathBuf]) {
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let late = |instant: Instant| instant < Instant::now();
        if lock(&END).is_some_and(late) {
            give_up("the time is over, and something still runs", directories);
        }
        let mut watched = lock(&WATCHED);
        if let Some(watched) = watched.as_mut().filter(|watched| late(watched.deadline)) {
            watched.fired = true;
            kill_all(&watched.base);
        }
    }
}

/// Clears everything away and ends the process. The report has what was written last.
fn give_up(why: &str, directories: &[PathBuf]) -> ! {
    eprintln!("{why}: cleaning up");
    // What would be started from now on would be overlooked.
    let _nothing_more = starting();
    directories.iter().for_each(|directory| host::remove(directory, None));
    std::process::exit(130);
}
