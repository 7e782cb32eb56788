//! Rows: one a setting, work and system.

use std::collections::BTreeMap;

use ec2mpi_tests::lab::Traffic;
use serde::Serialize;

use super::Sample;
use crate::job::mib;
use crate::scenes::{CPU, PEAK};
use crate::server::Setting;
use crate::stats::{Ratio, paired, spread};
use crate::systems::Promise;
use crate::works::{Name, Row, Target, Unit, Whom};

/// Everything that a run has to say.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What it was measured on and under.
    pub(crate) machine: String,
    pub(crate) command: String,
    pub(crate) seconds: f64,
    pub(crate) sizes: crate::works::Sizes,
    pub(crate) promises: BTreeMap<&'static str, Promise>,
    pub(crate) rows: Vec<Line>,
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
    /// Of the first sample.
    pub(crate) requests: Option<Traffic>,
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) peak_rss_mib: Option<f64>,
    pub(crate) promise: Option<Promise>,
    pub(crate) targets: Vec<Verdict>,
}

/// A target, and whether it is reached. Without what it is compared with nobody knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) target: String,
    pub(crate) reached: Option<f64>,
    pub(crate) held: Option<bool>,
}

/// Rows of all samples, in the order of the table's rows.
pub(crate) fn rows(samples: &[Sample], table: &[Row], promises: &BTreeMap<Name, Promise>) -> Vec<Line> {
    let mut settings: Vec<Setting> = Vec::new();
    for sample in samples {
        if !settings.contains(&sample.setting) {
            settings.push(sample.setting);
        }
    }
    let mut lines = Vec::new();
    for setting in settings {
        let own: Vec<Sample> = samples.iter().filter(|sample| sample.setting == setting).cloned().collect();
        let daemons = of_daemons(&own);
        for row in table.iter().chain([&PEAK, &CPU]) {
            let all = if row.id == PEAK.id || row.id == CPU.id { &daemons } else { &own };
            let group = Group { row, samples: all.iter().filter(|sample| sample.work == row.id).collect() };
            let names = Name::ALL.into_iter().filter(|name| group.of(*name).next().is_some());
            lines.extend(names.map(|name| group.line(setting, name, promises)));
        }
    }
    lines
}

/// What all works together say of a daemon.
fn of_daemons(samples: &[Sample]) -> Vec<Sample> {
    let mut made = Vec::new();
    for name in Name::ALL {
        let own: Vec<&Sample> =
            samples.iter().filter(|sample| sample.system == name && sample.peak_mib > 0.0).collect();
        let Some(first) = own.first() else { continue };
        let peak = own.iter().map(|sample| sample.peak_mib).fold(0.0, f64::max);
        let moved =
            own.iter().filter(|sample| ["cold-read", "write-fsync"].contains(&sample.work) && sample.value.is_ok());
        let (cpu, amount) = moved.fold((0.0, 0.0), |(cpu, amount), sample| (cpu + sample.cpu, amount + sample.amount));
        let sample = |work, value| Sample { work, value: Ok(value), pair: 0, few: false, cpu: 0.0, ..(*first).clone() };
        made.push(sample(PEAK.id, peak));
        if amount > 0.0 {
            made.push(sample(CPU.id, cpu / (amount / 1024.0)));
        }
    }
    made
}

/// Samples of one row under one setting.
struct Group<'a> {
    row: &'a Row,
    samples: Vec<&'a Sample>,
}

impl Group<'_> {
    fn of(&self, name: Name) -> impl Iterator<Item = &Sample> {
        self.samples.iter().copied().filter(move |sample| sample.system == name)
    }

    fn values(&self, name: Name) -> Vec<f64> {
        self.of(name).filter_map(|sample| sample.value.as_ref().ok().copied()).collect()
    }

    fn median(&self, name: Name) -> Option<f64> {
        spread(&self.values(name)).map(|spread| spread.median)
    }

    /// How many times as fast `one` is as `other`: of samples taken side by side.
    fn ratio(&self, one: Name, other: Name) -> Option<Ratio> {
        let value =
            |name: Name, pair: usize| self.of(name).find(|sample| sample.pair == pair)?.value.as_ref().ok().copied();
        let pair = |sample: &Sample| {
            let (one, other) = (value(one, sample.pair)?, value(other, sample.pair)?);
            Some(if self.row.unit.more_is_better() { (one, other) } else { (other, one) })
        };
        paired(&self.of(one).filter_map(pair).collect::<Vec<_>>()).filter(|_| one != other)
    }

    /// The fastest of those that count.
    fn best(&self, counts: impl Fn(Name) -> bool) -> Option<Name> {
        let speed = |name: &Name| {
            let median = self.median(*name)?;
            Some(if self.row.unit.more_is_better() { median } else { -median })
        };
        let rivals = Name::ALL.into_iter().filter(|name| name.is_peer() && counts(*name) && speed(name).is_some());
        rivals.max_by(|one, other| speed(one).unwrap_or(f64::MIN).total_cmp(&speed(other).unwrap_or(f64::MIN)))
    }

    fn line(&self, setting: Setting, name: Name, promises: &BTreeMap<Name, Promise>) -> Line {
        let spread = spread(&self.values(name));
        let first = self.of(name).find(|sample| sample.value.is_ok());
        let best = self.best(|rival| rival != name);
        let daemon = first.filter(|sample| sample.peak_mib > 0.0 && self.row.id != PEAK.id && self.row.id != CPU.id);
        let judged = name == Name::Ours || name == Name::OursPlain;
        Line {
            setting,
            work: self.row.id,
            title: self.row.title,
            unit: self.row.unit,
            system: name,
            samples: self.of(name).count(),
            median: spread.map(|spread| spread.median),
            min: spread.map(|spread| spread.min),
            max: spread.map(|spread| spread.max),
            error: self.of(name).find_map(|sample| sample.value.clone().err()),
            fewer: first.filter(|sample| sample.few).map(|sample| sample.amount),
            ratio_to_s3fs: self.ratio(name, Name::S3fs),
            ratio_to_best_peer: best.and_then(|best| self.ratio(name, best)),
            best_peer: best,
            ratio_to_limit: self.ratio(name, Name::Bare),
            ratio_to_native: self.ratio(name, Name::Native),
            requests: first.map(|sample| sample.traffic).filter(|traffic| traffic.requests() > 0),
            cpu_seconds: daemon.map(|sample| sample.cpu),
            peak_rss_mib: daemon.map(|sample| sample.peak_mib),
            promise: promises.get(&name).copied(),
            targets: if judged { self.verdicts(name, promises) } else { Vec::new() },
        }
    }

    fn verdicts(&self, name: Name, promises: &BTreeMap<Name, Promise>) -> Vec<Verdict> {
        if name == Name::OursPlain {
            let plain =
                (self.row.id == "re-read").then(|| self.verdict(name, Target::Times(0.5, Whom::Native), promises));
            return plain.into_iter().collect();
        }
        self.row.targets.iter().map(|target| self.verdict(name, *target, promises)).collect()
    }

    fn verdict(&self, name: Name, target: Target, promises: &BTreeMap<Name, Promise>) -> Verdict {
        let own = self.median(name);
        let durable = |rival: Name| promises.get(&rival).is_some_and(|promise| promise.fsync_in_s3);
        let unit = self.row.unit.text();
        match target {
            Target::Times(least, whom) => {
                let rival = match whom {
                    Whom::Native => Some(Name::Native),
                    Whom::S3fs => Some(Name::S3fs),
                    Whom::Rclone => Some(Name::Rclone),
                    Whom::Juicefs => Some(Name::Juicefs),
                    Whom::Limit => Some(Name::Bare),
                    Whom::BestPeer => self.best(|_| true),
                    Whom::BestDurablePeer => self.best(durable),
                };
                let reached = rival.and_then(|rival| self.ratio(name, rival)).map(|ratio| ratio.value);
                Verdict::new(format!("{least:.2} x {}", whom.text()), reached, |value| value >= least)
            }
            Target::AtLeast(least) => Verdict::new(format!("at least {least} {unit}"), own, |value| value >= least),
            Target::AtMost(most) => Verdict::new(format!("at most {most} {unit}"), own, |value| value <= most),
            Target::LimitAnd { milliseconds } => {
                let above = own.zip(self.median(Name::Bare)).map(|(own, limit)| own - limit);
                Verdict::new(format!("the limit + {milliseconds} ms"), above, |value| value <= milliseconds)
            }
            Target::SentAtMost(most) => {
                let sent = self.of(name).filter(|sample| sample.value.is_ok()).map(|sample| mib(sample.traffic.sent));
                let sent = sent.reduce(f64::max);
                Verdict::new(format!("at most {most} MiB sent"), sent, |value| value <= most)
            }
            Target::NotAbove(whom) => {
                let rival = self.median(Name::S3fs);
                let share = own.zip(rival).map(|(own, rival)| own / rival.max(1e-9));
                Verdict::new(format!("no more than {}", whom.text()), share, |value| value <= 1.0)
            }
        }
    }
}

impl Verdict {
    fn new(target: String, reached: Option<f64>, holds: impl Fn(f64) -> bool) -> Self {
        Self { target, reached, held: reached.map(holds) }
    }
}

#[cfg(test)]
mod tests;
