//! Whether a target is reached.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rows::Group;
use crate::job::mib;
use crate::stats::Ratio;
use crate::systems::Promise;
use crate::works::{Name, Target, Whom};

/// So many measurements are enough where there is no interval.
const ENOUGH: usize = 3;

/// A target, and whether it is reached. Without what it is compared with nobody knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) target: String,
    pub(crate) reached: Option<f64>,
    pub(crate) held: Option<bool>,
    /// It would come out the same once more: the interval is on one side of the target, or it is twice as far away.
    pub(crate) sure: bool,
}

/// What is measured against a bound, and on which side it must be.
struct Measure {
    text: String,
    bound: f64,
    at_least: bool,
    reached: Option<f64>,
    ratio: Option<Ratio>,
    samples: usize,
}

impl Measure {
    fn verdict(self) -> Verdict {
        let held = self.reached.map(|value| if self.at_least { value >= self.bound } else { value <= self.bound });
        let sure = self.reached.is_some_and(|value| self.is_sure(value));
        Verdict { target: self.text, reached: self.reached, held, sure }
    }

    fn is_sure(&self, value: f64) -> bool {
        let far = value >= self.bound * 2.0 || value <= self.bound / 2.0;
        match self.ratio.and_then(|ratio| ratio.low.zip(ratio.high)) {
            Some((low, high)) => low > self.bound || high < self.bound,
            None => far || self.ratio.is_none() && self.samples >= ENOUGH,
        }
    }
}

impl Group<'_> {
    pub(super) fn verdict(&self, name: Name, target: Target, promises: &BTreeMap<Name, Promise>) -> Verdict {
        let own = self.median(name);
        let unit = self.row.unit.text();
        let bounded = |text: String, bound: f64, at_least: bool, reached: Option<f64>| Measure {
            text,
            bound,
            at_least,
            reached,
            ratio: None,
            samples: self.values(name).len(),
        };
        let measure = match target {
            Target::Times(least, whom) => {
                let ratio = self.rival(target, promises).and_then(|rival| self.ratio(name, rival));
                let text = format!("{least:.2} x {}", whom.text());
                Measure { ratio, ..bounded(text, least, true, ratio.map(|ratio| ratio.value)) }
            }
            Target::AtLeast(least) => bounded(format!("at least {least} {unit}"), least, true, own),
            Target::AtMost(most) => bounded(format!("at most {most} {unit}"), most, false, own),
            Target::LimitAnd { milliseconds } => {
                let above = own.zip(self.median(Name::Bare)).map(|(own, limit)| own - limit);
                bounded(format!("the limit + {milliseconds} ms"), milliseconds, false, above)
            }
            Target::SentAtMost(most) => {
                let sent = self.of(name).filter(|sample| sample.value.is_ok()).map(|sample| mib(sample.traffic.sent));
                bounded(format!("at most {most} MiB sent"), most, false, sent.reduce(f64::max))
            }
            Target::NotAbove(whom) => {
                let share = own.zip(self.median(Name::S3fs)).map(|(own, rival)| own / rival.max(1e-9));
                bounded(format!("no more than {}", whom.text()), 1.0, false, share)
            }
        };
        measure.verdict()
    }

    /// Whom a target compares with.
    pub(super) fn rival(&self, target: Target, promises: &BTreeMap<Name, Promise>) -> Option<Name> {
        let durable = |rival: Name| promises.get(&rival).is_some_and(|promise| promise.fsync_in_s3);
        match target {
            Target::Times(_, Whom::Native) => Some(Name::Native),
            Target::Times(_, Whom::S3fs) | Target::NotAbove(_) => Some(Name::S3fs),
            Target::Times(_, Whom::Rclone) => Some(Name::Rclone),
            Target::Times(_, Whom::Juicefs) => Some(Name::Juicefs),
            Target::Times(_, Whom::Limit) | Target::LimitAnd { .. } => Some(Name::Bare),
            Target::Times(_, Whom::BestPeer) => self.best(|_| true),
            Target::Times(_, Whom::BestDurablePeer) => self.best(durable),
            Target::AtLeast(_) | Target::AtMost(_) | Target::SentAtMost(_) => None,
        }
    }
}
