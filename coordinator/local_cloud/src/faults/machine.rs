//! Faults of one machine: it never boots or joins, dies, reboots, is reclaimed or cut off.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Fault, FaultId, Faults, Keep, Kind};
use crate::fleet::InstanceId;

/// One machine and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineFault {
    pub(crate) target: Target,
    pub(crate) mishap: Mishap,
    /// From the fault's order, or from the boot of a machine that was still to be launched.
    pub(crate) after_ms: u32,
    pub(crate) progress: Progress,
}

/// Which machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// The nth that is launched from now on, counted from 1.
    Launch {
        nth: u32,
    },
    Instance {
        id: InstanceId,
    },
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mishap {
    /// Nothing ever runs in it; the EC2 API says `running`, or `pending` for ever.
    NeverBoots { pending: bool },
    /// It boots and does not run its user-data.
    NeverJoins,
    /// It is gone from one moment to the next.
    Dies,
    /// Politely, or as after a power failure.
    Reboots { hard: bool },
    /// As AWS takes spot machines back: a notice, then the end.
    Spot { notice_ms: u32 },
    /// Packets vanish, until the fault is cleared or the time is over.
    Cut { from: Cut, for_ms: Option<u32> },
}

/// From whom a machine is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cut {
    /// From everybody: coordinator, S3, metadata service and the other machines.
    All,
    /// From the other machines only.
    Nodes,
}

/// How far a fault has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub(crate) enum Progress {
    /// Its machine or its time has not come; no time is set before the machine has booted.
    Waiting {
        due: Option<Timestamp>,
    },
    /// It goes on until then, or until it is cleared.
    Striking {
        until: Option<Timestamp>,
    },
    Done,
}

impl Progress {
    /// When it goes to its next stage by itself.
    fn next(&self) -> Option<Timestamp> {
        match self {
            Self::Waiting { due } => *due,
            Self::Striking { until } => *until,
            Self::Done => None,
        }
    }
}

/// What a machine is to do when it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boot {
    Whole,
    /// It does not run its user-data.
    Deaf,
    /// Nothing is to run.
    Never {
        pending: bool,
    },
}

/// What a machine's task must do now, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Die,
    Reboot {
        hard: bool,
    },
    /// The notice is over.
    Reclaim,
}

/// What to do, for which fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) fault: FaultId,
    pub(crate) deed: Deed,
}

impl fmt::Display for MachineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Launch { nth: 1 } => write!(f, "the next machine launched ")?,
            Target::Launch { nth } => write!(f, "machine {nth} of those launched next ")?,
            Target::Instance { id } => write!(f, "{id} ")?,
        }
        match self.mishap {
            Mishap::NeverBoots { pending: false } => write!(f, "never boots"),
            Mishap::NeverBoots { pending: true } => write!(f, "never boots and stays pending"),
            Mishap::NeverJoins => write!(f, "boots and does not run its user-data"),
            Mishap::Dies => write!(f, "dies"),
            Mishap::Reboots { hard: false } => write!(f, "reboots"),
            Mishap::Reboots { hard: true } => write!(f, "reboots without shutting down"),
            Mishap::Spot { notice_ms } => write!(f, "is reclaimed, {notice_ms} ms after a notice"),
            Mishap::Cut { from: Cut::All, .. } => write!(f, "is cut off"),
            Mishap::Cut { from: Cut::Nodes, .. } => write!(f, "is cut off from the other machines"),
        }?;
        if self.after_ms > 0 {
            write!(f, ", after {} ms", self.after_ms)?;
        }
        match self.mishap {
            Mishap::Cut { for_ms: Some(ms), .. } => write!(f, ", for {ms} ms"),
            _ => Ok(()),
        }
    }
}

impl MachineFault {
    /// A new one; a fault of a machine that is there has its time at once.
    pub(crate) fn new(target: Target, mishap: Mishap, after_ms: u32, now: Timestamp) -> Self {
        let due = matches!(target, Target::Instance { .. }).then(|| later(now, after_ms));
        Self { target, mishap, after_ms, progress: Progress::Waiting { due } }
    }

    fn is_of(&self, id: &InstanceId) -> bool {
        matches!(&self.target, Target::Instance { id: named } if named == id)
    }

    /// Goes on by one stage, whose time has come; what is to be done.
    fn advance(&mut self, now: Timestamp) -> Option<Deed> {
        let (progress, deed) = match (&self.progress, self.mishap) {
            (Progress::Waiting { .. }, Mishap::Dies) => (Progress::Done, Some(Deed::Die)),
            (Progress::Waiting { .. }, Mishap::Reboots { hard }) => (Progress::Done, Some(Deed::Reboot { hard })),
            (Progress::Waiting { .. }, Mishap::Spot { notice_ms }) => {
                (Progress::Striking { until: Some(later(now, notice_ms)) }, None)
            }
            (Progress::Striking { .. }, Mishap::Spot { .. }) => (Progress::Done, Some(Deed::Reclaim)),
            (Progress::Waiting { .. }, Mishap::Cut { for_ms, .. }) => {
                (Progress::Striking { until: for_ms.map(|ms| later(now, ms)) }, None)
            }
            // For a boot it is too late.
            (_, Mishap::NeverBoots { .. } | Mishap::NeverJoins | Mishap::Cut { .. }) | (Progress::Done, _) => {
                (Progress::Done, None)
            }
            (Progress::Striking { .. }, Mishap::Dies | Mishap::Reboots { .. }) => (Progress::Done, None),
        };
        self.progress = progress;
        deed
    }
}

fn later(now: Timestamp, ms: u32) -> Timestamp {
    now + SignedDuration::from_millis(i64::from(ms))
}

impl Faults {
    /// How the machine is to boot: asked once, before its first boot.
    pub(crate) fn boot(&self, id: &InstanceId) -> Boot {
        self.change(|table| {
            for (fault, machine) in of(&mut table.book.faults, id) {
                let boot = match machine.mishap {
                    _ if machine.progress == Progress::Done => continue,
                    Mishap::NeverBoots { pending } => Boot::Never { pending },
                    Mishap::NeverJoins => Boot::Deaf,
                    _ => continue,
                };
                machine.progress = Progress::Striking { until: None };
                *fault = 1;
                return (boot, Keep::Yes);
            }
            (Boot::Whole, Keep::No)
        })
    }

    /// Notes that the machine has booted: from now on the time of its faults runs.
    pub(crate) fn booted(&self, id: &InstanceId, now: Timestamp) {
        self.change(|table| {
            let mut keep = Keep::No;
            for (_, machine) in of(&mut table.book.faults, id) {
                if machine.progress == (Progress::Waiting { due: None }) {
                    machine.progress = Progress::Waiting { due: Some(later(now, machine.after_ms)) };
                    keep = Keep::Yes;
                }
            }
            ((), keep)
        });
    }

    /// What the machine's task must do now; none: nothing before `next_moment`.
    pub(crate) fn due(&self, id: &InstanceId, now: Timestamp) -> Option<Due> {
        self.change(|table| {
            let mut keep = Keep::No;
            for fault in &mut table.book.faults {
                let Kind::Machine(machine) = &mut fault.kind else { continue };
                while machine.is_of(id) && machine.progress.next().is_some_and(|next| next <= now) {
                    let deed = machine.advance(now);
                    (fault.asked, fault.struck, keep) = (1, 1, Keep::Yes);
                    if let Some(deed) = deed {
                        return (Some(Due { fault: fault.id, deed }), keep);
                    }
                }
            }
            (None, keep)
        })
    }

    /// When to ask for what is due again, unless there are changes before.
    pub(crate) fn next_moment(&self, id: &InstanceId) -> Option<Timestamp> {
        let mut table = self.table.lock();
        of(&mut table.book.faults, id).filter_map(|(_, machine)| machine.progress.next()).min()
    }

    /// From whom the machine is cut off now; the worse of two cuts.
    pub(crate) fn cut(&self, id: &InstanceId) -> Option<Cut> {
        let mut table = self.table.lock();
        let cuts =
            of(&mut table.book.faults, id).filter_map(|(_, machine)| match (&machine.progress, machine.mishap) {
                (Progress::Striking { .. }, Mishap::Cut { from, .. }) => Some(from),
                _ => None,
            });
        cuts.max_by_key(|cut| *cut == Cut::All)
    }

    /// When the machine is to be reclaimed, once it has been given notice.
    pub(crate) fn spot_notice(&self, id: &InstanceId) -> Option<Timestamp> {
        let mut table = self.table.lock();
        of(&mut table.book.faults, id).find_map(|(_, machine)| match (&machine.progress, machine.mishap) {
            (Progress::Striking { until }, Mishap::Spot { .. }) => *until,
            _ => None,
        })
    }

    /// Notes that the machine has ended, and its faults with it.
    pub(crate) fn ended(&self, id: &InstanceId) {
        self.change(|table| {
            let mut keep = Keep::No;
            for (_, machine) in of(&mut table.book.faults, id) {
                machine.progress = Progress::Done;
                keep = Keep::Yes;
            }
            ((), keep)
        });
    }
}

/// The faults of one machine, each with its count of strikes.
fn of<'a>(faults: &'a mut [Fault], id: &InstanceId) -> impl Iterator<Item = (&'a mut u64, &'a mut MachineFault)> {
    faults.iter_mut().filter_map(move |fault| match &mut fault.kind {
        Kind::Machine(machine) if machine.is_of(id) => Some((&mut fault.struck, machine)),
        _ => None,
    })
}
