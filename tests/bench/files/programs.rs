//! Works by programs that everybody has: tar, cp, find, rm, make, and one of our own that is large.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::Drain;
use crate::job::{Done, Job, Outcome};
use crate::material::{PROGRAM, PROJECT, TREE};
use crate::seed::{Expect, check_file};

/// How long a program may take; then it is killed, and what it did counts by rate where that can be told.
const LIMIT: Duration = Duration::from_secs(100);

/// Unpacks the archive. Contents are checked by the copy that follows.
pub(super) fn untar(root: &Path, job: &mut Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    let (archive, files) = job.material.archive(job.few);
    let directory = format!("unpacked-{}", job.turn);
    fs::create_dir(root.join(&directory))?;
    let mut command = Command::new("tar");
    command.arg("-C").arg(root.join(&directory)).arg("-xvf").arg(archive);
    let begun = Instant::now();
    let ended = limited(&mut command)?;
    drain()?;
    let unpacked = ended.printed.lines().filter(|line| !line.ends_with('/')).count() as u64;
    ensure!(!ended.whole || unpacked == files, "tar says that it unpacked {unpacked} files, not {files}");
    job.state.tree = directory;
    Ok(Outcome::of(Done::since(begun, unpacked as f64)))
}

pub(super) fn copy_tree(root: &Path, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let target = job.material.scratch.join("copy");
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let mut command = Command::new("cp");
    command.arg("-r").arg(root.join(&job.state.tree)).arg(&target);
    let begun = Instant::now();
    let ended = limited(&mut command)?;
    let time = begun.elapsed();
    let files = job.material.tree(job.material.archive(job.few).1);
    let (mut copied, mut last) = (0, 0);
    for (index, (name, content)) in files.iter().enumerate() {
        let path = target.join(TREE).join(name);
        match check_file(&path, content) {
            Ok(()) => (copied, last) = (copied + 1, index),
            // The one that cp was at when it was killed.
            Err(error) if ended.whole => return Err(error),
            Err(_) => {}
        }
    }
    ensure!(copied > 0, "nothing was copied in {} s", time.as_secs());
    tracing_note(ended.whole, copied, last);
    Ok(Outcome::of(Done { amount: f64::from(copied), time }))
}

/// A killed copy is worth a line.
fn tracing_note(whole: bool, copied: i32, last: usize) {
    if !whole {
        eprintln!("    cp was killed after {} s with {copied} files (the last one was {last})", LIMIT.as_secs());
    }
}

pub(super) fn find(root: &Path, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let files = job.material.archive(job.few).1;
    let (printed, time) =
        timed(Command::new("find").arg(root.join(&job.state.tree)).args(["-type", "f", "-size", "-1000k"]))?;
    let found = printed.lines().count() as u64;
    ensure!(found == files, "find shows {found} files, not {files}");
    Ok(Outcome::of(Done { amount: files as f64, time }))
}

pub(super) fn remove(root: &Path, job: &Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    let files = job.material.archive(job.few).1;
    let begun = Instant::now();
    let ended = limited(Command::new("rm").arg("-r").arg(root.join(&job.state.tree)))?;
    if !ended.whole {
        bail!("rm was killed after {} s", LIMIT.as_secs());
    }
    drain()?;
    let done = vec![Done::since(begun, files as f64)];
    Ok(Outcome { done, expect: Expect::Gone(job.state.tree.clone()) })
}

/// Everything is built once before the clock starts.
pub(super) fn build(root: &Path) -> anyhow::Result<Outcome> {
    let directory = root.join(PROJECT);
    let make = |arguments: &[&str]| timed(Command::new("make").arg("-s").arg("-C").arg(&directory).args(arguments));
    make(&["-j2"])?;
    make(&["clean"])?;
    let (_, time) = make(&["-j2"])?;
    let (printed, _) = timed(&mut Command::new(directory.join("program")))?;
    ensure!(printed.trim().parse::<u64>().is_ok(), "the program says {printed:?}");
    Ok(Outcome::of(Done { amount: 1.0, time }))
}

pub(super) fn exec(root: &Path, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let (printed, time) = timed(&mut Command::new(root.join(PROGRAM)))?;
    let expected = job.material.program_says()?;
    ensure!(printed == expected, "the program says {printed:?}, not {expected:?}");
    Ok(Outcome::of(Done { amount: 1.0, time }))
}

/// Runs a program that must succeed; what it printed, and how long it took.
pub(super) fn timed(command: &mut Command) -> anyhow::Result<(String, Duration)> {
    let begun = Instant::now();
    let ended = limited(command)?;
    if !ended.whole {
        bail!("{:?} took more than {} s", command.get_program(), LIMIT.as_secs());
    }
    Ok((ended.printed, begun.elapsed()))
}

struct Ended {
    printed: String,
    /// It came to its own end.
    whole: bool,
}

/// Runs a program for at most [`LIMIT`].
fn limited(command: &mut Command) -> anyhow::Result<Ended> {
    let what = format!("{:?}", command.get_program());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().context("a pipe")?;
    let mut err = child.stderr.take().context("a pipe")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).map(|_| text)
    });
    let watch = Watch::over(i32::try_from(child.id())?);
    let status = child.wait()?;
    let whole = !watch.killed();
    let printed = reader.join().map_err(|_| anyhow::anyhow!("reading what {what} prints"))??;
    let said = errors.join().map_err(|_| anyhow::anyhow!("reading what {what} says"))??;
    ensure!(!whole || status.success(), "{what} failed ({status}): {said}");
    Ok(Ended { printed, whole })
}

/// Kills a program when its time is over.
struct Watch {
    over: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watch {
    fn over(pid: i32) -> Self {
        let (over, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let late = ended.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if late {
                // One that ended in this moment is what is wanted.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            late
        });
        Self { over, thread }
    }

    /// Tells it that the program has ended.
    fn killed(self) -> bool {
        drop(self.over);
        self.thread.join().unwrap_or(true)
    }
}
