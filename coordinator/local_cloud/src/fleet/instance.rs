//! One instance: what was asked for at its launch, and what became of it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::faults::Settled;
use crate::settings;

/// `i-` and 17 hex digits (or 8, as ids of long ago had).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct InstanceId(String);

/// The text is not an instance id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid id: \"{0}\"")]
pub(crate) struct Malformed(pub(crate) String);

impl InstanceId {
    pub(crate) fn random() -> Self {
        Self(format!("i-{}", random_suffix()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The 17 hex digits at the end of a new id.
pub(super) fn random_suffix() -> String {
    let mut digits = hex::encode(settings::random::<9>());
    digits.truncate(17);
    digits
}

impl FromStr for InstanceId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let is_hex = |digits: &str| digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match text.strip_prefix("i-") {
            Some(digits) if matches!(digits.len(), 8 | 17) && is_hex(digits) => Ok(Self(text.to_owned())),
            _ => Err(Malformed(text.to_owned())),
        }
    }
}

impl TryFrom<String> for InstanceId {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What happens when a machine powers itself off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnShutdown {
    Stop,
    Terminate,
}

/// Whether the metadata service insists on session tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tokens {
    Optional,
    Required,
}

impl Tokens {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// How an instance reaches the metadata service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetadataOptions {
    pub(crate) enabled: bool,
    pub(crate) tokens: Tokens,
    pub(crate) hop_limit: u8,
    /// Whether the instance may read its tags there.
    pub(crate) tags: bool,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self { enabled: true, tokens: Tokens::Required, hop_limit: 1, tags: false }
    }
}

/// What was asked for, the same for all instances of one launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaunchSpec {
    pub(crate) image: String,
    pub(crate) instance_type: String,
    pub(crate) client_token: Option<String>,
    /// Base64, as it came.
    pub(crate) user_data: Option<String>,
    /// Name of an instance profile, which is also the name of its role.
    pub(crate) profile: Option<String>,
    pub(crate) security_groups: Vec<String>,
    pub(crate) on_shutdown: OnShutdown,
    pub(crate) metadata: MetadataOptions,
    pub(crate) key_name: Option<String>,
}

/// Why an instance is in its state, in EC2's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reason {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Reason {
    fn new(code: &str, message: String) -> Self {
        Self { code: code.to_owned(), message: format!("{code}: {message}") }
    }

    /// Terminated through the API.
    pub(crate) fn by_user() -> Self {
        Self::new("Client.UserInitiatedShutdown", "User initiated shutdown".to_owned())
    }

    /// The machine powered itself off.
    pub(crate) fn by_instance() -> Self {
        Self::new("Client.InstanceInitiatedShutdown", "Instance initiated shutdown".to_owned())
    }

    /// Taken back, as spot machines are.
    pub(crate) fn reclaimed() -> Self {
        Self::new("Server.SpotInstanceTermination", "Instance terminated due to no available capacity".to_owned())
    }

    /// Something failed on the cloud's side.
    pub(crate) fn internal(what: &str) -> Self {
        Self::new("Server.InternalError", what.to_owned())
    }
}

/// Where an instance is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub(crate) enum State {
    /// Its machine is not up yet.
    Pending,
    Running,
    /// Its machine is being ended and removed.
    ShuttingDown {
        reason: Reason,
    },
    /// Nothing of it is left but this record.
    Terminated {
        at: Timestamp,
        reason: Reason,
    },
    /// It powered off and keeps its disk; it can only be terminated.
    Stopped {
        reason: Reason,
    },
}

impl State {
    /// EC2's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown { .. } => "shutting-down",
            Self::Terminated { .. } => "terminated",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// EC2's number.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown { .. } => 32,
            Self::Terminated { .. } => 48,
            Self::Stopped { .. } => 80,
        }
    }

    /// Whether there is a machine, or will be.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self, Self::Pending | Self::Running)
    }

    pub(crate) fn is_terminated(&self) -> bool {
        matches!(self, Self::Terminated { .. })
    }

    pub(crate) fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Pending | Self::Running => None,
            Self::ShuttingDown { reason } | Self::Terminated { reason, .. } | Self::Stopped { reason } => Some(reason),
        }
    }
}

/// What all instances of one RunInstances call share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) id: String,
    pub(crate) launched_at: Timestamp,
    pub(crate) settled: Settled,
    pub(crate) spec: LaunchSpec,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) reservation: Reservation,
    /// Its place among the instances of its launch, from 0.
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) state: State,
}

impl Instance {
    /// The name the machine gives itself.
    pub(crate) fn host_name(&self) -> String {
        format!("ip-{}", self.address.to_string().replace('.', "-"))
    }

    /// Whether more than the answer to its launch knows of it.
    pub(crate) fn is_listed(&self, now: Timestamp) -> bool {
        now >= self.reservation.settled.listed_from
    }

    pub(crate) fn spec(&self) -> &LaunchSpec {
        &self.reservation.spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        assert_eq!(InstanceId::random().as_str().len(), 19);
        assert!(InstanceId::random().as_str().parse::<InstanceId>().is_ok());
        assert!("i-12345678".parse::<InstanceId>().is_ok());
        for wrong in ["", "i-", "i-1234567g", "i-../../../etc/pass", "r-12345678", "i-123456789", "I-12345678"] {
            assert_eq!(wrong.parse::<InstanceId>(), Err(Malformed(wrong.to_owned())));
        }
    }

    #[test]
    fn states_are_kept_with_what_belongs_to_them() {
        let state = State::Terminated { at: Timestamp::UNIX_EPOCH, reason: Reason::by_user() };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        assert_eq!((state.name(), state.code()), ("terminated", 48));
        assert!(text.contains("Client.UserInitiatedShutdown: User initiated shutdown"), "{text}");
    }
}
