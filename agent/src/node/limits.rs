//! Resource limits of what this process starts: MPI pins memory, opens many files and starts many processes.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use tracing::warn;

/// More files than a thousand ranks need, and below the kernel's default ceiling (`fs.nr_open`, 1048576).
const OPEN_FILES: u64 = 1 << 20;

/// Raises locked memory, open files and processes as far as the kernel lets us. Children inherit it; sshd without
/// PAM does not lower it again.
pub fn raise() {
    let wanted = [
        (Resource::RLIMIT_MEMLOCK, RLIM_INFINITY),
        (Resource::RLIMIT_NOFILE, OPEN_FILES),
        // Counted by user, on the local cloud over all machines.
        (Resource::RLIMIT_NPROC, RLIM_INFINITY),
    ];
    for (resource, wanted) in wanted {
        if let Err(errno) = raise_one(resource, wanted) {
            warn!(?resource, %errno, "cannot raise a limit");
        }
    }
}

/// To the wanted value, or, where that is not allowed, to the hard limit.
fn raise_one(resource: Resource, wanted: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    setrlimit(resource, wanted, wanted.max(hard)).or_else(|_| setrlimit(resource, wanted.min(hard), hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_reaches_at_least_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        raise();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= hard.min(OPEN_FILES));
    }
}
