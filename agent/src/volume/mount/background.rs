//! `mount` without `--foreground`: a child in a session of its own serves the volume; this process ends once it answers.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};

use super::plan::Plan;
use crate::telemetry;
use crate::volume::control::{self, Request};

/// How long a mount may take; a replay reads the journal only.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the child says when the mount answers; anything else is why it does not.
const READY: &str = "ready";

pub(super) fn run(plan: Plan) -> anyhow::Result<()> {
    refuse_second(&plan)?;
    let log = open_log(&plan)?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("making a pipe")?;
    // SAFETY: this process has one thread, so the child has all of the program.
    match unsafe { fork() }.context("starting the volume")? {
        ForkResult::Parent { child } => {
            drop(writer);
            wait(reader, child, &plan)
        }
        ForkResult::Child => {
            drop(reader);
            let code = i32::from(!be_the_volume(plan, log, writer));
            std::process::exit(code)
        }
    }
}

/// A second volume would take the socket away from the first.
fn refuse_second(plan: &Plan) -> anyhow::Result<()> {
    let answer = control::blocking_call(&plan.options.control, &Request::Status, Duration::from_secs(2));
    match answer {
        Ok(answer) => {
            let (dir, pid) = (plan.options.dir.display(), answer.status.pid);
            bail!("{dir} is mounted already, by process {pid}: `ec2mpi-agent umount {dir}` first")
        }
        Err(_) => Ok(()),
    }
}

fn open_log(plan: &Plan) -> anyhow::Result<File> {
    let parent = plan.log.parent().unwrap_or(&plan.log);
    crate::durable::create_dirs(parent, 0o700).with_context(|| format!("making {}", parent.display()))?;
    let opened = File::options().create(true).append(true).mode(0o600).open(&plan.log);
    opened.with_context(|| format!("opening the log {}", plan.log.display()))
}

/// Serves until the unmount; whether it went well.
fn be_the_volume(plan: Plan, log: File, writer: OwnedFd) -> bool {
    let mut report = Some(File::from(writer));
    let result = detach(&log).and_then(|()| {
        telemetry::start_at(plan.log_level.as_deref());
        // The parent may be gone by now, which is its own business.
        let ready = || drop(report.take().map(|mut pipe| pipe.write_all(READY.as_bytes())));
        super::serve(plan, Some(Box::new(ready)))
    });
    let Err(error) = result else { return true };
    eprintln!("error: {error:#}");
    if let Some(mut pipe) = report {
        let _ = write!(pipe, "{error:#}");
    }
    false
}

/// A session of its own, no directory kept busy, and nothing of the caller's open.
fn detach(log: &File) -> anyhow::Result<()> {
    setsid().context("leaving the session")?;
    std::env::set_current_dir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(log)?;
    Ok(())
}

fn wait(reader: OwnedFd, child: Pid, plan: &Plan) -> anyhow::Result<()> {
    let log = plan.log.display();
    match read_report(reader)? {
        Some(report) if report == READY => Ok(()),
        Some(report) if report.is_empty() => bail!("the volume ended at once; its log is {log}"),
        Some(report) => bail!("{report} (the log is {log})"),
        None => {
            kill(child, Signal::SIGKILL).context("ending a volume that does not answer")?;
            waitpid(child, None)?;
            bail!("the volume did not answer in {} s; its log is {log}", PATIENCE.as_secs())
        }
    }
}

/// All that the child says, or none if it says nothing in time.
fn read_report(reader: OwnedFd) -> anyhow::Result<Option<String>> {
    let deadline = Instant::now() + PATIENCE;
    let mut pipe = File::from(reader);
    let mut report = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            return Ok(None);
        }
        let mut chunk = [0; 1024];
        match pipe.read(&mut chunk)? {
            0 => return Ok(Some(String::from_utf8_lossy(&report).into_owned())),
            read => report.extend_from_slice(&chunk[..read]),
        }
        if report == READY.as_bytes() {
            return Ok(Some(READY.to_owned()));
        }
    }
}
