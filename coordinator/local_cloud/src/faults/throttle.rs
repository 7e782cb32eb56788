//! Token buckets, as EC2 counts requests: each action has its own; a request takes a token, and so many come back a
//! second.

use std::collections::HashMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FaultId, Faults, Keep, Kind};

/// Requests of an action, or of each action, are counted by this bucket from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Throttle {
    pub(crate) action: Option<String>,
    /// None: what AWS publishes for the action.
    pub(crate) rate: Option<Rate>,
}

/// The size of a bucket and how fast it fills.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rate {
    pub(crate) burst: f64,
    /// Tokens a second.
    pub(crate) refill: f64,
}

impl Rate {
    /// "Request throttling for the Amazon EC2 API": request token limits.
    pub(crate) fn of_aws(action: &str) -> Self {
        let (burst, refill) = match action {
            "RunInstances" => (5.0, 2.0),
            "TerminateInstances" => (100.0, 5.0),
            "CreateTags" | "DeleteTags" => (100.0, 10.0),
            _ if is_read(action) => (100.0, 20.0),
            _ => (50.0, 5.0),
        };
        Self { burst, refill }
    }

    /// What holds without a fault: enough for every test, and a bound for a client that asks without end.
    fn generous(action: &str) -> Self {
        if is_read(action) { Self { burst: 2000.0, refill: 1000.0 } } else { Self { burst: 500.0, refill: 100.0 } }
    }
}

fn is_read(action: &str) -> bool {
    action.starts_with("Describe") || action.starts_with("Get")
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action.as_deref().unwrap_or("each action");
        match self.rate {
            Some(Rate { burst, refill }) => write!(f, "{action}: {burst} requests at once, then {refill} a second"),
            None => write!(f, "{action}: as many requests as AWS allows"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Timestamp) -> bool {
        let passed = now.duration_since(self.at).as_secs_f64().max(0.0);
        self.tokens = (self.tokens + passed * rate.refill).min(rate.burst);
        self.at = now;
        let has_one = self.tokens >= 1.0;
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

/// The buckets in use: those of a fault begin full when it is added.
#[derive(Debug, Default)]
pub(super) struct Buckets(HashMap<(Option<FaultId>, String), Bucket>);

impl Buckets {
    fn take(&mut self, fault: Option<FaultId>, action: &str, rate: Rate, now: Timestamp) -> bool {
        // A fault that was cleared leaves its buckets behind; unknown actions must not make a bucket each.
        if self.0.len() > 1000 {
            self.0.clear();
        }
        let full = Bucket { tokens: rate.burst, at: now };
        self.0.entry((fault, action.to_owned())).or_insert(full).take(rate, now)
    }
}

impl Faults {
    /// Counts a request; false when there are too many of its action.
    pub(super) fn take_token(&self, action: &str, now: Timestamp) -> bool {
        self.change(|table| {
            let is_meant = |throttle: &Throttle| throttle.action.as_deref().is_none_or(|named| named == action);
            let mut passes = table.buckets.take(None, action, Rate::generous(action), now);
            let mut keep = Keep::No;
            for fault in &mut table.book.faults {
                let Kind::Throttle(throttle) = &fault.kind else { continue };
                if !is_meant(throttle) || fault.bounds.is_over(fault.struck, now) {
                    continue;
                }
                let rate = throttle.rate.unwrap_or_else(|| Rate::of_aws(action));
                fault.asked += 1;
                if !table.buckets.take(Some(fault.id), action, rate, now) && fault.bounds.admits(fault.asked) {
                    fault.struck += 1;
                    passes = false;
                    keep = Keep::after(fault);
                }
            }
            (passes, keep)
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let rate = Rate { burst: 2.0, refill: 4.0 };
        let mut buckets = Buckets::default();
        let start = Timestamp::UNIX_EPOCH;
        let at = |ms| start + SignedDuration::from_millis(ms);
        let taken: Vec<bool> =
            [0, 0, 0, 100, 250, 300].iter().map(|ms| buckets.take(None, "A", rate, at(*ms))).collect();
        assert_eq!(taken, [true, true, false, false, true, false]);
        assert!(buckets.take(None, "B", rate, at(300)), "each action has a bucket of its own");
        let rested: Vec<bool> = (0..3).map(|_| buckets.take(None, "A", rate, at(60_000))).collect();
        assert_eq!(rested, [true, true, false], "it holds no more than its size");
    }
}
