//! All instances of a cloud: what the EC2 API knows of them, kept in files before it is true.

mod instance;
mod launch;
pub(crate) mod supervisor;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

pub(crate) use instance::{
    Instance, InstanceId, LaunchSpec, MetadataOptions, OnShutdown, Reason, Reservation, State, Tokens,
};
pub(crate) use launch::{LaunchError, Order};

use crate::durable::{self, Outlive};
use crate::faults::Faults;
use crate::layout::Layout;
use crate::network::Cidr;

/// For how long a terminated instance stays listed.
const LISTED_AFTER_END: SignedDuration = SignedDuration::from_hours(1);

/// What makes and ends the machines behind the instances.
pub(crate) trait Machines: Send + Sync + std::fmt::Debug {
    /// Starts the machine of a new instance, or finds it running.
    fn start(&self, id: &InstanceId);
    /// Ends it; the instance is shutting down already.
    fn terminate(&self, id: &InstanceId);
    /// Reboots it.
    fn reboot(&self, id: &InstanceId);
}

/// The instances of one cloud.
#[derive(Debug)]
pub(crate) struct Fleet {
    layout: Layout,
    network: Cidr,
    faults: Arc<Faults>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    instances: BTreeMap<InstanceId, Instance>,
    /// By reservation id.
    launches: BTreeMap<String, launch::Launch>,
}

impl Fleet {
    /// Reads what earlier processes kept, and finishes launches whose instances were not all written down.
    pub(crate) fn open(layout: Layout, network: Cidr, faults: Arc<Faults>) -> io::Result<Self> {
        let table = Table { launches: launch::load_all(&layout)?, instances: load_instances(&layout)? };
        let fleet = Self { layout, network, faults, table: Mutex::new(table) };
        fleet.finish_launches()?;
        Ok(fleet)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn network(&self) -> Cidr {
        self.network
    }

    pub(crate) fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// Every instance, in no order that means anything; those too new to be listed as well.
    pub(crate) fn all(&self) -> Vec<Instance> {
        self.table.lock().instances.values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &InstanceId) -> Option<Instance> {
        self.table.lock().instances.get(id).cloned()
    }

    /// The instance that has that address now.
    pub(crate) fn by_address(&self, address: Ipv4Addr) -> Option<Instance> {
        let table = self.table.lock();
        table.instances.values().find(|found| found.address == address && !found.state.is_terminated()).cloned()
    }

    /// Changes one instance and keeps the change; what it was before, or none for an unknown one.
    pub(crate) fn update(&self, id: &InstanceId, change: impl FnOnce(&mut Instance)) -> io::Result<Option<Instance>> {
        let mut table = self.table.lock();
        let Some(before) = table.instances.get(id).cloned() else { return Ok(None) };
        let mut after = before.clone();
        change(&mut after);
        if after != before {
            self.save(&after)?;
            table.instances.insert(id.clone(), after);
        }
        Ok(Some(before))
    }

    /// Forgets instances that ended long ago, and launches none of whose instances are left.
    pub(crate) fn forget_old(&self, now: Timestamp) -> io::Result<()> {
        let mut table = self.table.lock();
        let is_old = |instance: &Instance| match &instance.state {
            State::Terminated { at, .. } => now.duration_since(*at) > LISTED_AFTER_END,
            _ => false,
        };
        let old: Vec<InstanceId> = table.instances.values().filter(|i| is_old(i)).map(|i| i.id.clone()).collect();
        for id in old {
            // The launch goes first: a launch without its instance would be finished again at the next start.
            self.forget_in_launch(&mut table, &id)?;
            durable::remove_tree(self.layout.machine(&id).root())?;
            table.instances.remove(&id);
        }
        Ok(())
    }

    fn save(&self, instance: &Instance) -> io::Result<()> {
        let dir = self.layout.machine(&instance.id);
        std::fs::create_dir_all(dir.root())?;
        // The launch is on disk already, and a machine does not outlive its host.
        durable::save(&dir.instance(), instance, Outlive::Process)
    }
}

/// Every instance whose record is in the directory.
pub(crate) fn load_instances(layout: &Layout) -> io::Result<BTreeMap<InstanceId, Instance>> {
    let mut found = BTreeMap::new();
    let entries = match std::fs::read_dir(layout.instances()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<InstanceId>().ok()) else { continue };
        if let Some(instance) = durable::load::<Instance>(&layout.machine(&id).instance())? {
            found.insert(id, instance);
        }
    }
    Ok(found)
}
