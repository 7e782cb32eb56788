//! Locks that end with the process that holds them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A probe holds the lock for an instant, so a refusal counts only when it lasts.
const PATIENCE: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(10);

/// A `flock` on a file, held until dropped or until the process ends.
#[derive(Debug)]
pub(crate) struct HeldLock {
    _file: Flock<File>,
}

/// Takes the lock; none when another process holds it for longer than an instant.
pub(crate) fn acquire(path: &Path) -> io::Result<Option<HeldLock>> {
    acquire_within(path, PATIENCE)
}

/// The same with a patience of one's own.
pub(crate) fn acquire_within(path: &Path, patience: Duration) -> io::Result<Option<HeldLock>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(lock) = attempt(path, FlockArg::LockExclusiveNonblock)? {
            return Ok(Some(lock));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a process holds the lock.
pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    Ok(attempt(path, FlockArg::LockSharedNonblock)?.is_none())
}

fn attempt(path: &Path, kind: FlockArg) -> io::Result<Option<HeldLock>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match Flock::lock(file, kind) {
        Ok(file) => Ok(Some(HeldLock { _file: file })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_held(&path).unwrap());
        let held = acquire(&path).unwrap().unwrap();
        assert!(is_held(&path).unwrap());
        assert!(acquire_within(&path, Duration::ZERO).unwrap().is_none());
        drop(held);
        assert!(!is_held(&path).unwrap());
    }
}
