//! The kinds of faults, their names and what they say of themselves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Capacity, Ec2Fault, MachineFault, S3Fault, Settle, Throttle};

/// `f-` and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct FaultId(pub(super) u32);

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f-{}", self.0)
    }
}

impl From<FaultId> for String {
    fn from(id: FaultId) -> Self {
        id.to_string()
    }
}

impl FromStr for FaultId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("f-").and_then(|digits| digits.parse().ok());
        number.map(Self).ok_or_else(|| format!("{text:?} is no fault: their names are f-1, f-2 and so on"))
    }
}

impl TryFrom<String> for FaultId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What goes wrong, with all that is to be known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", content = "what", rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Machines run out.
    Capacity(Capacity),
    /// Requests are counted more strictly.
    Throttle(Throttle),
    /// A request to the EC2 API fails, or its answer is lost.
    Ec2(Ec2Fault),
    /// New instances take longer to be listed and to run.
    Settle(Settle),
    /// One machine fails.
    Machine(MachineFault),
    /// Requests to S3 are slow, fail, or their answers are lost.
    S3(S3Fault),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity(fault) => fault.fmt(f),
            Self::Throttle(fault) => fault.fmt(f),
            Self::Ec2(fault) => fault.fmt(f),
            Self::Settle(fault) => fault.fmt(f),
            Self::Machine(fault) => fault.fmt(f),
            Self::S3(fault) => fault.fmt(f),
        }
    }
}
