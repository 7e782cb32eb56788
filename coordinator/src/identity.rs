//! Who is who: the cluster's X.509 authority, its SSH authority, and the proof that a machine is the one launched.
//!
//! Private keys of the two authorities never leave the coordinator; nodes make their own keys and only send the
//! public halves. All functions here are pure but for randomness; the time is handed in.

pub mod authority;
pub mod document;
pub mod ssh;

use std::time::Duration;

use jiff::Timestamp;

/// Why something that should prove an identity does not, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not what it should be at all.
    #[error("{what} cannot be read: {why}")]
    Malformed { what: &'static str, why: String },
    /// Well-formed, but the proof does not hold.
    #[error("{what} is not valid: {why}")]
    Untrusted { what: &'static str, why: String },
    /// A key or certificate could not be made here.
    #[error("cannot make {what}: {why}")]
    Making { what: &'static str, why: String },
}

impl IdentityError {
    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }

    pub(crate) fn untrusted(what: &'static str, why: impl ToString) -> Self {
        Self::Untrusted { what, why: why.to_string() }
    }

    pub(crate) fn making(what: &'static str, why: impl ToString) -> Self {
        Self::Making { what, why: why.to_string() }
    }
}

/// From when to when a certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// How far clocks of nodes and coordinator may differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);

impl Validity {
    /// From now on for `lifetime`, begun [`CLOCK_SKEW`] ago for clocks that are behind.
    /// A lifetime beyond the end of the calendar ends there.
    pub fn starting(now: Timestamp, lifetime: Duration) -> Self {
        let not_before = now.checked_sub(CLOCK_SKEW).unwrap_or(Timestamp::UNIX_EPOCH);
        Self { not_before, not_after: now.checked_add(lifetime).unwrap_or(Timestamp::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_counts_for_a_clock_that_is_five_minutes_behind() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let validity = Validity::starting(now, Duration::from_secs(3600));
        let behind = |seconds: i64| now - jiff::SignedDuration::from_secs(seconds);
        assert!(validity.not_before <= behind(300) && validity.not_before > behind(301));
        assert_eq!(validity.not_after, behind(-3600));
    }
}
