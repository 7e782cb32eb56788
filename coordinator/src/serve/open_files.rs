//! Open files: a thousand nodes are more than a thousand connections, and many shells give a process 1024.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Sessions, copies and fetches of the agent by a thousand nodes, with room.
const WANTED: u64 = 65_536;

/// Raises the limit as far as it may be raised.
pub(super) fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let raised = setrlimit(Resource::RLIMIT_NOFILE, soft.max(WANTED), hard.max(WANTED));
        raised.or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, soft.max(WANTED.min(hard)), hard))
    });
    if let Err(errno) = raised {
        tracing::warn!(%errno, "cannot raise the limit of open files; some hundred nodes fit");
    }
}
