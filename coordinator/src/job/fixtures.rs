//! Jobs and clusters for tests.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterId, JobId};

use super::record::{JobNode, JobRecord, Process};
use super::state::JobState;
use crate::cluster::{ClusterPhase, ClusterSpec, ClusterView, NodePhase, NodeView};
use crate::mpi::Installation;
use crate::registry::VolumeState;

/// A plain command that is being prepared.
pub(crate) fn record(cluster: &str, started_at: f64) -> JobRecord {
    JobRecord {
        id: JobId::random(),
        cluster: ClusterId::random(),
        cluster_name: cluster.parse().unwrap(),
        node: JobNode {
            instance: "i-0123456789abcdef0".parse().unwrap(),
            host_name: format!("{cluster}-0"),
            boot_id: String::new(),
        },
        nodes: Vec::new(),
        node_timeout_seconds: 60,
        command: vec!["true".into()],
        process: Process {
            argv: vec!["true".into()],
            environment: BTreeMap::new(),
            working_directory: "/shared".into(),
        },
        mpi: None,
        started_at,
        ended_at: None,
        state: JobState::Preparing,
    }
}

/// A ready cluster "demo" of so many nodes with two slots each.
pub(crate) fn view(nodes: u32) -> ClusterView {
    ClusterView {
        spec: ClusterSpec {
            name: "demo".parse().unwrap(),
            nodes,
            min_nodes: nodes,
            timeout: Duration::from_secs(600),
            instance_type: "local.machine".into(),
            slots_per_node: 2,
            ttl: None,
        },
        id: ClusterId::random(),
        phase: ClusterPhase::Ready,
        message: String::new(),
        nodes: (0..nodes).map(node).collect(),
        volume: "s3://ec2mpi/demo/".into(),
        cidr: "10.213.0.0/20".into(),
        created_at: 0.0,
        expires_at: None,
        cloud: "local".into(),
        timings: BTreeMap::new(),
    }
}

fn node(index: u32) -> NodeView {
    NodeView {
        index,
        host_name: format!("demo-{index}"),
        instance: Some(format!("i-{index:017x}").parse().unwrap()),
        address: Some(Ipv4Addr::from(0x0ad5_0002 + index)),
        phase: NodePhase::Ready,
        slots: 2,
        volume: VolumeState::default(),
        dedicated_cores: false,
        boot_id: String::new(),
        mpi: vec![Installation { family: "openmpi".into(), version: "4.1.4".into(), mpirun: "/usr/bin/mpirun".into() }],
    }
}
