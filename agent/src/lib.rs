//! What runs on every node: joins the cluster, keeps the volume mounted, runs what it is told.
//!
//! Architecture invariants: only `volume/store/s3.rs` and the IMDS client name an AWS SDK; only `volume/fuse.rs` and
//! `volume/mount.rs` name `fuser`; only `node/{client,join,session,transfer}.rs` name generated messages; `node` and
//! `volume` meet through the volume's control socket only (`node/command.rs` asks, the heartbeat looks); a byte the kernel was told is written
//! is in the cache file, and its file is in the journal before `close` returns; a command repeated by id is answered,
//! not run twice.

pub mod cli;
pub mod config;
pub mod durable;
pub mod node;
pub mod telemetry;
pub mod volume;
