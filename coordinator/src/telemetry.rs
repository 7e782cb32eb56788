//! Logs: one line an event on standard error, constant lower-case messages with the data in fields.

use tracing_subscriber::EnvFilter;

/// What is logged unless `EC2MPI_LOG` says otherwise (syntax of tracing-subscriber's EnvFilter). `s3s` calls every
/// answer of 404 or 412 an error; what fails in the buckets is logged by the local cloud itself.
const DEFAULT_FILTER: &str = "warn,s3s=off,ec2mpi=info,ec2mpi_local_cloud=info";

/// Starts logging for this process; a second call changes nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("EC2MPI_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // Tests start several coordinators in one process; the first one's subscriber serves them all.
    let _ = logs.try_init();
}
