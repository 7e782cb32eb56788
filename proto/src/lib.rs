//! The wire between the command line, the coordinator and the agents, and nothing that runs.
//!
//! [`v1`] is generated from `ec2mpi/v1/*.proto`; [`id`] holds the identifiers, parsed once at the edge where they
//! come in. Architecture invariant: only the edges (`session.rs`, `join.rs`, `api/*`, `cli/*`) name generated messages.

pub mod id;

/// Generated messages, clients and servers of `ec2mpi.v1`.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("ec2mpi.v1");
}

/// What `Hello` and `JoinRequest` carry. Raised whenever agents and coordinators of two builds no longer understand
/// each other.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest message either side accepts, bytes. Chunks are 64 KiB; a thousand peers are about 100 KiB.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// The size of a chunk of output or of a copy, bytes.
pub const CHUNK_BYTES: usize = 64 << 10;
