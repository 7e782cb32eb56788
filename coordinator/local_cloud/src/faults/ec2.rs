//! Faults of requests to the EC2 API.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Faults, Keep, Kind};

/// Requests of an action, or of any, fail like this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ec2Fault {
    pub(crate) action: Option<String>,
    pub(crate) failure: Ec2Failure,
}

/// How a request fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ec2Failure {
    /// Nothing is done; the answer is an error with this code.
    Refused { code: String },
    /// It is done, and the connection is closed without an answer.
    Unanswered,
    /// It is done, and the answer is InternalError.
    FalseAlarm,
}

impl fmt::Display for Ec2Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action.as_deref().unwrap_or("any action");
        match &self.failure {
            Ec2Failure::Refused { code } => write!(f, "{action} is not done: {code}"),
            Ec2Failure::Unanswered => write!(f, "{action} is done, and no answer comes"),
            Ec2Failure::FalseAlarm => write!(f, "{action} is done, and the answer is InternalError"),
        }
    }
}

/// What is to happen to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Too many of its action: RequestLimitExceeded.
    Throttled,
    Fails(Ec2Failure),
}

impl Faults {
    /// What is to happen to a request; none: it is answered as usual.
    pub(crate) fn of_request(&self, action: &str, now: Timestamp) -> Option<Effect> {
        if !self.take_token(action, now) {
            return Some(Effect::Throttled);
        }
        self.change(|table| {
            for fault in &mut table.book.faults {
                let Kind::Ec2(ec2) = &fault.kind else { continue };
                let failure = ec2.failure.clone();
                if ec2.action.as_deref().is_none_or(|named| named == action) && fault.strikes(now) {
                    tracing::info!(fault = %fault.id, action, ?failure, "fault strikes");
                    return (Some(Effect::Fails(failure)), Keep::after(fault));
                }
            }
            (None, Keep::No)
        })
    }
}
