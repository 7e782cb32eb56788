//! Pure: from samples to rows, from rows to JSON and to a table.

mod markdown;
pub(crate) mod need;
mod rows;
mod verdict;

pub(crate) use self::markdown::markdown;
pub(crate) use self::rows::{Planned, Report, rows};

use ec2mpi_tests::lab::Traffic;

use crate::server::Setting;
use crate::works::Name;

/// One measurement of one row.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) setting: Setting,
    /// The row's id.
    pub(crate) work: &'static str,
    pub(crate) system: Name,
    /// Samples of the same number were taken side by side.
    pub(crate) pair: usize,
    /// What it was, or why there is nothing.
    pub(crate) value: Result<f64, String>,
    /// MiB, files or calls that were done.
    pub(crate) amount: f64,
    /// It did fewer than others, or was stopped before it was through.
    pub(crate) fewer: bool,
    /// Seconds of the measurement with everything around it.
    pub(crate) turn: f64,
    /// Seconds of processor time of the daemon.
    pub(crate) cpu: f64,
    /// Its peak of resident memory.
    pub(crate) peak_mib: f64,
    pub(crate) traffic: Traffic,
}
