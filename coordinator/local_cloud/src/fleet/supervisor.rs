//! One task a machine: starts its keeper or finds it, follows it to its end, and cleans up behind it.

mod keeper;
mod mishaps;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Fleet, Instance, InstanceId, Machines, OnShutdown, Reason, State};
use crate::durable;
use crate::faults::{Boot, Deed};
use crate::layout::MachineDir;
use crate::machine::{End, KeeperStatus, MachineSpec, process};
use crate::network::{self, Names};
use keeper::Keeper;
use mishaps::Mishaps;

/// From the keeper's start until pid 1 runs.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// From SIGTERM to SIGKILL for a keeper; it needs some seconds itself to end its machine.
const END_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(25);
/// For the last processes of a machine after its pid 1 was killed.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);

/// What a machine is asked for; asking twice is asking once.
#[derive(Debug, Default)]
struct Requests {
    terminate: Notify,
    reboot: Notify,
}

/// What there is of a machine.
enum Found {
    Keeper(Keeper),
    Lost,
    /// A fault wants it so.
    MustNotBoot {
        pending: bool,
    },
}

/// Runs the machines of a fleet.
#[derive(Debug)]
pub(crate) struct Supervisor {
    fleet: Arc<Fleet>,
    names: Names,
    bridge: String,
    imds_endpoint: String,
    masks: Vec<PathBuf>,
    runtime: tokio::runtime::Handle,
    requests: Mutex<HashMap<InstanceId, Arc<Requests>>>,
}

impl Supervisor {
    pub(crate) fn new(fleet: Arc<Fleet>, names: Names, imds_endpoint: String, mut masks: Vec<PathBuf>) -> Arc<Self> {
        masks.push(fleet.layout().root().to_owned());
        Arc::new(Self {
            bridge: names.bridge(),
            fleet,
            names,
            imds_endpoint,
            masks,
            runtime: tokio::runtime::Handle::current(),
            requests: Mutex::default(),
        })
    }

    /// Takes up every machine that is not terminated: after a start of the cloud.
    pub(crate) fn resume(self: &Arc<Self>) {
        for instance in self.fleet.all() {
            match instance.state {
                State::Terminated { .. } | State::Stopped { .. } => {}
                State::ShuttingDown { .. } => {
                    self.follow(&instance.id).terminate.notify_one();
                }
                State::Pending | State::Running => drop(self.follow(&instance.id)),
            }
        }
    }

    /// The requests of the machine's task, which is started unless it runs.
    fn follow(self: &Arc<Self>, id: &InstanceId) -> Arc<Requests> {
        let mut all = self.requests.lock();
        if let Some(requests) = all.get(id) {
            return Arc::clone(requests);
        }
        let requests = Arc::new(Requests::default());
        all.insert(id.clone(), Arc::clone(&requests));
        let (supervisor, id, asked) = (Arc::clone(self), id.clone(), Arc::clone(&requests));
        self.runtime.spawn(async move {
            let end = supervisor.run(&id, &asked).await.unwrap_or_else(|error| End::Failed(format!("{error:#}")));
            if let Err(error) = supervisor.settle(&id, end).await {
                tracing::error!(instance = %id, error = format!("{error:#}"), "cannot clean up behind a machine");
            }
        });
        requests
    }

    /// From the start of the keeper to its end.
    async fn run(&self, id: &InstanceId, requests: &Requests) -> anyhow::Result<End> {
        let instance = self.fleet.get(id).context("no such instance")?;
        let dir = self.fleet.layout().machine(id);
        let mut mishaps =
            Mishaps::new(self.fleet.faults().clone(), self.spec_of(&instance), instance.state == State::Pending);
        let keeper = match self.keeper(&instance, &dir).await? {
            Found::Keeper(keeper) => keeper,
            Found::Lost => return Ok(lost(&dir)),
            Found::MustNotBoot { pending } => return self.never_boots(&instance, pending, requests).await,
        };
        let mut force_at = None;
        let mut is_up = instance.state == State::Running;
        let boot_by = Instant::now() + BOOT_LIMIT + until(instance.reservation.settled.runs_from);
        loop {
            // Not before it is up: a cable that is not there yet cannot be cut.
            let deed = if is_up { mishaps.look(id).await } else { None };
            match deed {
                Some(Deed::Die) => {
                    self.give_reason(id, Reason::internal("the machine failed (a fault was asked for)"))?;
                    keeper.signal(Signal::SIGKILL)?;
                }
                Some(Deed::Reboot { hard }) => keeper.signal(if hard { Signal::SIGUSR1 } else { Signal::SIGHUP })?,
                Some(Deed::Reclaim) => {
                    self.give_reason(id, Reason::reclaimed())?;
                    requests.terminate.notify_one();
                }
                None => {}
            }
            tokio::select! {
                ended = keeper.ended() => { ended?; return Ok(lost(&dir)); }
                () = requests.terminate.notified() => {
                    keeper.signal(Signal::SIGTERM)?;
                    force_at.get_or_insert(Instant::now() + END_LIMIT);
                }
                () = requests.reboot.notified() => keeper.signal(Signal::SIGHUP)?,
                () = sleep_until(force_at.unwrap_or(boot_by)), if force_at.is_some() || !is_up => {
                    tracing::warn!(instance = %id, is_up, "a machine is ended by force");
                    keeper.signal(Signal::SIGKILL)?;
                    force_at = Some(Instant::now() + END_LIMIT);
                }
                () = tokio::time::sleep(POLL), if !is_up => is_up = self.note_boot(id, &dir)?,
                () = mishaps.news(id), if is_up => {}
            }
        }
    }

    /// The keeper that runs, or a new one for a machine that has never had one.
    async fn keeper(&self, instance: &Instance, dir: &MachineDir) -> anyhow::Result<Found> {
        if let Some(keeper) = Keeper::find(dir).await? {
            return Ok(Found::Keeper(keeper));
        }
        let has_run = KeeperStatus::load(dir)?.is_some() || dir.upper().exists();
        let boot = self.fleet.faults().boot(&instance.id);
        match boot {
            Boot::Never { pending } if !has_run => return Ok(Found::MustNotBoot { pending }),
            _ if instance.state != State::Pending || has_run => return Ok(Found::Lost),
            _ => {}
        }
        MachineSpec { is_deaf: boot == Boot::Deaf, ..self.spec_of(instance) }.save(dir)?;
        Keeper::start(dir).await.map(Found::Keeper)
    }

    /// An instance without a machine: it can only be terminated.
    async fn never_boots(&self, instance: &Instance, pending: bool, requests: &Requests) -> anyhow::Result<End> {
        tracing::info!(instance = %instance.id, "fault strikes: the machine never boots");
        if !pending {
            tokio::time::sleep(until(instance.reservation.settled.runs_from)).await;
            self.set_running(&instance.id)?;
        }
        requests.terminate.notified().await;
        Ok(End::Terminated)
    }

    /// Has the instance end for that reason, whatever its machine says later.
    fn give_reason(&self, id: &InstanceId, reason: Reason) -> anyhow::Result<()> {
        tracing::info!(instance = %id, reason = reason.code, "fault strikes");
        self.fleet.update(id, |instance| {
            if matches!(instance.state, State::Pending | State::Running) {
                instance.state = State::ShuttingDown { reason };
            }
        })?;
        Ok(())
    }

    fn spec_of(&self, instance: &Instance) -> MachineSpec {
        let network = self.fleet.network();
        MachineSpec {
            host_name: instance.host_name(),
            address: instance.address,
            prefix: network.prefix(),
            bridge: self.bridge.clone(),
            netns: self.names.netns(&instance.id),
            veth: self.names.veth(network.host_part(instance.address)),
            imds_endpoint: self.imds_endpoint.clone(),
            masks: self.masks.clone(),
            is_deaf: false,
        }
    }

    /// Says that the instance runs, once its pid 1 does and it has been pending for long enough.
    fn note_boot(&self, id: &InstanceId, dir: &MachineDir) -> anyhow::Result<bool> {
        let now = Timestamp::now();
        let may_run = self.fleet.get(id).is_none_or(|instance| now >= instance.reservation.settled.runs_from);
        let is_up = may_run && KeeperStatus::load(dir)?.is_some_and(|status| status.boots > 0);
        if is_up {
            self.set_running(id)?;
            self.fleet.faults().booted(id, now);
        }
        Ok(is_up)
    }

    fn set_running(&self, id: &InstanceId) -> anyhow::Result<()> {
        self.fleet.update(id, |instance| {
            if instance.state == State::Pending {
                instance.state = State::Running;
            }
        })?;
        Ok(())
    }

    /// After the keeper's end: the instance's state says so, and of its machine nothing is left.
    async fn settle(&self, id: &InstanceId, end: End) -> anyhow::Result<()> {
        tracing::info!(instance = %id, ?end, "machine ended");
        let now = Timestamp::now();
        self.fleet.update(id, |instance| instance.state = ending(instance, &end))?;
        let instance = self.fleet.get(id).context("no such instance")?;
        let (spec, dir) = (self.spec_of(&instance), self.fleet.layout().machine(id));
        let keep_disk = matches!(instance.state, State::Stopped { .. });
        match tokio::task::spawn_blocking(move || clean_up(&spec, &dir, keep_disk)).await {
            // The cloud is ending: the next one cleans up.
            Err(error) if error.is_cancelled() => return Ok(()),
            result => result??,
        }
        self.requests.lock().remove(id);
        self.fleet.faults().ended(id);
        self.fleet.update(id, |instance| {
            if let State::ShuttingDown { reason } = &instance.state {
                instance.state = State::Terminated { at: now, reason: reason.clone() };
            }
        })?;
        Ok(())
    }
}

/// The state an instance goes to when its machine has ended.
fn ending(instance: &Instance, end: &End) -> State {
    match (&instance.state, end) {
        (State::ShuttingDown { reason }, _) => State::ShuttingDown { reason: reason.clone() },
        (_, End::PoweredOff) if instance.spec().on_shutdown == OnShutdown::Stop => {
            State::Stopped { reason: Reason::by_instance() }
        }
        (_, End::PoweredOff) => State::ShuttingDown { reason: Reason::by_instance() },
        (_, End::Terminated) => State::ShuttingDown { reason: Reason::by_user() },
        (_, End::Failed(why)) => State::ShuttingDown { reason: Reason::internal(why) },
    }
}

/// How long it is until then.
fn until(then: Timestamp) -> Duration {
    then.duration_since(Timestamp::now()).try_into().unwrap_or_default()
}

/// What a keeper that is gone said last.
fn lost(dir: &MachineDir) -> End {
    match KeeperStatus::load(dir) {
        Ok(Some(KeeperStatus { end: Some(end), .. })) => end,
        _ => End::Failed("the keeper of the machine died".to_owned()),
    }
}

fn clean_up(spec: &MachineSpec, dir: &MachineDir, keep_disk: bool) -> anyhow::Result<()> {
    let is_empty = process::kill_inside(&network::netns_path(&spec.netns), EMPTY_LIMIT)?;
    anyhow::ensure!(is_empty, "processes of the machine do not end");
    network::unplug(&spec.netns, &spec.veth)?;
    if !keep_disk {
        for tree in [dir.upper(), dir.work(), dir.mount_point()] {
            durable::remove_tree(&tree)?;
        }
    }
    Ok(())
}

/// The supervisor as the API sees it.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Arc<Supervisor>);

impl Machines for Running {
    fn start(&self, id: &InstanceId) {
        self.0.follow(id);
    }

    fn terminate(&self, id: &InstanceId) {
        // A stopped machine has no task; one that finds no keeper cleans up.
        self.0.follow(id).terminate.notify_one();
    }

    fn reboot(&self, id: &InstanceId) {
        self.0.follow(id).reboot.notify_one();
    }
}
