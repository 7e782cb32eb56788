//! Faults on request: what goes wrong, where, and how often.
//!
//! Every edge of the cloud asks here, in one place each, what is to go wrong now: the EC2 API before it answers, a launch
//! before it takes machines, a machine's task while it runs, the metadata service when it is asked for a spot notice, and
//! S3 before and after a request. Nothing goes wrong by itself: an empty table is a cloud that works.
//!
//! The table is in `faults.json`, written before a change of it is acted on, so that a cloud that is started again goes
//! on with the same faults. Chance is drawn from a seed and a running number: the same requests meet the same faults.

pub(crate) mod admin;
mod bounds;
mod ec2;
mod kind;
mod launch;
mod machine;
mod s3;
mod throttle;

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(crate) use bounds::{Bounds, Chance};
pub(crate) use ec2::{Ec2Failure, Ec2Fault, Effect};
pub(crate) use kind::{FaultId, Kind};
pub(crate) use launch::{Capacity, Settle, Settled};
pub(crate) use machine::{Boot, Cut, Deed, MachineFault, Mishap, Progress, Target};
pub(crate) use s3::{S3Effect, S3Failure, S3Fault};
pub(crate) use throttle::{Rate, Throttle};

use crate::durable::{self, Outlive};
use throttle::Buckets;

/// More would be a mistake, and every request looks at all of them.
const COUNT_LIMIT: usize = 1000;

/// One fault that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) id: FaultId,
    #[serde(flatten)]
    pub(crate) kind: Kind,
    pub(crate) bounds: Bounds,
    /// How often it could have struck, and how often it did.
    pub(crate) asked: u64,
    pub(crate) struck: u64,
}

impl Fault {
    /// Whether it strikes now; counted either way.
    fn strikes(&mut self, now: Timestamp) -> bool {
        if self.bounds.is_over(self.struck, now) {
            return false;
        }
        self.asked += 1;
        let strikes = self.bounds.admits(self.asked);
        self.struck += u64::from(strikes);
        strikes
    }

    /// Whether it can never strike again.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        match &self.kind {
            Kind::Machine(fault) => fault.progress == Progress::Done,
            _ => self.bounds.is_over(self.struck, now),
        }
    }
}

/// Why a fault was not added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddError {
    #[error("there are {COUNT_LIMIT} faults already; remove some with `ec2mpi cloud fault clear`")]
    TooMany,
    #[error("the faults cannot be written down: {0}")]
    Io(#[from] io::Error),
}

/// What is kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Book {
    last_id: u32,
    faults: Vec<Fault>,
}

#[derive(Debug)]
struct Table {
    book: Book,
    buckets: Buckets,
}

/// The faults of one cloud.
#[derive(Debug)]
pub(crate) struct Faults {
    file: PathBuf,
    table: Mutex<Table>,
    /// Counts changes that a machine's task must look at.
    changes: watch::Sender<u64>,
    /// What every launch gets where no fault says otherwise.
    settle: Settle,
}

impl Faults {
    /// Reads what earlier processes kept.
    pub(crate) fn open(file: PathBuf, settle: Settle) -> io::Result<Self> {
        let book = durable::load(&file)?.unwrap_or_default();
        let table = Mutex::new(Table { book, buckets: Buckets::default() });
        Ok(Self { file, table, changes: watch::Sender::new(0), settle })
    }

    /// Adds a fault, which is in force when this returns.
    pub(crate) fn add(&self, kind: Kind, bounds: Bounds) -> Result<Fault, AddError> {
        let mut table = self.table.lock();
        if table.book.faults.len() >= COUNT_LIMIT {
            return Err(AddError::TooMany);
        }
        let mut book = table.book.clone();
        book.last_id += 1;
        let fault = Fault { id: FaultId(book.last_id), kind, bounds, asked: 0, struck: 0 };
        book.faults.push(fault.clone());
        self.save(&book)?;
        table.book = book;
        drop(table);
        tracing::info!(fault = %fault.id, kind = ?fault.kind, "fault added");
        self.announce();
        Ok(fault)
    }

    /// All of them, those that are over included, oldest first.
    pub(crate) fn list(&self) -> Vec<Fault> {
        self.table.lock().book.faults.clone()
    }

    /// Removes faults, or all of them when none is named; those that were there. What they did to machines is not
    /// undone, but a cable that was cut is joined again.
    pub(crate) fn clear(&self, ids: &[FaultId]) -> io::Result<Vec<Fault>> {
        let mut table = self.table.lock();
        let is_meant = |fault: &Fault| ids.is_empty() || ids.contains(&fault.id);
        let (gone, kept): (Vec<Fault>, Vec<Fault>) = table.book.faults.iter().cloned().partition(is_meant);
        let book = Book { last_id: table.book.last_id, faults: kept };
        self.save(&book)?;
        table.book = book;
        drop(table);
        tracing::info!(count = gone.len(), "faults cleared");
        self.announce();
        Ok(gone)
    }

    /// Tells of every change of the table that a machine's task must look at.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn announce(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes the table and keeps it when `change` says that what is kept has changed. A file that cannot be written
    /// is said in the log: the fault strikes all the same.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> (T, Keep)) -> T {
        let mut table = self.table.lock();
        let (result, keep) = change(&mut table);
        if keep == Keep::Yes
            && let Err(error) = self.save(&table.book)
        {
            tracing::error!(%error, "the faults cannot be written down");
        }
        result
    }

    fn save(&self, book: &Book) -> io::Result<()> {
        durable::save(&self.file, book, Outlive::Process)
    }
}

/// Whether the file must follow a change. Mere counts are written with the next change that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Yes,
    No,
}

impl Keep {
    /// A strike matters to the file where strikes are counted or drawn.
    fn after(fault: &Fault) -> Self {
        if fault.bounds.is_counted() { Self::Yes } else { Self::No }
    }
}

#[cfg(test)]
mod tests;
