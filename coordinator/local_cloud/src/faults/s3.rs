//! Faults of S3: slow, failing, away, or done and unanswered.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::{Fault, Faults, Keep, Kind};

/// Requests of a method and below a key, or all of them, fare like this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct S3Fault {
    pub(crate) method: Option<String>,
    /// Beginning of the key.
    pub(crate) key: Option<String>,
    pub(crate) failure: S3Failure,
}

/// How a request fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum S3Failure {
    /// It waits before it is looked at.
    Slow { ms: u32 },
    /// Nothing is done; the answer is an error with this code.
    Refused { code: String },
    /// It is done, and the connection is closed without an answer.
    Unanswered,
    /// Nothing is done; connections are reset.
    Outage,
}

impl fmt::Display for S3Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method.as_deref().unwrap_or("any request"))?;
        if let Some(key) = &self.key {
            write!(f, " below {key}")?;
        }
        match &self.failure {
            S3Failure::Slow { ms } => write!(f, " waits {ms} ms"),
            S3Failure::Refused { code } => write!(f, " is not done: {code}"),
            S3Failure::Unanswered => write!(f, " is done, and no answer comes"),
            S3Failure::Outage => write!(f, " is not done: connections are reset"),
        }
    }
}

impl S3Fault {
    fn concerns(&self, method: &str, path: &str) -> bool {
        let key_matches = |prefix: &String| key_of(path).starts_with(prefix.as_str());
        self.method.as_deref().is_none_or(|named| named == method) && self.key.as_ref().is_none_or(key_matches)
    }
}

/// The key in `/BUCKET/KEY`.
fn key_of(path: &str) -> String {
    let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
    percent_decode_str(key).decode_utf8_lossy().into_owned()
}

/// What is to happen to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct S3Effect {
    pub(crate) wait: Duration,
    pub(crate) failure: Option<S3Failure>,
}

impl Faults {
    /// What is to happen to a request: all waits together, and the first failure.
    pub(crate) fn of_s3(&self, method: &str, path: &str, now: Timestamp) -> S3Effect {
        self.change(|table| {
            let (mut effect, mut keep) = (S3Effect::default(), Keep::No);
            for fault in &mut table.book.faults {
                let Kind::S3(s3) = &fault.kind else { continue };
                let failure = s3.failure.clone();
                let is_wait = matches!(failure, S3Failure::Slow { .. });
                let comes_late = !is_wait && effect.failure.is_some();
                if comes_late || !s3.concerns(method, path) || !fault.strikes(now) {
                    continue;
                }
                if Keep::after(fault) == Keep::Yes {
                    keep = Keep::Yes;
                }
                match failure {
                    S3Failure::Slow { ms } => effect.wait += Duration::from_millis(u64::from(ms)),
                    other => effect.failure = Some(other),
                }
            }
            (effect, keep)
        })
    }

    /// Whether not even a connection is to be had.
    pub(crate) fn is_s3_away(&self, now: Timestamp) -> bool {
        let is_whole = |fault: &Fault| match &fault.kind {
            Kind::S3(S3Fault { method: None, key: None, failure: S3Failure::Outage }) => {
                !fault.bounds.is_counted() && !fault.is_over(now)
            }
            _ => false,
        };
        self.table.lock().book.faults.iter().any(is_whole)
    }
}
