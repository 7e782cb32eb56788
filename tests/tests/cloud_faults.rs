//! What the programs do when the cloud fails: each fault that `ec2mpi cloud fault` has, under each action that it can
//! hit. Every row makes a cluster, and ends with the proof that no machine is left and none was launched twice.
//!
//! A short form of the tables runs by default; with `EC2MPI_SOAK=1` all of their rows.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

#[path = "cloud_faults/bench.rs"]
mod bench;
#[path = "cloud_faults/calls.rs"]
mod calls;
#[path = "cloud_faults/machines.rs"]
mod machines;
#[path = "cloud_faults/storage.rs"]
mod storage;
