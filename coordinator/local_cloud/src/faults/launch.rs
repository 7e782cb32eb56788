//! Faults of launches: too few machines, and machines that are slow to be listed and to run.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Faults, Keep, Kind, MachineFault, Progress, Target};
use crate::fleet::InstanceId;

/// So many machines are left, and no more until the fault is cleared; ended ones do not come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Capacity {
    pub(crate) left: u32,
    pub(crate) zone: Option<String>,
    pub(crate) instance_type: Option<String>,
}

impl Capacity {
    fn concerns(&self, zone: &str, instance_type: &str) -> bool {
        let names = |wanted: &Option<String>, given: &str| wanted.as_deref().is_none_or(|wanted| wanted == given);
        names(&self.zone, zone) && names(&self.instance_type, instance_type)
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.instance_type.as_deref().unwrap_or("any type");
        let zone = self.zone.as_deref().unwrap_or("any zone");
        write!(f, "{} more machines of {kind} in {zone}", self.left)
    }
}

/// How long new instances take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settle {
    /// For so long nothing but the launch's answer knows of them.
    pub(crate) hidden_ms: u32,
    /// For so long at least they are pending.
    pub(crate) pending_ms: u32,
}

impl fmt::Display for Settle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "new instances are not listed for {} ms and pending for {} ms", self.hidden_ms, self.pending_ms)
    }
}

/// When the instances of a launch are listed, and when they may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settled {
    pub(crate) listed_from: Timestamp,
    pub(crate) runs_from: Timestamp,
}

impl Settle {
    fn from(self, now: Timestamp) -> Settled {
        let after = |ms: u32| now + SignedDuration::from_millis(i64::from(ms));
        Settled { listed_from: after(self.hidden_ms), runs_from: after(self.pending_ms) }
    }
}

impl Faults {
    /// How many of `max` machines a launch may have.
    pub(crate) fn capacity(&self, zone: &str, instance_type: &str, max: u32, now: Timestamp) -> u32 {
        let table = self.table.lock();
        let limits =
            table.book.faults.iter().filter(|fault| !fault.is_over(now)).filter_map(|fault| match &fault.kind {
                Kind::Capacity(capacity) if capacity.concerns(zone, instance_type) => Some(capacity.left),
                _ => None,
            });
        limits.fold(max, u32::min)
    }

    /// Counts a launch that was short of machines.
    pub(crate) fn note_shortage(&self, zone: &str, instance_type: &str) {
        self.change(|table| {
            for fault in &mut table.book.faults {
                let Kind::Capacity(capacity) = &fault.kind else { continue };
                if capacity.concerns(zone, instance_type) {
                    fault.asked += 1;
                    fault.struck += 1;
                }
            }
            ((), Keep::Yes)
        });
    }

    /// Notes a new launch: its machines are taken from what is left, and faults that wait for one of them are bound to
    /// it. `instances` are in order of their launch index.
    pub(crate) fn launched(&self, zone: &str, instance_type: &str, instances: &[InstanceId]) {
        let count = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        self.change(|table| {
            let mut keep = Keep::No;
            for fault in &mut table.book.faults {
                match &mut fault.kind {
                    Kind::Capacity(capacity) if capacity.concerns(zone, instance_type) => {
                        capacity.left = capacity.left.saturating_sub(count);
                        keep = Keep::Yes;
                    }
                    Kind::Machine(fault) => keep = if bind(fault, instances) { Keep::Yes } else { keep },
                    _ => {}
                }
            }
            ((), keep)
        });
    }

    /// When the instances of a launch made now are listed and may run.
    pub(crate) fn settle(&self, now: Timestamp) -> Settled {
        self.change(|table| {
            for fault in &mut table.book.faults {
                let Kind::Settle(settle) = fault.kind else { continue };
                if fault.strikes(now) {
                    return (settle.from(now), Keep::after(fault));
                }
            }
            (self.settle.from(now), Keep::No)
        })
    }
}

/// Counts a waiting fault down; whether it changed.
fn bind(fault: &mut MachineFault, instances: &[InstanceId]) -> bool {
    let Target::Launch { nth } = fault.target else { return false };
    let index = usize::try_from(nth.saturating_sub(1)).unwrap_or(usize::MAX);
    fault.target = match instances.get(index) {
        Some(id) => Target::Instance { id: id.clone() },
        None => Target::Launch { nth: nth - u32::try_from(instances.len()).unwrap_or(nth - 1) },
    };
    fault.progress = Progress::Waiting { due: None };
    true
}
