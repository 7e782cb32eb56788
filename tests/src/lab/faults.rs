//! What goes wrong with a request: decided when its headers are there.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use tokio::sync::watch;

use super::traffic::Counter;

/// What is to go wrong. Shares are between 0 and 1, of all requests.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Every request waits for this long before it is passed on.
    pub latency_ms: u64,
    /// A connection moves at most so many bytes a second each way.
    pub bytes_per_second: Option<u64>,
    /// Share answered with 503 SlowDown, and not passed on.
    pub throttled: f64,
    /// Share answered with 500 InternalError, and not passed on.
    pub failed: f64,
    /// Share whose connection is reset before they are passed on.
    pub reset: f64,
    /// Share whose connection is reset in the middle of the answer's body.
    pub cut: f64,
    /// Share that is carried out, and whose connection is reset instead of an answer.
    pub lost: f64,
    /// Share that is carried out, and answered with 500 InternalError.
    pub lost_as_failed: f64,
    /// Share that stands still for `stall_ms` first.
    pub stalled: f64,
    /// See `stalled`.
    pub stall_ms: u64,
    /// Nothing is passed on at all.
    pub outage: Option<Outage>,
}

/// How the server is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outage {
    /// Every connection is reset.
    Reset,
    /// Nothing is answered, and no connection ends.
    Silence,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs)]
pub struct Counts {
    pub requests: u64,
    pub throttled: u64,
    pub failed: u64,
    pub reset: u64,
    pub cut: u64,
    pub lost: u64,
    pub stalled: u64,
    pub away: u64,
}

impl Counts {
    /// Requests that did not get the server's answer.
    pub fn faults(&self) -> u64 {
        self.throttled + self.failed + self.reset + self.cut + self.lost + self.away
    }
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Throttle,
    Fail,
    Reset,
    Cut,
    /// Carried out; then reset, or answered with an error.
    Lose {
        answer: bool,
    },
    Away(Outage),
}

/// The verdict, and what comes before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fate {
    pub(super) wait: Duration,
    pub(super) verdict: Verdict,
}

/// The faults as they are now, and the dice.
#[derive(Debug)]
pub(super) struct Plan {
    faults: watch::Sender<Faults>,
    state: Mutex<(StdRng, Counts)>,
    pub(super) traffic: Counter,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let state = Mutex::new((StdRng::seed_from_u64(seed), Counts::default()));
        Self { faults: watch::Sender::new(Faults::default()), state, traffic: Counter::default() }
    }

    pub(super) fn set(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    pub(super) fn counts(&self) -> Counts {
        self.locked(|_, counts| *counts)
    }

    pub(super) fn bytes_per_second(&self) -> Option<u64> {
        self.faults.borrow().bytes_per_second
    }

    /// Returns when the server is not away in silence any more.
    pub(super) async fn silence_ends(&self) {
        let mut faults = self.faults.subscribe();
        // An error says that the lab is gone, and the silence with it.
        let _ = faults.wait_for(|faults| faults.outage != Some(Outage::Silence)).await;
    }

    /// Rolls the dice for one request.
    pub(super) fn fate(&self) -> Fate {
        let faults = *self.faults.borrow();
        self.locked(|dice, counts| {
            counts.requests += 1;
            let mut wait = Duration::from_millis(faults.latency_ms);
            if dice.gen_bool(share(faults.stalled)) {
                counts.stalled += 1;
                wait += Duration::from_millis(faults.stall_ms);
            }
            let verdict = verdict(&faults, dice.gen_range(0.0..1.0));
            note(counts, verdict);
            Fate { wait, verdict }
        })
    }

    fn locked<T>(&self, work: impl FnOnce(&mut StdRng, &mut Counts) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (dice, counts) = &mut *state;
        work(dice, counts)
    }
}

fn share(share: f64) -> f64 {
    share.clamp(0.0, 1.0)
}

fn verdict(faults: &Faults, roll: f64) -> Verdict {
    if let Some(outage) = faults.outage {
        return Verdict::Away(outage);
    }
    let table = [
        (faults.throttled, Verdict::Throttle),
        (faults.failed, Verdict::Fail),
        (faults.reset, Verdict::Reset),
        (faults.cut, Verdict::Cut),
        (faults.lost, Verdict::Lose { answer: false }),
        (faults.lost_as_failed, Verdict::Lose { answer: true }),
    ];
    let mut edge = 0.0;
    for (part, verdict) in table {
        edge += share(part);
        if roll < edge {
            return verdict;
        }
    }
    Verdict::Pass
}

fn note(counts: &mut Counts, verdict: Verdict) {
    match verdict {
        Verdict::Pass => {}
        Verdict::Throttle => counts.throttled += 1,
        Verdict::Fail => counts.failed += 1,
        Verdict::Reset => counts.reset += 1,
        Verdict::Cut => counts.cut += 1,
        Verdict::Lose { .. } => counts.lost += 1,
        Verdict::Away(_) => counts.away += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_seeds_repeat() {
        let faults = Faults { throttled: 0.05, reset: 0.02, lost: 0.01, ..Faults::default() };
        let run = |seed| {
            let plan = Plan::new(seed);
            plan.set(faults);
            let fates: Vec<Verdict> = (0..20_000).map(|_| plan.fate().verdict).collect();
            (fates, plan.counts())
        };
        let (fates, counts) = run(7);
        assert_eq!(fates, run(7).0);
        assert_ne!(fates, run(8).0);
        assert_eq!(counts.requests, 20_000);
        for (count, expected) in [(counts.throttled, 1000), (counts.reset, 400), (counts.lost, 200)] {
            assert!(count.abs_diff(expected) < expected / 4, "{count} of {expected}");
        }
    }

    #[test]
    fn an_outage_is_total() {
        let plan = Plan::new(1);
        plan.set(Faults { outage: Some(Outage::Reset), ..Faults::default() });
        assert!((0..100).all(|_| plan.fate().verdict == Verdict::Away(Outage::Reset)));
        plan.set(Faults::default());
        assert_eq!(plan.fate().verdict, Verdict::Pass);
    }
}
