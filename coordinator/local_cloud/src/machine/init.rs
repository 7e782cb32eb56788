//! Pid 1 of a machine: makes the root, runs the boot scripts, buries the dead, ends when told to.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{MachineSpec, root, user_data};
use crate::layout::MachineDir;
use crate::network;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const RC_LOCAL: &str = "/etc/rc.local";
/// There from the first boot on.
const USER_DATA: &str = "/var/lib/cloud/instance/user-data.txt";
/// One question to the metadata service, and all of them: the cloud may be away for a while when a machine boots.
const FETCH_LIMIT: Duration = Duration::from_secs(3);
const FETCH_PAUSE: Duration = Duration::from_millis(500);
const FETCH_ALL_LIMIT: Duration = Duration::from_secs(300);
/// Between the request to end and the end by force.
const STOP_LIMIT: Duration = Duration::from_secs(5);
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// What Linux gives to the first process of a machine.
const OPEN_FILES: u64 = 1024;

/// The environment of pid 1 and of everything it starts.
pub(super) fn environment(spec: &MachineSpec) -> Vec<String> {
    vec![
        PATH.to_owned(),
        "LANG=C.UTF-8".to_owned(),
        format!("AWS_EC2_METADATA_SERVICE_ENDPOINT={}", spec.imds_endpoint),
    ]
}

/// Runs the machine; returns only when it could not be started.
pub(crate) fn run(dir: &MachineDir) -> anyhow::Result<ExitCode> {
    // Outside a namespace of its own, the reboot below would be that of the real machine.
    anyhow::ensure!(std::process::id() == 1, "only the keeper of a machine starts machine-init");
    let spec = MachineSpec::load(dir)?;
    let netns = fs::File::open(network::netns_path(&spec.netns)).context("network namespace")?;
    setns(netns, CloneFlags::CLONE_NEWNET).context("network namespace")?;
    root::enter(dir)?;
    settle(&spec)?;
    let signals = block_signals()?;
    let mut boot = Boot::begin(&spec)?;
    let ending = loop {
        if let Some(ending) = boot.step(&signals)? {
            break ending;
        }
    };
    say(format_args!("{}", if ending == RebootMode::RB_AUTOBOOT { "rebooting" } else { "powering off" }));
    end_processes(&signals)?;
    let never = reboot(ending)?;
    match never {}
}

/// What is the machine's own before anything runs in it.
fn settle(spec: &MachineSpec) -> anyhow::Result<()> {
    nix::unistd::sethostname(&spec.host_name)?;
    // Pid 1 is started as the leader of nothing.
    nix::unistd::setsid()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)?;
    drop_capabilities()?;
    if Path::new(USER_DATA).exists() {
        return Ok(());
    }
    let MachineSpec { host_name, address, .. } = spec;
    fs::write("/etc/hostname", format!("{host_name}\n"))?;
    fs::write("/etc/hosts", format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{address} {host_name}\n"))?;
    fs::write("/etc/environment", environment(spec).join("\n") + "\n")?;
    Ok(())
}

/// Root in the machine is not to load modules, touch hardware or set the clock of this machine.
fn drop_capabilities() -> io::Result<()> {
    const SYS_MODULE: libc::c_ulong = 16;
    const SYS_RAWIO: libc::c_ulong = 17;
    const SYS_TIME: libc::c_ulong = 25;
    for capability in [SYS_MODULE, SYS_RAWIO, SYS_TIME] {
        // SAFETY: this option of prctl takes one integer.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn block_signals() -> nix::Result<SigSet> {
    let signals: SigSet = [Signal::SIGCHLD, Signal::SIGPWR, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block()?;
    Ok(signals)
}

/// The next of the (blocked) signals; none when `limit` is over before one came.
pub(super) fn next_signal(signals: &SigSet, limit: Option<Duration>) -> io::Result<Option<Signal>> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| libc::timespec {
            tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(left.subsec_nanos()),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the set and the time live until the call returns; no information is asked for.
        let number = unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), timeout) };
        match Errno::last() {
            _ if number > 0 => return Ok(Some(Signal::try_from(number)?)),
            Errno::EAGAIN => return Ok(None),
            Errno::EINTR => {}
            errno => return Err(errno.into()),
        }
    }
}

/// How far the boot has come.
enum Boot {
    /// First boot: the user-data is not there yet.
    Fetching {
        endpoint: String,
        deadline: Instant,
    },
    /// One script runs, others wait for it.
    Running {
        script: Pid,
        waiting: VecDeque<Command>,
    },
    Done,
}

impl Boot {
    fn begin(spec: &MachineSpec) -> anyhow::Result<Self> {
        if spec.is_deaf {
            say(format_args!("user-data is not run: a fault was asked for"));
            return Ok(Self::Done);
        }
        if !Path::new(USER_DATA).exists() {
            let deadline = Instant::now() + FETCH_ALL_LIMIT;
            return Ok(Self::Fetching { endpoint: spec.imds_endpoint.clone(), deadline });
        }
        let is_executable = |found: fs::Metadata| found.is_file() && found.permissions().mode() & 0o111 != 0;
        let has_script = fs::metadata(RC_LOCAL).is_ok_and(is_executable);
        Ok(Self::start(has_script.then(|| Command::new(RC_LOCAL)).into_iter().collect()))
    }

    /// Starts the first of the scripts; one that cannot be started is said on the console and left out.
    fn start(mut waiting: VecDeque<Command>) -> Self {
        while let Some(mut command) = waiting.pop_front() {
            match spawn(&mut command) {
                Ok(script) => return Self::Running { script, waiting },
                Err(error) => say(format_args!("cannot start {:?}: {error}", command.get_program())),
            }
        }
        Self::Done
    }

    /// Waits for something to happen; how the machine shall end, once it shall.
    fn step(&mut self, signals: &SigSet) -> anyhow::Result<Option<RebootMode>> {
        let limit = matches!(self, Self::Fetching { .. }).then_some(FETCH_PAUSE);
        if let Self::Fetching { endpoint, deadline } = self
            && let Some(next) = first_boot(endpoint, *deadline)
        {
            *self = next;
            return Ok(None);
        }
        match next_signal(signals, limit)? {
            Some(Signal::SIGINT) => Ok(Some(RebootMode::RB_AUTOBOOT)),
            Some(Signal::SIGPWR | Signal::SIGTERM) => Ok(Some(RebootMode::RB_POWER_OFF)),
            _ => {
                self.bury();
                Ok(None)
            }
        }
    }

    /// Reaps every dead child, orphans too; the end of a script starts the next one.
    fn bury(&mut self) {
        while let Some((pid, ending)) = reap() {
            let Self::Running { script, waiting } = self else { continue };
            if *script == pid {
                say(format_args!("boot script ended: {ending}"));
                *self = Self::start(std::mem::take(waiting));
            }
        }
    }
}

/// Asks for the user-data; the next stage, or none to ask again.
fn first_boot(endpoint: &str, deadline: Instant) -> Option<Boot> {
    let stored = user_data::fetch(endpoint, FETCH_LIMIT).and_then(|found| store(found.as_deref()));
    match stored {
        Ok(script) => Some(Boot::start(script.into_iter().collect())),
        Err(error) if Instant::now() < deadline => {
            say(format_args!("metadata service: {error:#}"));
            None
        }
        Err(error) => {
            say(format_args!("gave up: {error:#}"));
            Some(Boot::Done)
        }
    }
}

/// Keeps the user-data, which marks the first boot as done, and answers how to run it.
fn store(user_data: Option<&[u8]>) -> anyhow::Result<Option<Command>> {
    let bytes = user_data.unwrap_or_default();
    fs::create_dir_all("/var/lib/cloud/instance")?;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(USER_DATA)?;
    file.write_all(bytes)?;
    if !bytes.starts_with(b"#!") {
        say(format_args!("user-data is not a script: {} bytes are kept, nothing is run", bytes.len()));
        return Ok(None);
    }
    let mut command = Command::new("/bin/sh");
    command.arg(USER_DATA);
    Ok(Some(command))
}

fn spawn(command: &mut Command) -> io::Result<Pid> {
    command.current_dir("/");
    // SAFETY: between fork and exec the child only makes two system calls.
    unsafe {
        command.pre_exec(|| {
            SigSet::all().thread_unblock()?;
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    let child = command.spawn()?;
    Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)))
}

/// One dead child, if there is one.
fn reap() -> Option<(Pid, String)> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Some((pid, format!("exit code {code}"))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid, format!("{signal}"))),
        _ => None,
    }
}

/// Asks every process of the machine to end, then ends those that did not.
fn end_processes(signals: &SigSet) -> anyhow::Result<()> {
    let everybody = Pid::from_raw(-1);
    for (signal, limit) in [(Signal::SIGTERM, STOP_LIMIT), (Signal::SIGKILL, KILL_LIMIT)] {
        match kill(everybody, signal) {
            Err(Errno::ESRCH) => return Ok(()),
            result => result?,
        }
        let deadline = Instant::now() + limit;
        while !all_ended() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            next_signal(signals, Some(left.min(Duration::from_millis(50))))?;
        }
    }
    Ok(())
}

fn all_ended() -> bool {
    while reap().is_some() {}
    waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD)
}

fn say(text: std::fmt::Arguments<'_>) {
    // The console is a file; when it cannot be written to, there is nobody to tell.
    let _ = writeln!(io::stdout().lock(), "[machine] {text}");
}
