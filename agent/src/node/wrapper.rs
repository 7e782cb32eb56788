//! `ec2mpi-agent job DIR`: runs one order of the spool and writes down how it ended.
//!
//! The wrapper stays root, outlives the agent, and holds the spool's lock as its standard input. The process itself
//! gets a session of its own, the user of the order, `/dev/null` as input and the spool's files as output. What goes
//! wrong before the program runs is told as a shell would: a line on stderr, and 126 or 127.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{self, ForkResult, Gid, Pid, Uid};

use super::limits;
use super::procfs;
use super::spool::{Exit, Order, Running, Spool};

/// The exit code of a program that is there but cannot be run, and of a working directory that cannot be entered.
const CANNOT_RUN: i32 = 126;
/// The exit code of a program that is not there.
const NOT_FOUND: i32 = 127;

/// Carries out the order in `dir` and waits for its end. Must be called while the process has one thread.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let spool = Spool::new(dir);
    if spool.is_started() {
        bail!("the order in {} was begun before", dir.display());
    }
    // Not the agent's session: it may end, and its terminal with it.
    let _ = unistd::setsid();
    limits::raise();
    let exit = run_order(&spool).unwrap_or_else(|error| failed(&error));
    spool.write_exit(&exit).with_context(|| format!("cannot write the exit of {}", dir.display()))
}

fn failed(error: &anyhow::Error) -> Exit {
    Exit { code: CANNOT_RUN, signal: 0, error: format!("{error:#}") }
}

fn run_order(spool: &Spool) -> anyhow::Result<Exit> {
    let order = spool.order().context("cannot read the order")?.context("there is no order")?;
    let program = Program::new(&order)?;
    let (out, err) = (open_output(&spool.stdout())?, open_output(&spool.stderr())?);
    spool.write_started().context("cannot mark the order as begun")?;
    let pid = fork(&order, &program, &out, &err)?;
    if let Some(start_ticks) = procfs::start_ticks(pid) {
        spool.write_running(Running { pid, start_ticks }).context("cannot write the process id")?;
    }
    let exit = wait(pid)?;
    // The exit promises that the output is complete, also after a power loss.
    out.sync_all().and_then(|()| err.sync_all()).context("cannot store the output")?;
    Ok(exit)
}

fn open_output(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// What `execve` takes, made before the fork.
struct Program {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    fn new(order: &Order) -> anyhow::Result<Self> {
        let name = order.argv.first().filter(|name| !name.is_empty()).context("the order names no program")?;
        let path = order.environment.iter().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value);
        let strings = |texts: Vec<String>| -> anyhow::Result<Vec<CString>> {
            texts.into_iter().map(|text| CString::new(text).context("an argument holds a zero byte")).collect()
        };
        Ok(Self {
            candidates: strings(candidates(name, path))?,
            argv: strings(order.argv.clone())?,
            environment: strings(order.environment.iter().map(|(key, value)| format!("{key}={value}")).collect())?,
        })
    }
}

/// The files that a program's name may mean, in order: itself when it has a slash, else one a directory of PATH.
fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    path.split(':').filter(|dir| !dir.is_empty()).map(|dir| format!("{dir}/{name}")).collect()
}

fn fork(order: &Order, program: &Program, out: &File, err: &File) -> anyhow::Result<i32> {
    // SAFETY: the wrapper has one thread, so the child may allocate and take locks like any other process.
    match unsafe { unistd::fork() }.context("cannot fork")? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            let code = become_program(order, program, out, err);
            // SAFETY: ends the child at once, without the destructors that belong to the wrapper.
            unsafe { libc::_exit(code) }
        }
    }
}

/// In the child: never comes back when all goes well, else with the exit code.
fn become_program(order: &Order, program: &Program, out: &File, err: &File) -> i32 {
    if let Err(error) = prepare(order, out, err) {
        complain(format_args!("{error:#}"));
        return CANNOT_RUN;
    }
    if let Err(errno) = unistd::chdir(&order.working_directory) {
        let dir = order.working_directory.display();
        complain(format_args!("cannot enter working directory {dir}: {}", errno.desc()));
        return CANNOT_RUN;
    }
    let name = order.argv.first().map_or("", String::as_str);
    match execute(program) {
        Errno::ENOENT => {
            complain(format_args!("{name}: not found"));
            NOT_FOUND
        }
        errno => {
            complain(format_args!("{name}: cannot be run: {}", errno.desc()));
            CANNOT_RUN
        }
    }
}

fn complain(message: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "ec2mpi: {message}");
}

/// Session, input, output, signals, user.
fn prepare(order: &Order, out: &File, err: &File) -> anyhow::Result<()> {
    unistd::dup2_stderr(err).context("stderr")?;
    unistd::dup2_stdout(out).context("stdout")?;
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    unistd::dup2_stdin(&null).context("stdin")?;
    unistd::setsid().context("cannot start a session")?;
    // SAFETY: sets the default action, no handler runs. The Rust runtime had it ignored, and exec would keep that.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.context("SIGPIPE")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    if Uid::effective().is_root() {
        become_user(order.uid, order.gid).context("cannot become the user")?;
    }
    Ok(())
}

fn become_user(uid: u32, gid: u32) -> nix::Result<()> {
    let gid = Gid::from_raw(gid);
    unistd::setgroups(&[gid])?;
    unistd::setgid(gid)?;
    unistd::setuid(Uid::from_raw(uid))
}

/// Like `execvpe`, but with the PATH of the new environment.
fn execute(program: &Program) -> Errno {
    let mut worst = Errno::ENOENT;
    for candidate in &program.candidates {
        let Err(errno) = unistd::execve(candidate, &program.argv, &program.environment);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES if is_directory(candidate) && program.candidates.len() > 1 => {}
            Errno::ENOEXEC => return execute_script(candidate, program),
            other => worst = other,
        }
    }
    // The interpreter or the loader of an existing file may be what is missing.
    if worst == Errno::ENOENT && program.candidates.iter().any(is_executable_file) { Errno::ENOEXEC } else { worst }
}

/// A text without `#!` is a script for the shell, as in every shell.
fn execute_script(candidate: &CStr, program: &Program) -> Errno {
    let shell = c"/bin/sh".to_owned();
    let mut argv = vec![shell.clone(), candidate.to_owned()];
    argv.extend(program.argv.iter().skip(1).cloned());
    let Err(errno) = unistd::execve(&shell, &argv, &program.environment);
    errno
}

fn is_directory(path: &CStr) -> bool {
    Path::new(OsStr::from_bytes(path.to_bytes())).is_dir()
}

fn is_executable_file(path: &CString) -> bool {
    std::fs::metadata(Path::new(OsStr::from_bytes(path.to_bytes())))
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn wait(pid: i32) -> anyhow::Result<Exit> {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Exit { code, signal: 0, error: String::new() }),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                let signal = signal as i32;
                return Ok(Exit { code: 128 + signal, signal, error: String::new() });
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => bail!("cannot wait for process {pid}: {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_path_and_a_path_is_not() {
        assert_eq!(candidates("mpirun", "/a:/b"), ["/a/mpirun", "/b/mpirun"]);
        assert_eq!(candidates("./x", "/a"), ["./x"]);
        assert!(candidates("x", "").is_empty());
    }

    #[test]
    fn an_order_without_program_is_refused() {
        let order = Order { argv: vec![], environment: vec![], working_directory: "/".into(), uid: 1, gid: 1 };
        assert!(Program::new(&order).is_err());
    }
}
