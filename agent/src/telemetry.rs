//! Logs: lines of text on stderr, which goes to a file or to the journal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The environment variable with the filter, in `tracing_subscriber`'s syntax. Unset: `info`.
pub const FILTER_VARIABLE: &str = "EC2MPI_LOG";

/// Starts logging. A second call changes nothing.
pub fn start() {
    start_at(None);
}

/// [`start`] with another level than `info` where the environment names no filter.
pub fn start_at(level: Option<&str>) {
    let default = || EnvFilter::new(level.unwrap_or("info"));
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| default());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
