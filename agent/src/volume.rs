//! The volume: a bucket prefix as a POSIX file system. Knows nothing of clusters.

pub mod control;
pub mod mount;
pub mod store;
