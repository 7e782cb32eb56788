//! What to do next for one cluster. Pure: from what is wanted and what is seen to a list of actions; no I/O, no clock.
//!
//! Start-up and steady state ask the same question, so recovery from a crash is not special: a launch without an
//! answer is sent again word for word, a machine that nobody counts on is ended, a change of membership is told.

mod create;
mod destroy;
mod node;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use ec2mpi_proto::id::{InstanceId, LaunchId};

pub(super) use self::node::{failure_of, is_usable};
use crate::provider::{Instance, ProviderError};
use crate::registry::{Liveness, Peer};
use crate::state::{ClusterRecord, Goal, LaunchRecord, Milestone, NodeRecord};

/// A session that has been away for so long makes its node unreachable.
pub const UNREACHABLE_AFTER: Duration = Duration::from_secs(10);

/// After a restart of the coordinator, nodes get at least so long to show up.
pub const RESTART_GRACE: Duration = Duration::from_secs(60);

/// A termination that shows no effect is asked for again after so long.
pub const TERMINATE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What is wanted, as it was written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    pub cluster: ClusterRecord,
    pub launches: Vec<LaunchRecord>,
    /// By index.
    pub nodes: Vec<NodeRecord>,
}

/// What is seen, by this process.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The provider's last list of the cluster's machines; none: it has not answered yet.
    pub instances: Option<Vec<Instance>>,
    pub agents: BTreeMap<InstanceId, Seen>,
    pub calls: BTreeMap<LaunchId, Call>,
    pub drains: BTreeMap<InstanceId, Drain>,
    /// When their end was last asked for, seconds since the epoch.
    pub terminations: BTreeMap<InstanceId, f64>,
    /// When this process began, seconds since the epoch.
    pub started: f64,
    /// How long the provider may take to list what was launched.
    pub settle: Duration,
}

/// One node's agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    pub liveness: Liveness,
    /// How long it has had no session.
    pub silence: Duration,
    pub told: Option<Told>,
}

/// Which peers a node was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub peers: Vec<Peer>,
    pub boot_id: String,
    /// It has acknowledged them.
    pub done: bool,
}

/// The last launch call of this process that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub error: ProviderError,
    /// Seconds since the epoch.
    pub at: f64,
    /// Calls that failed so far.
    pub attempts: u32,
}

/// How a node's drain for a destroy goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drain {
    Asked,
    Done,
    Failed(String),
}

/// One step towards what is wanted.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send a launch as it was written down, for the first time or again.
    Launch(LaunchId),
    /// Take these machines as the answer to a launch.
    Adopt { launch: LaunchId, instances: Vec<Instance> },
    /// Write down that a node is no longer counted on.
    GiveUp { index: u32, why: String },
    /// Write down that a node is usable for the first time.
    NodeReady { index: u32 },
    /// Write down that a node's machine has ended.
    NodeGone { index: u32, instance: InstanceId },
    /// Tell a node who its peers are.
    TellPeers { instance: InstanceId, peers: Vec<Peer> },
    /// Write down that the cluster is ready.
    Ready,
    /// Write down that the cluster cannot become ready.
    Fail { why: String },
    /// Have a node upload what is dirty.
    Drain { instance: InstanceId, timeout: Duration },
    /// Give up the destroy: data would be lost.
    RefuseDestroy { why: String },
    /// End machines.
    Terminate(Vec<InstanceId>),
    /// Nothing is left: the record may go.
    Remove { terminated: u32 },
}

/// What to do now. Empty when there is nothing to do until something changes.
pub fn plan(intent: &Intent, observed: &Observed, now: f64) -> Vec<Action> {
    let mut actions = node::bookkeeping(intent, observed, now);
    match (&intent.cluster.goal, &intent.cluster.milestone) {
        (Goal::Destroy { discard, drain_timeout }, _) => {
            actions.extend(destroy::destroying(intent, observed, now, *discard, *drain_timeout));
        }
        (Goal::Run, Milestone::Creating) => {
            actions.extend(create::creating(intent, observed, now));
            actions.extend(terminate(node::unwanted(intent, observed), observed, now));
        }
        (Goal::Run, Milestone::Ready { .. }) => {
            actions.extend(node::tell_peers(intent, observed));
            actions.extend(terminate(node::unwanted(intent, observed), observed, now));
        }
        // A cluster that failed is of no use and would go on costing money.
        (Goal::Run, Milestone::Failed { .. }) => actions.extend(terminate(node::alive(observed), observed, now)),
    }
    actions
}

/// Whether the provider has to be asked often: something is under way that it decides.
pub fn is_busy(intent: &Intent, observed: &Observed) -> bool {
    let moving = matches!(intent.cluster.goal, Goal::Destroy { .. })
        || matches!(intent.cluster.milestone, Milestone::Creating)
        || observed.instances.is_none();
    moving || node::is_any_ending(observed) || !node::superfluous(intent, observed).is_empty()
}

/// Whether a node that should be there is not heard of: the provider may know why.
pub fn is_worried(intent: &Intent, observed: &Observed) -> bool {
    intent.nodes.iter().filter(|node| !node.gone && node.given_up.is_none()).any(|node| {
        node.instance.as_ref().and_then(|id| observed.agents.get(id)).is_none_or(|seen| !seen.liveness.connected)
    })
}

/// When nodes that are not ready are given up, seconds since the epoch. Downtime of the coordinator does not count.
pub fn deadline(intent: &Intent, observed: &Observed) -> f64 {
    let timeout = intent.cluster.spec.timeout;
    let planned = intent.cluster.created_at + timeout.as_secs_f64();
    planned.max(observed.started + timeout.min(RESTART_GRACE).as_secs_f64())
}

fn terminate(instances: Vec<InstanceId>, observed: &Observed, now: f64) -> Option<Action> {
    let due = |id: &InstanceId| match observed.terminations.get(id) {
        Some(asked) => now >= asked + TERMINATE_AGAIN_AFTER.as_secs_f64(),
        None => true,
    };
    let due: Vec<_> = instances.into_iter().filter(due).collect();
    (!due.is_empty()).then_some(Action::Terminate(due))
}
