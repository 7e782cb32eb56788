//! Processes that are not our children, without mistaking one for another: by pidfd and by network namespace.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// A process that stays the same one even when its pid is given to another.
#[derive(Debug)]
pub(crate) struct Pidfd(OwnedFd);

impl Pidfd {
    /// Fails with ESRCH when there is no such process.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new file descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a signal; a process that has ended is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and a null siginfo asks for the default one.
        let result =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal as libc::c_int, none, 0) };
        match io::Error::last_os_error() {
            error if result < 0 && error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until the process has ended; false when it still lives after `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<bool> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Kills everything inside a network namespace and waits until it is gone; false when something is left after `limit`.
pub(crate) fn kill_inside(netns: &Path, limit: Duration) -> io::Result<bool> {
    const PAUSE: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + limit;
    loop {
        let pids = inside(netns)?;
        if pids.is_empty() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        for pid in pids {
            kill_if_inside(pid, netns)?;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Kills one process, provided that it is still the one that was found inside.
fn kill_if_inside(pid: u32, netns: &Path) -> io::Result<()> {
    match Pidfd::open(pid) {
        Ok(process) if is_inside(pid, identity(netns)?) => process.signal(Signal::SIGKILL),
        _ => Ok(()),
    }
}

/// The processes whose network namespace is the one that `netns` names.
pub(crate) fn inside(netns: &Path) -> io::Result<Vec<u32>> {
    let Some(wanted) = identity(netns)? else { return Ok(Vec::new()) };
    let pids = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter(|pid| is_inside(*pid, Some(wanted))).collect())
}

fn is_inside(pid: u32, wanted: Option<(u64, u64)>) -> bool {
    let namespace = format!("/proc/{pid}/ns/net");
    wanted.is_some() && identity(Path::new(&namespace)).ok().flatten() == wanted
}

fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn waits_for_and_signals_one_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Pidfd::open(child.id()).unwrap();
        assert!(!process.wait(Duration::from_millis(20)).unwrap());
        process.signal(Signal::SIGKILL).unwrap();
        assert!(process.wait(Duration::from_secs(5)).unwrap());
        child.wait().unwrap();
        process.signal(Signal::SIGKILL).unwrap();
        assert!(Pidfd::open(child.id()).is_err());
    }

    #[test]
    fn finds_itself_by_namespace_and_nothing_in_a_missing_one() {
        let own = inside(Path::new("/proc/self/ns/net")).unwrap();
        assert!(own.contains(&std::process::id()));
        assert!(inside(Path::new("/run/netns/there-is-none")).unwrap().is_empty());
    }
}
