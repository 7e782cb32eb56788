//! Launches: one file each, the whole of it on disk before the first of its instances exists.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::instance::random_suffix;
use super::{Fleet, Instance, InstanceId, LaunchSpec, Reservation, State, Table};
use crate::catalog;
use crate::durable::{self, Outlive};
use crate::layout::Layout;

/// A checked request for instances.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) spec: LaunchSpec,
    pub(crate) tags: BTreeMap<String, String>,
    /// Equal for equal requests: tells a repeated one from another one with the same client token.
    pub(crate) fingerprint: String,
}

/// Why there was no launch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The client token was used with another request.
    #[error("the client token was used with other arguments")]
    Mismatch,
    /// Fewer machines are left than the least that was asked for.
    #[error("{left} machines are left")]
    NoCapacity { left: u32 },
    /// Fewer addresses are free than the least that was asked for.
    #[error("{free} addresses are free")]
    NoAddresses { free: usize },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What is kept of a launch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Launch {
    fingerprint: String,
    client_token: Option<String>,
    /// As they were at the launch; forgotten ones are taken out.
    instances: Vec<Instance>,
}

/// What came of an order.
#[derive(Debug)]
pub(crate) struct Launched {
    /// All instances of the launch, as they are now.
    pub(crate) instances: Vec<Instance>,
    /// False when the launch had happened before.
    pub(crate) is_new: bool,
}

impl Fleet {
    /// Writes down the instances of a new launch, or finds the launch of the same client token.
    /// Machines are not started here.
    pub(crate) fn launch(&self, order: &Order, now: Timestamp) -> Result<Launched, LaunchError> {
        let mut table = self.table.lock();
        if let Some(launch) = repeated(&table, order) {
            let matches = launch.fingerprint == order.fingerprint;
            let instances = current(&table, launch);
            return if matches { Ok(Launched { instances, is_new: false }) } else { Err(LaunchError::Mismatch) };
        }
        let max = self.capacity(order, now)?;
        let addresses = self.addresses(&table, order.min, max)?;
        let reservation = Reservation {
            id: format!("r-{}", random_suffix()),
            launched_at: now,
            settled: self.faults.settle(now),
            spec: order.spec.clone(),
        };
        let instances = instances_at(&addresses, &reservation, order);
        let launch = Launch {
            fingerprint: order.fingerprint.clone(),
            client_token: order.spec.client_token.clone(),
            instances: instances.clone(),
        };
        durable::save(&self.layout.launch(&reservation.id), &launch, Outlive::Host)?;
        table.launches.insert(reservation.id, launch);
        for instance in &instances {
            self.save(instance)?;
            table.instances.insert(instance.id.clone(), instance.clone());
        }
        let ids: Vec<InstanceId> = instances.iter().map(|instance| instance.id.clone()).collect();
        self.faults.launched(catalog::ZONE, &order.spec.instance_type, &ids);
        Ok(Launched { instances, is_new: true })
    }

    /// How many machines there can be, up to the most that was asked for.
    fn capacity(&self, order: &Order, now: Timestamp) -> Result<u32, LaunchError> {
        let (zone, kind) = (catalog::ZONE, &order.spec.instance_type);
        let left = self.faults.capacity(zone, kind, order.max, now);
        if left < order.max {
            self.faults.note_shortage(zone, kind);
        }
        if left < order.min { Err(LaunchError::NoCapacity { left }) } else { Ok(left) }
    }

    /// As many free addresses as there can be, up to `max`; those never used come first.
    fn addresses(&self, table: &Table, min: u32, max: u32) -> Result<Vec<Ipv4Addr>, LaunchError> {
        let (ended, living): (Vec<&Instance>, Vec<&Instance>) =
            table.instances.values().partition(|instance| instance.state.is_terminated());
        let used: HashSet<Ipv4Addr> = living.iter().map(|instance| instance.address).collect();
        let stale: HashSet<Ipv4Addr> = ended.iter().map(|instance| instance.address).collect();
        let free = self.network.hosts().filter(|address| !used.contains(address));
        let (again, fresh): (Vec<Ipv4Addr>, Vec<Ipv4Addr>) = free.partition(|address| stale.contains(address));
        let found: Vec<Ipv4Addr> = fresh.into_iter().chain(again).take(max as usize).collect();
        if found.len() < min as usize { Err(LaunchError::NoAddresses { free: found.len() }) } else { Ok(found) }
    }

    /// Writes down instances that a launch promised before the process was killed.
    pub(super) fn finish_launches(&self) -> io::Result<()> {
        let mut table = self.table.lock();
        let promised: Vec<Instance> = table.launches.values().flat_map(|launch| launch.instances.clone()).collect();
        for instance in promised {
            if !table.instances.contains_key(&instance.id) {
                tracing::info!(instance = %instance.id, "finishing a launch");
                self.save(&instance)?;
                table.instances.insert(instance.id.clone(), instance);
            }
        }
        Ok(())
    }

    /// Takes an instance out of its launch; the launch goes with its last one.
    pub(super) fn forget_in_launch(&self, table: &mut Table, id: &InstanceId) -> io::Result<()> {
        let Some(reservation) = table.instances.get(id).map(|instance| instance.reservation.id.clone()) else {
            return Ok(());
        };
        let Some(launch) = table.launches.get_mut(&reservation) else { return Ok(()) };
        launch.instances.retain(|instance| &instance.id != id);
        let path = self.layout.launch(&reservation);
        if launch.instances.is_empty() {
            table.launches.remove(&reservation);
            return durable::remove_file(&path);
        }
        durable::save(&path, launch, Outlive::Process)
    }
}

pub(super) fn load_all(layout: &Layout) -> io::Result<BTreeMap<String, Launch>> {
    let mut launches = BTreeMap::new();
    for entry in std::fs::read_dir(layout.launches())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            // A launch that was being written when the process was killed: nobody was told of it.
            durable::remove_file(&path)?;
            continue;
        }
        let Some(launch) = durable::load::<Launch>(&path)? else { continue };
        if let Some(first) = launch.instances.first() {
            launches.insert(first.reservation.id.clone(), launch);
        }
    }
    Ok(launches)
}

fn repeated<'a>(table: &'a Table, order: &Order) -> Option<&'a Launch> {
    let token = order.spec.client_token.as_ref()?;
    table.launches.values().find(|launch| launch.client_token.as_ref() == Some(token))
}

fn current(table: &Table, launch: &Launch) -> Vec<Instance> {
    launch.instances.iter().filter_map(|instance| table.instances.get(&instance.id).cloned()).collect()
}

fn instances_at(addresses: &[Ipv4Addr], reservation: &Reservation, order: &Order) -> Vec<Instance> {
    let instance = |(index, address): (u32, &Ipv4Addr)| Instance {
        id: InstanceId::random(),
        reservation: reservation.clone(),
        index,
        address: *address,
        tags: order.tags.clone(),
        state: State::Pending,
    };
    (0..).zip(addresses).map(instance).collect()
}
