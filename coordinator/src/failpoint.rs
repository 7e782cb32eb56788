//! Test aids: `EC2MPI_FAILPOINT=NAME` makes the coordinator kill itself with SIGKILL when it gets to a named place.
//! Tests of recovery use it to die exactly where dying is worst; nothing else looks at it.

use std::sync::OnceLock;

/// A launch is written down and not yet asked for.
pub const LAUNCH_BEFORE_CALL: &str = "launch-before-call";

/// A launch was answered and the answer is not yet stored.
pub const LAUNCH_AFTER_CALL: &str = "launch-after-call";

/// Half of a cluster's nodes (rounded up) have joined.
pub const JOIN_HALF: &str = "join-half";

const VARIABLE: &str = "EC2MPI_FAILPOINT";

/// Whether this is the place that the environment names.
pub(crate) fn is_chosen(name: &'static str) -> bool {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref() == Some(name)
}

/// Dies here when this is the place that the environment names.
pub(crate) fn hit(name: &'static str) {
    if is_chosen(name) {
        tracing::warn!(failpoint = name, "killing myself, as told");
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}
