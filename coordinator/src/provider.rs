//! What makes machines: the EC2 API, on AWS or on the local cloud; and a fake for tests.

pub mod ec2;
pub mod memory;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;

use async_trait::async_trait;
use ec2mpi_proto::id::{ClusterId, InstanceId, LaunchId};
use serde::{Deserialize, Serialize};

/// Tag keys on every machine.
pub mod tag {
    /// The cluster's name.
    pub const CLUSTER: &str = "ec2mpi:cluster";
    /// The cluster's id; what [`super::Provider::describe`] asks for.
    pub const CLUSTER_ID: &str = "ec2mpi:cluster-id";
    /// The launch attempt that made the machine.
    pub const LAUNCH_ID: &str = "ec2mpi:launch-id";
    /// What the AWS console shows as the machine's name.
    pub const NAME: &str = "Name";
}

/// Makes, lists and ends machines. Every call ends within a few minutes, retries included.
#[async_trait]
pub trait Provider: Send + Sync + Debug {
    /// Idempotent by `request.launch` (EC2's ClientToken): repeating it gives the same machines.
    async fn launch(&self, request: &LaunchRequest) -> Result<Vec<Instance>, ProviderError>;

    /// All machines of a cluster by tag, terminated ones included as long as the provider lists them, every page.
    async fn describe(&self, cluster: &ClusterId) -> Result<Vec<Instance>, ProviderError>;

    /// Asks for the end of machines; those that are gone already are no error.
    async fn terminate(&self, instances: &[InstanceId]) -> Result<(), ProviderError>;

    /// What the machine's boot has printed, as far as the provider kept it; empty when it printed nothing (yet).
    async fn console_output(&self, instance: &InstanceId) -> Result<String, ProviderError>;

    /// What a machine of this type is.
    async fn instance_type(&self, name: &str) -> Result<TypeFacts, ProviderError>;
}

/// One launch attempt, word for word: stored before it is sent, and repeated so after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchRequest {
    pub launch: LaunchId,
    /// Machines: at least `min` or none, at most `max`.
    pub min: u32,
    pub max: u32,
    pub image: String,
    pub instance_type: String,
    pub subnet: Option<String>,
    pub security_groups: Vec<String>,
    /// Name of an IAM instance profile.
    pub instance_profile: Option<String>,
    /// Plain text, at most 16 KiB; no secret, every process on the machine can read it.
    pub user_data: String,
    /// For the machines and their disks. Must hold [`tag::CLUSTER_ID`] and [`tag::LAUNCH_ID`].
    pub tags: BTreeMap<String, String>,
}

/// One machine as the provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub id: InstanceId,
    /// The launch attempt it belongs to, from its tag.
    pub launch: Option<LaunchId>,
    /// Its place among the machines of that attempt, from 0.
    pub launch_index: u32,
    pub state: InstanceState,
    /// Private IPv4 address; none before it has one and after its end.
    pub address: Option<Ipv4Addr>,
    /// Why it is in this state, as the provider says; may be empty.
    pub reason: String,
}

/// Life of a machine (EC2's instance states).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl InstanceState {
    /// EC2's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the machine exists or will (and may cost money), as opposed to ended or ending.
    pub fn is_alive(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Stopping | Self::Stopped => true,
            Self::ShuttingDown | Self::Terminated => false,
        }
    }
}

/// What a type of machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeFacts {
    /// Physical cores.
    pub cores: u32,
    /// `x86_64` or `aarch64`, as `uname -m` says.
    pub architecture: String,
}

/// Why the provider did not do it. The text is the provider's own, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// Not enough machines of this kind now; later or elsewhere it may work.
    #[error("the cloud has no capacity: {0}")]
    Capacity(String),
    /// Too many calls; later it will work. Nothing was done.
    #[error("the cloud asks to slow down: {0}")]
    Throttled(String),
    /// The request is wrong or against a limit; repeating it will not help.
    #[error("the cloud refuses: {0}")]
    Refused(String),
    /// Credentials are missing, wrong, or not allowed to do this.
    #[error("the cloud does not authorize this: {0}")]
    Unauthorized(String),
    /// No usable answer: it may have happened or not. Repeat with the same launch id.
    #[error("the cloud's answer is unknown: {0}")]
    Unknown(String),
    /// What was asked about does not exist (any more).
    #[error("gone from the cloud: {0}")]
    Gone(String),
}
