//! Nothing is ever lost: real mounts over a real S3 server, behind the lab. Needs root and /dev/fuse.
//!
//! Short forms by default; `EC2MPI_SOAK=1` runs the long ones (`make soak`). The server is the local cloud's bucket
//! unless `EC2MPI_TEST_S3=ADDRESS:PORT/BUCKET` names another (credentials from the environment).

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

#[path = "durable/bounds.rs"]
mod bounds;
#[path = "durable/conflicts.rs"]
mod conflicts;
#[path = "durable/crash.rs"]
mod crash;
#[path = "durable/fsx.rs"]
mod fsx;
#[path = "common/fsx.rs"]
mod fsx_program;
#[path = "durable/history.rs"]
mod history;
#[path = "durable/load.rs"]
mod load;
#[path = "durable/outage.rs"]
mod outage;
#[path = "durable/place.rs"]
mod place;
#[path = "durable/reads.rs"]
mod reads;
#[path = "durable/repair.rs"]
mod repair;

/// The long form of a test's number when it is a soak, else the short one.
fn soak<T>(short: T, long: T) -> T {
    if std::env::var_os("EC2MPI_SOAK").is_some_and(|value| value == "1") { long } else { short }
}
