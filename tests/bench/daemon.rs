//! Programs that run in the background of a run: started with a log, in a process group of their own (a Ctrl-C at the
//! terminal is for us alone), waited for with a limit, and ended.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{guard, procs};

const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A running program.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let err = out.try_clone()?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let _leave = guard::starting();
        let child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// Waits until `ready` gives something.
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
        let begun = Instant::now();
        while begun.elapsed() < START {
            if let Some(found) = ready() {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended ({status}) instead of {what}; the end of its log:\n{}", self.last_words());
            }
            std::thread::sleep(POLL);
        }
        bail!("no {what} within {} s; the end of its log:\n{}", START.as_secs(), self.last_words())
    }

    /// Waits until something is mounted at `dir`.
    pub(crate) fn wait_for_mount(&mut self, dir: &Path) -> anyhow::Result<()> {
        self.wait_for("mounting", || is_mounted(dir).then_some(()))
    }

    /// Unmounts `dir` and waits for the end of the program.
    pub(crate) fn unmount(mut self, dir: &Path) -> anyhow::Result<()> {
        let begun = Instant::now();
        while is_mounted(dir) && begun.elapsed() < END {
            let patient = begun.elapsed() < END / 2;
            let flags = if patient { MntFlags::empty() } else { MntFlags::MNT_DETACH };
            if umount2(dir, flags).is_err() {
                std::thread::sleep(POLL);
            }
        }
        self.end(Signal::SIGTERM)
    }

    /// Ends it, by force when asking does not help.
    pub(crate) fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        let pids = procs::tree(self.pid());
        let begun = Instant::now();
        let mut asked = false;
        while self.child.try_wait()?.is_none() {
            if !asked && begun.elapsed() > POLL * 10 {
                kill(Pid::from_raw(self.pid()), signal).context("asking a program to end")?;
                asked = true;
            }
            if begun.elapsed() > END {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            std::thread::sleep(POLL);
        }
        for pid in pids.into_iter().skip(1) {
            // Those below it have mostly ended with it.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for pid in procs::tree(self.pid()) {
            // One that has ended is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Whether another file system than its parent's is at `dir`; also when that one's daemon is dead.
pub(crate) fn is_mounted(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let parent = dir.parent().unwrap_or(dir);
    device(dir) != device(parent)
}

/// Waits until a TCP port of this machine is listened on.
pub(crate) fn listens(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// An HTTP request without a body to a server on this machine; the answer's body.
pub(crate) fn call(port: u16, method: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(START))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without body")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    Ok(body.to_owned())
}

/// A port that is free, and that plus 10,000 too.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    for _ in 0..200 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port() % 20_000 + 20_000;
        let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && free(port + 10_000) {
            return Ok(port);
        }
    }
    bail!("no free port")
}

/// Runs a program to its end; an error has what it said.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{:?}", command.get_program()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        bail!("{:?} failed ({}): {said}", command.get_program(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
