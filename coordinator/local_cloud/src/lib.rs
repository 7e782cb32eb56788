//! AWS on one Linux machine: the EC2 API, the instance metadata service and S3 over HTTP; instances are namespaces.
//!
//! Invariants: no AWS SDK in here · reached only over HTTP and through `cloud.json` · an instance is on disk before its
//! machine is started · a machine outlives every process but its own keeper · everything made on this machine has a name
//! that follows from the cloud's directory, so that it is removed by name.

pub mod bucket;
pub mod catalog;
mod command;
mod document;
mod durable;
mod ec2_api;
mod faults;
mod fleet;
mod http_server;
mod imds;
mod info;
mod keys;
mod layout;
mod lock;
mod mac;
mod machine;
mod network;
mod serve;
mod settings;

pub use command::{CloudArgs, ensure_running, run};
pub use info::{CloudInfo, InfoError};
pub use serve::StartError;
pub use settings::Options;
