//! MPI clusters on EC2: the command line and the coordinator.
//!
//! Architecture invariants: only `provider/ec2.rs` names an AWS SDK; only the edges (`api/*`, `cli/*`) name generated
//! messages; `cluster/plan.rs`, `mpi.rs`, `user_data.rs` and state transitions do no I/O and read no clock; whatever
//! is paid for was written down first.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod error;
pub mod failpoint;
pub mod identity;
pub mod job;
pub mod mpi;
pub mod output;
pub mod provider;
pub mod registry;
pub mod serve;
pub mod state;
pub mod telemetry;
pub mod user_data;
