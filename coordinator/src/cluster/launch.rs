//! From what a user wants to the words of the launch call. Pure but for the new launch id.

use std::collections::BTreeMap;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterId, ClusterName, LaunchId};

use super::ClusterSpec;
use crate::error::Error;
use crate::provider::{LaunchRequest, tag};
use crate::user_data::{self, AgentBinary, UserData};

/// Where clusters are made: facts of the cloud.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// "local" or "aws".
    pub cloud: String,
    pub region: String,
    pub image: String,
    pub default_instance_type: String,
    /// How long clusters live unless told otherwise; where there is one, none lives for ever.
    pub default_ttl: Option<Duration>,
    pub subnet: Option<String>,
    pub security_groups: Vec<String>,
    pub instance_profile: Option<String>,
    /// Address block of all nodes, CIDR.
    pub cidr: String,
    /// Physical cores are the nodes' alone.
    pub dedicated_cores: bool,
    pub bucket: String,
    /// Where in the bucket volumes lie: empty, or ending in a slash.
    pub prefix: String,
    /// S3 as nodes reach it; empty: AWS's own for the region.
    pub node_s3_endpoint: String,
    pub pace: Pace,
}

/// How often the cloud is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// While something is under way.
    pub busy: Duration,
    /// While a node is missing.
    pub worried: Duration,
    /// Otherwise.
    pub idle: Duration,
    /// How long the cloud may take to list what was launched.
    pub settle: Duration,
}

impl Pace {
    /// A cloud on this machine answers at once.
    pub const LOCAL: Self = Self {
        busy: Duration::from_millis(150),
        worried: Duration::from_secs(1),
        idle: Duration::from_secs(60),
        settle: Duration::from_secs(3),
    };

    /// EC2 throttles calls and lists what it made after seconds.
    pub const AWS: Self = Self {
        busy: Duration::from_secs(2),
        worried: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        settle: Duration::from_secs(60),
    };
}

/// What nodes are told of this coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinates {
    /// `https://ADDRESS:PORT` of the agents' listener.
    pub url: String,
    /// DNS name in the listener's certificate.
    pub server_name: String,
    /// Authority to pin, PEM.
    pub ca_pem: String,
    /// By `uname -m`.
    pub agents: BTreeMap<String, AgentBinary>,
}

/// The prefix of a cluster's volume in the bucket. It goes by the name, so that a cluster made again under the name
/// of a destroyed one finds the files that were kept.
pub fn volume_prefix(place: &Place, name: &ClusterName) -> String {
    format!("{}{name}/", place.prefix)
}

/// `s3://bucket/prefix/` of a cluster's volume.
pub fn volume_url(place: &Place, name: &ClusterName) -> String {
    format!("s3://{}/{}", place.bucket, volume_prefix(place, name))
}

/// When the machines of a cluster end themselves, whole seconds since the epoch: never before their time is over.
pub fn expires_at(spec: &ClusterSpec, created_at: f64) -> Option<u64> {
    let expires = Duration::try_from_secs_f64(created_at).ok()?.checked_add(spec.ttl?)?;
    Some(expires.as_secs() + u64::from(expires.subsec_nanos() > 0))
}

/// A launch attempt of its own for all nodes of a cluster.
pub fn request(
    spec: &ClusterSpec,
    cluster: &ClusterId,
    place: &Place,
    coordinates: &Coordinates,
    created_at: f64,
) -> Result<LaunchRequest, Error> {
    let launch = LaunchId::random();
    let user_data = user_data::render(&UserData {
        coordinator: coordinates.url.clone(),
        server_name: coordinates.server_name.clone(),
        cluster: spec.name.clone(),
        cluster_id: cluster.clone(),
        launch: launch.clone(),
        ca_pem: coordinates.ca_pem.clone(),
        agents: coordinates.agents.clone(),
        deadline: expires_at(spec, created_at),
    })?;
    Ok(LaunchRequest {
        tags: tags(spec, cluster, &launch),
        launch,
        min: spec.min_nodes,
        max: spec.nodes,
        image: place.image.clone(),
        instance_type: spec.instance_type.clone(),
        subnet: place.subnet.clone(),
        security_groups: place.security_groups.clone(),
        instance_profile: place.instance_profile.clone(),
        user_data,
    })
}

fn tags(spec: &ClusterSpec, cluster: &ClusterId, launch: &LaunchId) -> BTreeMap<String, String> {
    BTreeMap::from([
        (tag::CLUSTER.to_owned(), spec.name.to_string()),
        (tag::CLUSTER_ID.to_owned(), cluster.to_string()),
        (tag::LAUNCH_ID.to_owned(), launch.to_string()),
        (tag::NAME.to_owned(), spec.name.to_string()),
    ])
}
