//! The host's limits as a user sees them, in `/proc/sys`.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::host;
use crate::wait::{seconds, until};

/// Those that a hundred machines overflow where they are left at what Linux gives to a small host.
const NAMES: [&str; 7] = [
    "net/ipv4/neigh/default/gc_thresh1",
    "net/ipv4/neigh/default/gc_thresh2",
    "net/ipv4/neigh/default/gc_thresh3",
    "kernel/pid_max",
    "kernel/threads-max",
    "fs/inotify/max_user_instances",
    "fs/pipe-user-pages-soft",
];

/// Each machine is a neighbour of each other one: this many at least must fit, which is more than Linux's 1024.
const NEIGHBOURS: u64 = 32_768;

/// What the limits are without a cloud.
#[derive(Debug)]
pub struct Limits(BTreeMap<String, u64>);

impl Limits {
    /// As they are now; where a cloud runs on this host already, as that one found them.
    ///
    /// # Panics
    /// When the memory of a cloud is not what clouds write.
    pub fn before_any_cloud() -> Self {
        let mut limits = now();
        let memory = fs::read_to_string("/run/ec2mpi-limits.json").ok();
        let memory: Value = memory.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        for (name, change) in memory.as_object().into_iter().flatten() {
            if let Some(limit) = limits.get_mut(name) {
                *limit = change["before"].as_u64().expect("a change says what was before");
            }
        }
        Self(limits)
    }

    /// That many machines fit now, and no limit is lower than it was.
    ///
    /// # Panics
    /// When it is not so.
    #[track_caller]
    pub fn are_raised(&self) {
        let now = now();
        assert!(now["net/ipv4/neigh/default/gc_thresh3"] >= NEIGHBOURS, "{now:?}");
        assert!(now.iter().all(|(name, value)| *value >= self.0[name]), "{now:?} after {:?}", self.0);
    }

    /// That all is as it was, once no cloud is left on this host; as long as there is one, that all is raised.
    ///
    /// # Panics
    /// When it is not so within 20 seconds.
    #[track_caller]
    pub fn are_back(&self) {
        let what = format!("the limits come back to {:?}", self.0);
        let others = until(seconds(20), &what, || {
            let others = host::interfaces("e2m");
            let now = now();
            let raised = now["net/ipv4/neigh/default/gc_thresh3"] >= NEIGHBOURS;
            let right = if others.is_empty() { now == self.0 } else { raised };
            right.then_some(others)
        });
        let kept = if others.is_empty() { "are back".to_owned() } else { format!("stay raised for {others:?}") };
        println!("limits of the host {kept}");
    }
}

fn now() -> BTreeMap<String, u64> {
    NAMES.iter().filter_map(|name| Some(((*name).to_owned(), read(name)?))).collect()
}

fn read(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}
