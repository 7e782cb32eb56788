//! The faults of one running machine: what is due is done, its cable is as it should be.

use std::sync::Arc;

use tokio::sync::watch;

use super::until;
use crate::faults::{Cut, Deed, Faults};
use crate::fleet::InstanceId;
use crate::machine::MachineSpec;
use crate::network;

/// Follows the faults of one machine.
pub(super) struct Mishaps {
    faults: Arc<Faults>,
    changes: watch::Receiver<u64>,
    spec: MachineSpec,
    /// How the cable is; unknown for a machine that was found running.
    cable: Option<Option<Cut>>,
}

impl Mishaps {
    pub(super) fn new(faults: Arc<Faults>, spec: MachineSpec, is_new: bool) -> Self {
        Self { changes: faults.changes(), faults, spec, cable: is_new.then_some(None) }
    }

    /// Cuts or joins the cable as it should be now; what else is due.
    pub(super) async fn look(&mut self, id: &InstanceId) -> Option<Deed> {
        self.changes.mark_unchanged();
        let due = self.faults.due(id, jiff::Timestamp::now());
        if let Some(due) = due {
            tracing::info!(instance = %id, fault = %due.fault, deed = ?due.deed, "fault strikes");
        }
        let wanted = self.faults.cut(id);
        if self.cable != Some(wanted) {
            self.connect(id, wanted).await;
        }
        due.map(|due| due.deed)
    }

    async fn connect(&mut self, id: &InstanceId, wanted: Option<Cut>) {
        tracing::info!(instance = %id, cut = ?wanted, "the machine's cable is set");
        let spec = self.spec.clone();
        let done = tokio::task::spawn_blocking(move || network::connect(&spec.port(), wanted)).await;
        // Not tried again: most likely the machine is ending.
        if let Ok(Err(error)) = done {
            tracing::error!(instance = %id, %error, "the machine's cable is not set");
        }
        self.cable = Some(wanted);
    }

    /// Returns when there may be something to do.
    pub(super) async fn news(&mut self, id: &InstanceId) {
        let pause = self.faults.next_moment(id).map(until);
        let moment = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = moment => {}
            // The faults outlive every machine's task.
            _ = self.changes.changed() => {}
        }
    }
}
