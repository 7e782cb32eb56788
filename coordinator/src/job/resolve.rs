//! From what a user asks and what a cluster is to a job that can be written down. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use ec2mpi_proto::id::JobId;

use super::record::{JobNode, JobRecord, MpiPart, Process};
use super::state::JobState;
use crate::cluster::{ClusterPhase, ClusterView, NodePhase, NodeView};
use crate::error::Error;
use crate::mpi;

/// An MPI run, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    /// At least 1.
    pub ranks: u32,
    /// Absolute.
    pub working_directory: String,
    pub environment: BTreeMap<String, String>,
    pub program: String,
    pub arguments: Vec<String>,
    pub barrier: bool,
    /// Handed to mpirun as they are.
    pub mpi_arguments: Vec<String>,
    /// How long a node of it may be out of reach.
    pub node_timeout: Duration,
}

/// A plain command, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    pub node: u32,
    /// Absolute.
    pub working_directory: String,
    pub environment: BTreeMap<String, String>,
    pub program: String,
    pub arguments: Vec<String>,
    /// How long its node may be out of reach.
    pub node_timeout: Duration,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub hostfile: String,
    pub launch: mpi::Launch,
    /// Where the launcher runs.
    pub node: JobNode,
    /// Where the launcher or a rank runs.
    pub nodes: Vec<JobNode>,
}

/// Where the agent puts a job's hostfile.
pub(super) fn hostfile_path(job: &JobId) -> String {
    format!("/run/ec2mpi/hostfiles/{job}")
}

/// What this run would do on this cluster as it is.
pub(super) fn explain(view: &ClusterView, id: &JobId, spec: &RunSpec) -> Result<Explanation, Error> {
    let head = head(view)?;
    let ready = ready_nodes(view);
    let hosts = hosts(&ready)?;
    enough_slots(view, &hosts, spec.ranks)?;
    let needed = &ready[..mpi::needed(&hosts, spec.ranks)?.len()];
    let installation = installation(view, needed)?;
    let hostfile = mpi::hostfile(installation.launcher()?, &hosts, spec.ranks)?;
    let facts = mpi::LaunchFacts {
        installation,
        cidr: view.cidr.clone(),
        dedicated_cores: needed.iter().all(|node| node.dedicated_cores),
        job: id.to_string(),
    };
    let program = mpi::Program {
        ranks: spec.ranks,
        environment: spec.environment.clone(),
        program: spec.program.clone(),
        arguments: spec.arguments.clone(),
        mpi_arguments: spec.mpi_arguments.clone(),
    };
    let launch = mpi::launch(&facts, &hostfile_path(id), &program)?;
    // The head is the first of the ready nodes.
    let nodes = needed.iter().map(|node| job_node(node)).collect::<Result<_, _>>()?;
    Ok(Explanation { hostfile, launch, node: job_node(head)?, nodes })
}

/// The job that this run is.
pub(super) fn run(view: &ClusterView, id: JobId, spec: RunSpec, now: f64) -> Result<JobRecord, Error> {
    let Explanation { hostfile, launch, node, nodes } = explain(view, &id, &spec)?;
    let process =
        Process { argv: launch.argv, environment: launch.environment, working_directory: spec.working_directory };
    let mpi = Some(MpiPart { ranks: spec.ranks, hostfile, barrier: spec.barrier });
    let nodes = Nodes { main: node, all: nodes, timeout: spec.node_timeout };
    Ok(record(view, id, nodes, words(spec.program, spec.arguments), process, mpi, now))
}

/// The job that this command is.
pub(super) fn exec(view: &ClusterView, id: JobId, spec: ExecSpec, now: f64) -> Result<JobRecord, Error> {
    let node = job_node(usable_node(view, spec.node)?)?;
    let command = words(spec.program, spec.arguments);
    let process =
        Process { argv: command.clone(), environment: spec.environment, working_directory: spec.working_directory };
    let nodes = Nodes { all: vec![node.clone()], main: node, timeout: spec.node_timeout };
    Ok(record(view, id, nodes, command, process, None, now))
}

/// The hostfile for so many ranks, or for all slots.
pub(super) fn hostfile(view: &ClusterView, ranks: Option<u32>) -> Result<String, Error> {
    head(view)?;
    let ready = ready_nodes(view);
    let hosts = hosts(&ready)?;
    let ranks = ranks.unwrap_or_else(|| hosts.iter().map(|host| host.slots).sum());
    enough_slots(view, &hosts, ranks)?;
    let needed = &ready[..mpi::needed(&hosts, ranks)?.len()];
    mpi::hostfile(installation(view, needed)?.launcher()?, &hosts, ranks)
}

/// The node with this index, if it can be asked for anything.
pub fn usable_node(view: &ClusterView, index: u32) -> Result<&NodeView, Error> {
    cluster_is_up(view)?;
    let name = &view.spec.name;
    let node = view.nodes.iter().find(|node| node.index == index).ok_or_else(|| {
        Error::NotFound(format!("cluster {name} has no node {index}: `ec2mpi status {name}` lists its nodes"))
    })?;
    match &node.phase {
        NodePhase::Ready => Ok(node),
        phase => Err(Error::NotNow(format!(
            "node {} is {}, not ready: see `ec2mpi status {name}`, or use another node",
            node.host_name,
            phase_word(phase)
        ))),
    }
}

/// The nodes of a job, and how long it waits for one.
struct Nodes {
    main: JobNode,
    all: Vec<JobNode>,
    timeout: Duration,
}

fn record(
    view: &ClusterView,
    id: JobId,
    nodes: Nodes,
    command: Vec<String>,
    process: Process,
    mpi: Option<MpiPart>,
    now: f64,
) -> JobRecord {
    JobRecord {
        id,
        cluster: view.id.clone(),
        cluster_name: view.spec.name.clone(),
        node: nodes.main,
        nodes: nodes.all,
        node_timeout_seconds: nodes.timeout.as_secs(),
        command,
        process,
        mpi,
        started_at: now,
        ended_at: None,
        state: JobState::Preparing,
    }
}

fn words(program: String, arguments: Vec<String>) -> Vec<String> {
    std::iter::once(program).chain(arguments).collect()
}

fn cluster_is_up(view: &ClusterView) -> Result<(), Error> {
    let name = &view.spec.name;
    match &view.phase {
        ClusterPhase::Ready => Ok(()),
        ClusterPhase::Creating => Err(Error::NotNow(format!(
            "cluster {name} is still being created: {} of {} nodes are ready; wait for `ec2mpi status {name}` to say ready",
            ready_nodes(view).len(),
            view.spec.nodes
        ))),
        ClusterPhase::Failed { why } => {
            Err(Error::NotNow(format!("cluster {name} failed: {why}; destroy it with `ec2mpi destroy {name}`")))
        }
        ClusterPhase::Destroying { .. } | ClusterPhase::Destroyed { .. } => {
            Err(Error::NotNow(format!("cluster {name} is being destroyed; create another one")))
        }
    }
}

/// Node 0, or the next one where it never came or is gone for good. One that is out of reach may come back with files
/// that others need, so nobody takes its place.
fn head(view: &ClusterView) -> Result<&NodeView, Error> {
    cluster_is_up(view)?;
    let is_gone = |node: &&NodeView| matches!(node.phase, NodePhase::Gone { .. } | NodePhase::Failed { .. });
    let first = view.nodes.iter().filter(|node| !is_gone(node)).min_by_key(|node| node.index);
    let first =
        first.ok_or_else(|| Error::NotNow(format!("cluster {} has no node left: create it anew", view.spec.name)))?;
    usable_node(view, first.index)
}

/// In the order of their indexes, so the head comes first.
fn ready_nodes(view: &ClusterView) -> Vec<&NodeView> {
    let mut nodes: Vec<_> = view.nodes.iter().filter(|node| node.phase == NodePhase::Ready).collect();
    nodes.sort_by_key(|node| node.index);
    nodes
}

fn hosts(nodes: &[&NodeView]) -> Result<Vec<mpi::Host>, Error> {
    nodes
        .iter()
        .map(|node| {
            let address =
                node.address.ok_or_else(|| Error::Internal(format!("node {} has no address", node.host_name)))?;
            Ok(mpi::Host { address, slots: node.slots })
        })
        .collect()
}

fn enough_slots(view: &ClusterView, hosts: &[mpi::Host], ranks: u32) -> Result<(), Error> {
    let slots: u64 = hosts.iter().map(|host| u64::from(host.slots)).sum();
    if u64::from(ranks) <= slots {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{ranks} ranks do not fit: cluster {} has {slots} slots on {} ready nodes; ask for at most {slots}, or create \
         a cluster with more nodes or `--slots`",
        view.spec.name,
        hosts.len()
    )))
}

fn installation(view: &ClusterView, needed: &[&NodeView]) -> Result<mpi::Installation, Error> {
    let without: Vec<_> = needed.iter().filter(|node| node.mpi.is_empty()).map(|n| n.host_name.as_str()).collect();
    if !without.is_empty() {
        return Err(Error::NotNow(format!(
            "Open MPI is not installed on {}: install it there (Debian, Ubuntu: `apt-get install openmpi-bin`; with \
             the local cloud: on this machine), then create cluster {} anew",
            list(&without),
            view.spec.name
        )));
    }
    mpi::choose(&needed.iter().map(|node| node.mpi.as_slice()).collect::<Vec<_>>())
}

fn job_node(node: &NodeView) -> Result<JobNode, Error> {
    let instance =
        node.instance.clone().ok_or_else(|| Error::Internal(format!("node {} has no instance", node.host_name)))?;
    Ok(JobNode { instance, host_name: node.host_name.clone(), boot_id: node.boot_id.clone() })
}

/// The first five, and how many more.
pub(super) fn list(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn phase_word(phase: &NodePhase) -> &'static str {
    match phase {
        NodePhase::Requested => "requested",
        NodePhase::Booting => "booting",
        NodePhase::Joined => "joined",
        NodePhase::Ready => "ready",
        NodePhase::Unreachable => "unreachable",
        NodePhase::Leaving => "leaving",
        NodePhase::Gone { .. } => "gone",
        NodePhase::Failed { .. } => "failed",
    }
}
