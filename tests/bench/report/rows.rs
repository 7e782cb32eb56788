//! Rows: one a setting, work and system.

use std::collections::BTreeMap;

use ec2mpi_tests::lab::Traffic;
use serde::Serialize;

use super::Sample;
use super::verdict::Verdict;
use crate::scenes::{CPU, PEAK};
use crate::server::Setting;
use crate::stats::{Ratio, paired, spread};
use crate::systems::Promise;
use crate::works::{Name, Row, Unit};

/// Everything that a run has to say.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What it was measured on and under.
    pub(crate) machine: String,
    pub(crate) command: String,
    pub(crate) seconds: f64,
    /// Everything was played that there was time for; otherwise it was stopped, or still runs.
    pub(crate) finished: bool,
    pub(crate) sizes: crate::works::Sizes,
    pub(crate) promises: BTreeMap<&'static str, Promise>,
    pub(crate) rows: Vec<Line>,
}

/// A row that is to be measured, and why it is not if it is not.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) setting: Setting,
    pub(crate) row: Row,
    pub(crate) system: Name,
    pub(crate) missing: String,
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) setting: Setting,
    pub(crate) work: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    pub(crate) system: Name,
    pub(crate) samples: usize,
    pub(crate) median: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    /// Why there is no value, where it was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) missing: Option<String>,
    /// What failed, where something did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Files or calls where it did fewer than the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fewer: Option<f64>,
    /// How many times as fast as those.
    pub(crate) ratio_to_s3fs: Option<Ratio>,
    pub(crate) ratio_to_best_peer: Option<Ratio>,
    pub(crate) best_peer: Option<Name>,
    pub(crate) ratio_to_limit: Option<Ratio>,
    pub(crate) ratio_to_native: Option<Ratio>,
    /// Why others are expected to be faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<&'static str>,
    /// Of the first sample, until everything was sent.
    pub(crate) requests: Option<Traffic>,
    /// What S3 would ask for a thousand times that, in US dollars.
    pub(crate) bill_usd_per_1000: Option<f64>,
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) peak_rss_mib: Option<f64>,
    /// Of a measurement with everything around it, in the middle.
    pub(crate) turn_seconds: Option<f64>,
    pub(crate) promise: Option<Promise>,
    pub(crate) targets: Vec<Verdict>,
}

/// Rows of everything that was planned, in that order, and then of the daemons.
pub(crate) fn rows(samples: &[Sample], planned: &[Planned], promises: &BTreeMap<Name, Promise>) -> Vec<Line> {
    let mut settings: Vec<Setting> = Vec::new();
    for plan in planned {
        if !settings.contains(&plan.setting) {
            settings.push(plan.setting);
        }
    }
    let mut lines = Vec::new();
    for setting in settings {
        let own: Vec<&Sample> = samples.iter().filter(|sample| sample.setting == setting).collect();
        for plan in planned.iter().filter(|plan| plan.setting == setting) {
            let group = Group::new(&plan.row, &own);
            lines.push(group.line(setting, plan.system, promises, Some(&plan.missing)));
        }
        let daemons = of_daemons(&own);
        let daemons: Vec<&Sample> = daemons.iter().collect();
        for row in [&PEAK, &CPU] {
            let group = Group::new(row, &daemons);
            let names = Name::ALL.into_iter().filter(|name| group.of(*name).next().is_some());
            lines.extend(names.map(|name| group.line(setting, name, promises, None)));
        }
    }
    lines
}

/// What all works together say of a daemon.
fn of_daemons(samples: &[&Sample]) -> Vec<Sample> {
    let mut made = Vec::new();
    for name in Name::ALL {
        let own: Vec<&&Sample> =
            samples.iter().filter(|sample| sample.system == name && sample.peak_mib > 0.0).collect();
        let Some(first) = own.first() else { continue };
        let peak = own.iter().map(|sample| sample.peak_mib).fold(0.0, f64::max);
        let moved =
            own.iter().filter(|sample| ["cold-read", "write-fsync"].contains(&sample.work) && sample.value.is_ok());
        let (cpu, amount) = moved.fold((0.0, 0.0), |(cpu, amount), sample| (cpu + sample.cpu, amount + sample.amount));
        let sample =
            |work, value| Sample { work, value: Ok(value), pair: 0, fewer: false, cpu: 0.0, ..(**first).clone() };
        made.push(sample(PEAK.id, peak));
        if amount > 0.0 {
            made.push(sample(CPU.id, cpu / (amount / 1024.0)));
        }
    }
    made
}

/// US dollars for a thousand times these requests, at the list prices of S3 Standard in us-east-1: 0.005 for a thousand
/// of PUT, COPY, POST and LIST, 0.0004 for a thousand of GET, HEAD and all others; DELETE is free.
fn bill(traffic: &Traffic) -> f64 {
    let written = traffic.put + traffic.copy + traffic.multipart + traffic.list;
    written as f64 * 0.005 + (traffic.get + traffic.head + traffic.other) as f64 * 0.0004
}

/// Samples of one row under one setting.
pub(super) struct Group<'a> {
    pub(super) row: &'a Row,
    samples: Vec<&'a Sample>,
}

impl<'a> Group<'a> {
    /// Of all samples under the setting those of the row.
    pub(super) fn new(row: &'a Row, all: &[&'a Sample]) -> Self {
        Self { row, samples: all.iter().copied().filter(|sample| sample.work == row.id).collect() }
    }

    pub(super) fn of(&self, name: Name) -> impl Iterator<Item = &Sample> {
        self.samples.iter().copied().filter(move |sample| sample.system == name)
    }

    pub(super) fn values(&self, name: Name) -> Vec<f64> {
        self.of(name).filter_map(|sample| sample.value.as_ref().ok().copied()).collect()
    }

    pub(super) fn median(&self, name: Name) -> Option<f64> {
        spread(&self.values(name)).map(|spread| spread.median)
    }

    /// How many times as fast `one` is as `other`: of samples taken side by side.
    pub(super) fn ratio(&self, one: Name, other: Name) -> Option<Ratio> {
        let value =
            |name: Name, pair: usize| self.of(name).find(|sample| sample.pair == pair)?.value.as_ref().ok().copied();
        let pair = |sample: &Sample| {
            let (one, other) = (value(one, sample.pair)?, value(other, sample.pair)?);
            Some(if self.row.unit.more_is_better() { (one, other) } else { (other, one) })
        };
        paired(&self.of(one).filter_map(pair).collect::<Vec<_>>()).filter(|_| one != other)
    }

    /// The fastest of those that count.
    pub(super) fn best(&self, counts: impl Fn(Name) -> bool) -> Option<Name> {
        let speed = |name: &Name| {
            let median = self.median(*name)?;
            Some(if self.row.unit.more_is_better() { median } else { -median })
        };
        let rivals = Name::ALL.into_iter().filter(|name| name.is_peer() && counts(*name) && speed(name).is_some());
        rivals.max_by(|one, other| speed(one).unwrap_or(f64::MIN).total_cmp(&speed(other).unwrap_or(f64::MIN)))
    }

    fn line(&self, setting: Setting, name: Name, promises: &BTreeMap<Name, Promise>, missing: Option<&String>) -> Line {
        let values = spread(&self.values(name));
        let first = self.of(name).find(|sample| sample.value.is_ok());
        let best = self.best(|rival| rival != name);
        let worked = first.filter(|_| self.row.id != PEAK.id && self.row.id != CPU.id);
        let daemon = worked.filter(|sample| sample.peak_mib > 0.0);
        let turns: Vec<f64> = self.of(name).map(|sample| sample.turn).collect();
        Line {
            setting,
            work: self.row.id,
            title: self.row.title,
            unit: self.row.unit,
            system: name,
            samples: self.of(name).count(),
            median: values.map(|spread| spread.median),
            min: values.map(|spread| spread.min),
            max: values.map(|spread| spread.max),
            missing: missing.filter(|_| self.of(name).next().is_none()).cloned(),
            error: self.of(name).find_map(|sample| sample.value.clone().err()),
            fewer: first.filter(|sample| sample.fewer).map(|sample| sample.amount),
            ratio_to_s3fs: self.ratio(name, Name::S3fs),
            ratio_to_best_peer: best.and_then(|best| self.ratio(name, best)),
            best_peer: best,
            ratio_to_limit: self.ratio(name, Name::Bare),
            ratio_to_native: self.ratio(name, Name::Native),
            expected: self.row.expected,
            requests: worked.map(|sample| sample.traffic).filter(|traffic| traffic.requests() > 0),
            bill_usd_per_1000: worked.map(|sample| bill(&sample.traffic)),
            cpu_seconds: daemon.map(|sample| sample.cpu),
            peak_rss_mib: daemon.map(|sample| sample.peak_mib),
            turn_seconds: spread(&turns).map(|spread| spread.median).filter(|_| worked.is_some()),
            promise: promises.get(&name).copied(),
            targets: self.row.targets_of(name).iter().map(|target| self.verdict(name, *target, promises)).collect(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
