//! Carries out one action. What takes as long as a node likes runs in the background and leaves its outcome in the
//! loop's memory; what it was about is then planned anew.

use std::time::Duration;

use ec2mpi_proto::id::{InstanceId, LaunchId};

use super::{Pass, Worker};
use crate::cluster::plan::{Action, Call, Drain, Intent, Observed, Told};
use crate::cluster::{now, view};
use crate::error::Error;
use crate::failpoint;
use crate::provider::Instance;
use crate::registry::{Peer, Request};
use crate::state::{LaunchRecord, Milestone};

/// How long a node has to acknowledge the names of its peers before it is told again.
const TELL_DEADLINE: Duration = Duration::from_secs(10);

/// Beyond a node's own limit, for the way there and back.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

impl Worker {
    /// One step. Only failures of the records are errors; those of cloud and nodes are observations for the next plan.
    pub(super) async fn act(&mut self, intent: &Intent, observed: &Observed, action: Action) -> Result<Pass, Error> {
        let state = &self.inner.state;
        match action {
            Action::Launch(launch) => self.launch(intent, &launch).await?,
            Action::Adopt { launch, instances } => self.store_answer(&launch, &instances)?,
            Action::GiveUp { index, why } => {
                tracing::warn!(node = index, why, "node given up");
                state.give_up_node(&self.cluster, index, &why)?;
            }
            Action::NodeReady { index } => state.set_node_ready(&self.cluster, index, now())?,
            Action::NodeGone { index, instance, why } => {
                tracing::info!(node = index, %instance, why, "machine has ended");
                state.set_node_gone(&self.cluster, index, &why, now())?;
                self.inner.registry.retire(&instance, &why);
            }
            Action::TellPeers { instance, peers } => self.tell(observed, instance, peers),
            Action::Ready => self.set_ready(intent, observed)?,
            Action::Fail { why } => {
                let laggards = view::laggards(intent, observed);
                tracing::warn!(why, ?laggards, "cluster failed");
                state.set_milestone(&self.cluster, &Milestone::Failed { why })?;
            }
            Action::Drain { instance, timeout } => self.drain(instance, timeout),
            Action::RefuseDestroy { why } => {
                tracing::warn!(why, "destroy refused");
                state.refuse_destroy(&self.cluster, &intent.cluster.goal, &why)?;
                self.memory.lock().drains.clear();
            }
            Action::Terminate(instances) => self.terminate(&instances).await,
            Action::Remove { terminated } => return self.remove(intent, terminated),
        }
        Ok(Pass::Again)
    }

    /// The call that costs money. Its words were written down before; so is the answer before anything builds on it.
    async fn launch(&mut self, intent: &Intent, id: &LaunchId) -> Result<(), Error> {
        let Some(record) = intent.launches.iter().find(|launch| launch.id == *id) else { return Ok(()) };
        failpoint::hit(failpoint::LAUNCH_BEFORE_CALL);
        tracing::info!(launch = %id, machines = record.request.max, "asking for machines");
        let answer = self.inner.provider.launch(&record.request).await;
        failpoint::hit(failpoint::LAUNCH_AFTER_CALL);
        // What was listed before the call says nothing about its machines.
        self.asked = None;
        match answer {
            Ok(instances) => self.store_answer(id, &instances),
            Err(error) => {
                tracing::warn!(launch = %id, %error, "launch failed");
                self.remember_failure(record, error);
                Ok(())
            }
        }
    }

    fn remember_failure(&self, launch: &LaunchRecord, error: crate::provider::ProviderError) {
        let mut memory = self.memory.lock();
        let attempts = memory.calls.get(&launch.id).map_or(0, |call| call.attempts) + 1;
        memory.calls.insert(launch.id.clone(), Call { error, at: now(), attempts });
    }

    fn store_answer(&self, launch: &LaunchId, instances: &[Instance]) -> Result<(), Error> {
        tracing::info!(launch = %launch, machines = instances.len(), "launch answered");
        self.inner.state.answer_launch(launch, instances, now())
    }

    fn set_ready(&self, intent: &Intent, observed: &Observed) -> Result<(), Error> {
        let timings = view::timings(intent, observed, now());
        tracing::info!(?timings, "cluster ready");
        self.inner.state.set_milestone(&self.cluster, &Milestone::Ready { timings })
    }

    fn tell(&self, observed: &Observed, instance: InstanceId, peers: Vec<Peer>) {
        let boot_id =
            observed.agents.get(&instance).map(|seen| seen.liveness.facts.boot_id.clone()).unwrap_or_default();
        let told = Told { peers: peers.clone(), boot_id, done: false };
        self.memory.lock().told.insert(instance.clone(), told);
        let (memory, board, registry) = (self.memory.clone(), self.board.clone(), self.inner.registry.clone());
        tokio::spawn(async move {
            let answer = registry.request(&instance, Request::SetPeers(peers.clone()), TELL_DEADLINE).await;
            if let Err(error) = &answer {
                tracing::warn!(%error, "node was not told its peers");
                tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
            }
            let mut memory = memory.lock();
            // Another list may have been sent meanwhile.
            if memory.told.get(&instance).is_some_and(|told| told.peers == peers) {
                match answer {
                    Ok(_) => memory.told.entry(instance).and_modify(|told| told.done = true),
                    Err(_) => return drop(memory.told.remove(&instance)),
                };
            }
            board.wake();
        });
    }

    fn drain(&self, instance: InstanceId, timeout: Duration) {
        self.memory.lock().drains.insert(instance.clone(), Drain::Asked);
        let (memory, board, registry) = (self.memory.clone(), self.board.clone(), self.inner.registry.clone());
        tokio::spawn(async move {
            let answer = registry.request(&instance, Request::Drain { timeout }, timeout + DRAIN_MARGIN).await;
            let outcome = match answer {
                Ok(_) | Err(crate::registry::RequestError::Gone(_)) => Drain::Done,
                Err(error) => Drain::Failed(error.to_string()),
            };
            // A refused or repeated destroy has forgotten this one.
            if let Some(drain) = memory.lock().drains.get_mut(&instance) {
                *drain = outcome;
            }
            board.wake();
        });
    }

    async fn terminate(&mut self, instances: &[InstanceId]) {
        tracing::info!(machines = instances.len(), "ending machines");
        if let Err(error) = self.inner.provider.terminate(instances).await {
            tracing::warn!(%error, "the cloud did not end machines");
        }
        self.asked = None;
        let mut memory = self.memory.lock();
        memory.terminations.extend(instances.iter().map(|instance| (instance.clone(), now())));
    }

    fn remove(&self, intent: &Intent, terminated: u32) -> Result<Pass, Error> {
        let nodes: Vec<_> = intent.nodes.iter().filter_map(|node| node.instance.clone()).collect();
        nodes.iter().for_each(|node| self.inner.registry.retire(node, "its cluster was destroyed"));
        self.inner.state.remove_cluster(&self.cluster)?;
        tracing::info!(terminated, "cluster destroyed");
        self.board.publish_end(view::proof(intent, terminated, &self.inner.place));
        Ok(Pass::Over)
    }
}

/// Before a node that refused is told again.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(1);
