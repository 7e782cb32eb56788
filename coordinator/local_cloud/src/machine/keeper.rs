//! The keeper: starts pid 1, again after every reboot, and says how the machine ended.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{EXIT_LOCKED, End, KeeperStatus, MachineSpec, init, root};
use crate::layout::MachineDir;
use crate::{lock, network};

/// A new cloud probes the lock for an instant; another keeper keeps it.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// From the request to the moment when the machine is ended by force: pid 1 takes half of it to end its processes.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);

/// Runs the machine in `dir` until it ends. The process must have one thread only.
pub(crate) fn run(dir: &MachineDir) -> anyhow::Result<ExitCode> {
    // Fails only where this is the leader of a session already, which is what is wanted.
    let _ = nix::unistd::setsid();
    let Some(_lock) = lock::acquire_within(&dir.lock(), LOCK_PATIENCE).context("keeper.lock")? else {
        return Ok(ExitCode::from(EXIT_LOCKED));
    };
    let signals = block_signals()?;
    let mut status = KeeperStatus { pid: std::process::id(), boots: 0, end: None };
    status.save(dir)?;
    let end = keep(dir, &signals, &mut status).unwrap_or_else(|error| End::Failed(format!("{error:#}")));
    tracing::info!(?end, boots = status.boots, "machine ended");
    status.end = Some(end);
    status.save(dir)?;
    Ok(ExitCode::SUCCESS)
}

fn keep(dir: &MachineDir, signals: &SigSet, status: &mut KeeperStatus) -> anyhow::Result<End> {
    let spec = MachineSpec::load(dir).context("machine.json")?;
    network::plug(&spec.port())?;
    root::prepare(dir, &spec.masks).context("cannot prepare the machine's disk")?;
    loop {
        let init = start_init(dir, &spec).context("cannot start pid 1")?;
        status.boots += 1;
        status.save(dir)?;
        tracing::info!(pid = init.as_raw(), boot = status.boots, "machine started");
        match watch(init, signals)? {
            Passed::Rebooted => {}
            Passed::Ended(end) => return Ok(end),
        }
    }
}

fn block_signals() -> nix::Result<SigSet> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGCHLD].into_iter().collect();
    signals.thread_block()?;
    Ok(signals)
}

/// What one life of pid 1 came to.
enum Passed {
    Rebooted,
    Ended(End),
}

/// What the keeper was asked for during this life of pid 1.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    PowerOff(Instant),
    Reboot(Instant),
}

impl Asked {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Nothing => None,
            Self::PowerOff(deadline) | Self::Reboot(deadline) => Some(deadline),
        }
    }
}

/// Waits for pid 1's end, passes requests on, and uses force when a request is not followed in time.
fn watch(init: Pid, signals: &SigSet) -> anyhow::Result<Passed> {
    let mut asked = Asked::Nothing;
    loop {
        if let Some(status) = reaped(init)? {
            return Ok(judge(status, asked));
        }
        let left = asked.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match init::next_signal(signals, left)? {
            Some(Signal::SIGTERM) => {
                asked = Asked::PowerOff(Instant::now() + POWER_OFF_LIMIT);
                kill(init, Signal::SIGPWR)?;
            }
            Some(Signal::SIGHUP) if asked == Asked::Nothing => {
                asked = Asked::Reboot(Instant::now() + POWER_OFF_LIMIT);
                kill(init, Signal::SIGINT)?;
            }
            Some(Signal::SIGUSR1) if asked == Asked::Nothing => asked = Asked::Reboot(Instant::now()),
            None => kill(init, Signal::SIGKILL)?,
            Some(_) => {}
        }
    }
}

fn reaped(init: Pid) -> nix::Result<Option<WaitStatus>> {
    match waitpid(init, Some(WaitPidFlag::WNOHANG))? {
        WaitStatus::StillAlive => Ok(None),
        status => Ok(Some(status)),
    }
}

/// The kernel ends pid 1 of a namespace with SIGHUP on reboot and with SIGINT on power off or halt (reboot(2)).
fn judge(status: WaitStatus, asked: Asked) -> Passed {
    match (status, asked) {
        (_, Asked::PowerOff(_)) => Passed::Ended(End::Terminated),
        (_, Asked::Reboot(_)) | (WaitStatus::Signaled(_, Signal::SIGHUP, _), _) => Passed::Rebooted,
        (WaitStatus::Signaled(_, Signal::SIGINT, _), _) => Passed::Ended(End::PoweredOff),
        (other, Asked::Nothing) => Passed::Ended(End::Failed(format!("pid 1 ended: {other:?}"))),
    }
}

/// Everything the new process needs between clone and exec, made before it, as it must not allocate.
struct InitExec {
    program: CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
    null: File,
    console: File,
}

fn start_init(dir: &MachineDir, spec: &MachineSpec) -> anyhow::Result<Pid> {
    let exec = InitExec::new(dir, spec)?;
    let argv = pointers(&exec.argv);
    let envp = pointers(&exec.envp);
    let (gate_read, gate_write) = nix::unistd::pipe()?;
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::SIGCHLD;
    // SAFETY: with a null stack clone is fork; this process has one thread, and the child only makes system calls
    // on what was prepared above until it becomes another program or ends.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()).context("clone"),
        0 => become_init(&exec, &argv, &envp, &gate_read, &gate_write),
        pid => {
            drop(gate_read);
            nix::unistd::write(&gate_write, b"!").context("gate")?;
            Ok(Pid::from_raw(i32::try_from(pid)?))
        }
    }
}

impl InitExec {
    fn new(dir: &MachineDir, spec: &MachineSpec) -> anyhow::Result<Self> {
        let dir_arg = CString::new(dir.root().as_os_str().as_bytes())?;
        let words = ["ec2mpi", "cloud", "machine-init", "--dir"];
        let mut argv: Vec<CString> = words.iter().map(|word| CString::new(*word)).collect::<Result<_, _>>()?;
        argv.push(dir_arg);
        let console = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.console())?;
        Ok(Self {
            program: CString::new("/proc/self/exe")?,
            argv,
            envp: init::environment(spec).into_iter().map(CString::new).collect::<Result<_, _>>()?,
            null: File::open("/dev/null")?,
            console,
        })
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// In the child: dies with the keeper from here on, and goes on only if the keeper still lived after that was set.
fn become_init(
    exec: &InitExec,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    gate_read: &OwnedFd,
    gate_write: &OwnedFd,
) -> ! {
    // SAFETY: system calls only, on descriptors and null-terminated arrays that live until exec.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::close(gate_write.as_raw_fd());
        let mut byte = 0_u8;
        if libc::read(gate_read.as_raw_fd(), (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(1);
        }
        redirect(exec.null.as_raw_fd(), exec.console.as_raw_fd());
        libc::execve(exec.program.as_ptr(), argv.as_ptr(), envp.as_ptr());
        libc::_exit(127)
    }
}

/// # Safety
/// Both must be open descriptors above 2.
unsafe fn redirect(null: RawFd, console: RawFd) {
    // SAFETY: dup2 of open descriptors; the caller promises that they are.
    unsafe {
        libc::dup2(null, 0);
        libc::dup2(console, 1);
        libc::dup2(console, 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: WaitStatus, asked: Asked) -> Option<End> {
        match judge(status, asked) {
            Passed::Rebooted => None,
            Passed::Ended(end) => Some(end),
        }
    }

    #[test]
    fn judges_how_pid_1_ended() {
        let pid = Pid::from_raw(1);
        let signaled = |signal| WaitStatus::Signaled(pid, signal, false);
        let later = Instant::now();
        assert_eq!(end(signaled(Signal::SIGHUP), Asked::Nothing), None);
        assert_eq!(end(signaled(Signal::SIGINT), Asked::Nothing), Some(End::PoweredOff));
        assert_eq!(end(signaled(Signal::SIGKILL), Asked::PowerOff(later)), Some(End::Terminated));
        assert_eq!(end(signaled(Signal::SIGINT), Asked::PowerOff(later)), Some(End::Terminated));
        assert_eq!(end(signaled(Signal::SIGKILL), Asked::Reboot(later)), None);
        assert!(matches!(end(WaitStatus::Exited(pid, 1), Asked::Nothing), Some(End::Failed(_))));
        assert!(matches!(end(signaled(Signal::SIGKILL), Asked::Nothing), Some(End::Failed(_))));
    }
}
