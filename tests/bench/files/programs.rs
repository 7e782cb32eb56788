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

/// How long a program may take that must come to its end.
const LIMIT: Duration = Duration::from_secs(100);

/// Unpacks the archive. Contents are checked by the copy that follows.
pub(super) fn untar(root: &Path, job: &mut Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    let (archive, files) = job.material.archive(job.few);
    let directory = format!("unpacked-{}", job.turn);
    let target = root.join(&directory);
    fs::create_dir(&target)?;
    let mut command = Command::new("tar");
    command.arg("-C").arg(&target).arg("-xvf").arg(archive);
    let begun = Instant::now();
    let ended = limited(&mut command, job.patience)?;
    drain()?;
    let time = begun.elapsed();
    let mut unpacked: Vec<&str> = ended.printed.lines().filter(|line| !line.ends_with('/')).collect();
    if !ended.whole {
        // The one that tar was at; it may not have come to writing it.
        let last = unpacked.pop().context("tar did not unpack a single file")?;
        let _ = fs::remove_file(target.join(last));
    }
    let count = unpacked.len() as u64;
    ensure!(!ended.whole || count == files, "tar says that it unpacked {count} files, not {files}");
    (job.state.tree, job.state.tree_files) = (directory, count);
    Ok(Outcome::of(Done::in_time(count as f64, time).stopped(!ended.whole)))
}

/// What was copied must be right, and all of it there when cp came to its end.
pub(super) fn copy_tree(root: &Path, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let target = job.material.scratch.join("copy");
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let mut command = Command::new("cp");
    command.arg("-r").arg(root.join(&job.state.tree)).arg(&target);
    let begun = Instant::now();
    let ended = limited(&mut command, job.patience)?;
    let time = begun.elapsed();
    let mut copied = 0;
    for (name, content) in job.material.tree(job.material.archive(job.few).1) {
        let path = target.join(TREE).join(name);
        match path.exists().then(|| check_file(&path, &content)) {
            None => {}
            Some(Ok(())) => copied += 1,
            // The one that cp was at when it was stopped.
            Some(Err(_)) if !ended.whole => {}
            Some(Err(error)) => return Err(error),
        }
    }
    ensure!(copied > 0, "nothing was copied in {} s", time.as_secs());
    let there = job.state.tree_files;
    ensure!(!ended.whole || copied == there, "{copied} files were copied, not {there}");
    Ok(Outcome::of(Done::in_time(copied as f64, time).stopped(!ended.whole)))
}

pub(super) fn find(root: &Path, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let mut command = line_by_line("find");
    command.arg(root.join(&job.state.tree)).args(["-type", "f", "-size", "-1000k"]);
    let begun = Instant::now();
    let ended = limited(&mut command, job.patience)?;
    let time = begun.elapsed();
    let (found, there) = (ended.printed.lines().count() as u64, job.state.tree_files);
    ensure!(found > 0, "find shows nothing in {} s", time.as_secs());
    ensure!(!ended.whole || found == there, "find shows {found} files, not {there}");
    Ok(Outcome::of(Done::in_time(found as f64, time).stopped(!ended.whole)))
}

pub(super) fn remove(root: &Path, job: &Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let mut command = line_by_line("rm");
    command.env("LC_ALL", "C").arg("-rv").arg(root.join(&job.state.tree));
    let ended = limited(&mut command, job.patience)?;
    drain()?;
    let time = begun.elapsed();
    let removed = ended.printed.lines().filter(|line| line.starts_with("removed '")).count() as u64;
    ensure!(removed > 0, "nothing was removed in {} s", time.as_secs());
    ensure!(!ended.whole || removed == job.state.tree_files, "rm says that it removed {removed} files");
    let done = vec![Done::in_time(removed as f64, time).stopped(!ended.whole)];
    let expect = if ended.whole { Expect::Gone(job.state.tree.clone()) } else { Expect::Nothing };
    Ok(Outcome { done, expect })
}

/// A program that is stopped has printed all that it did.
fn line_by_line(program: &str) -> Command {
    let mut command = Command::new("stdbuf");
    command.arg("-oL").arg(program);
    command
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
    Ok(Outcome::of(Done::in_time(1.0, time)))
}

pub(super) fn exec(root: &Path, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let (printed, time) = timed(&mut Command::new(root.join(PROGRAM)))?;
    let expected = job.material.program_says()?;
    ensure!(printed == expected, "the program says {printed:?}, not {expected:?}");
    Ok(Outcome::of(Done::in_time(1.0, time)))
}

/// Runs a program that must succeed; what it printed, and how long it took.
pub(super) fn timed(command: &mut Command) -> anyhow::Result<(String, Duration)> {
    let begun = Instant::now();
    let ended = limited(command, LIMIT)?;
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

/// Runs a program for so long at most; one that is stopped has not failed.
fn limited(command: &mut Command, limit: Duration) -> anyhow::Result<Ended> {
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
    let watch = Watch::over(i32::try_from(child.id())?, limit);
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
    fn over(pid: i32, limit: Duration) -> Self {
        let (over, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let late = ended.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
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
