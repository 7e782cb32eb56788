//! The harness of the scenarios in `tests/`: the two programs as a user runs them, on a cloud of their own.
//!
//! A [`site::Site`] is a directory with a coordinator and a local cloud in it, and what it started ends with it, also
//! when a test panics; what a killed test left is removed by the program `sweep`. The scenarios look at the result
//! with other eyes than the programs' own: boto3 ([`stranger`]) and `/proc` ([`machine`], [`host`]).
//!
//! The S3 [`lab`] stands by itself: tests of the volume and benchmarks use it too.
//!
//! Architecture invariants: nothing here links to the programs, they are only executed; every wait has a limit;
//! only processes of a site are ever killed, found by their executable and the site's directory.

pub mod coordinator;
pub mod ec2_server;
pub mod host;
pub mod join;
pub mod lab;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod nowhere;
pub mod outcome;
pub mod physics;
pub mod place;
pub mod rehearsal;
pub mod secret;
pub mod site;
pub mod soak;
pub mod stranger;
pub mod wait;
