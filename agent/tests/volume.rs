//! The volume over real FUSE mounts, with the store in memory. Needs root and /dev/fuse, and fails without them.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

#[path = "volume/conflicts.rs"]
mod conflicts;
#[path = "volume/costs.rs"]
mod costs;
#[path = "volume/durability.rs"]
mod durability;
#[path = "volume/fsx.rs"]
mod fsx;
#[path = "common/fsx.rs"]
mod fsx_program;
#[path = "volume/lab.rs"]
mod lab;
#[path = "volume/names.rs"]
mod names;
#[path = "volume/passthrough.rs"]
mod passthrough;
#[path = "volume/pjdfstest.rs"]
mod pjdfstest;
#[path = "volume/posix.rs"]
mod posix;
#[path = "volume/power.rs"]
mod power;
#[path = "volume/programs.rs"]
mod programs;
#[path = "volume/real.rs"]
mod real;
#[path = "volume/records.rs"]
mod records;
#[path = "volume/special.rs"]
mod special;
#[path = "volume/walk.rs"]
mod walk;
