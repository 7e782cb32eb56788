//! Identifiers. Each is parsed once, where it comes in, and cannot hold anything illegal afterwards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {rule}")]
pub struct IdError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $legal:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the identifier.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let legal: fn(&str) -> bool = $legal;
                if legal(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError { what: $what, text: text.chars().take(80).collect(), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_lower_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_prefixed_hex(text: &str, prefix: &str, digits: std::ops::RangeInclusive<usize>) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| digits.contains(&rest.len()) && is_lower_hex(rest))
}

identifier!(
    /// A cluster's name as the user gave it. Part of host names, so a DNS label (RFC 1123) with room for the index.
    ClusterName,
    "cluster name",
    "1 to 31 characters of a-z, 0-9 and -, starting with a letter and not ending in -",
    |t| (1..=31).contains(&t.len())
        && t.starts_with(|c: char| c.is_ascii_lowercase())
        && !t.ends_with('-')
        && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

identifier!(
    /// One cluster for all time; a destroyed cluster's name may be taken again, its id never is.
    ClusterId,
    "cluster id",
    "c- and 32 hexadecimal digits",
    |t| is_prefixed_hex(t, "c-", 32..=32)
);

identifier!(
    /// One launch attempt: ClientToken and tag of the call that asks for a node's machine.
    LaunchId,
    "launch id",
    "l- and 32 hexadecimal digits",
    |t| is_prefixed_hex(t, "l-", 32..=32)
);

identifier!(
    /// A machine, as the provider names it (EC2: `i-` and 17 hexadecimal digits, 8 in old accounts).
    InstanceId,
    "instance id",
    "i- and 8 to 32 hexadecimal digits",
    |t| is_prefixed_hex(t, "i-", 8..=32)
);

identifier!(
    /// One job. Also the process id on its node and the name of its spool directory.
    JobId,
    "job id",
    "j- and 12 hexadecimal digits",
    |t| is_prefixed_hex(t, "j-", 12..=12)
);

impl ClusterId {
    /// A new, random one.
    pub fn random() -> Self {
        Self(format!("c-{}", uuid::Uuid::new_v4().simple()))
    }
}

impl LaunchId {
    /// A new, random one.
    pub fn random() -> Self {
        Self(format!("l-{}", uuid::Uuid::new_v4().simple()))
    }
}

impl JobId {
    /// A new, random one.
    pub fn random() -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        Self(format!("j-{}", &random[..12]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_names_are_dns_labels_with_room_for_the_index() {
        for good in ["a", "demo", "rex-1000", "a23456789012345678901234567890b"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "a-", "A", "a_b", "a b", "a/b", "a.b", "ä", "a234567890123456789012345678901b"] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_ids_parse() {
        assert!(ClusterId::random().as_str().parse::<ClusterId>().is_ok());
        assert!(LaunchId::random().as_str().parse::<LaunchId>().is_ok());
        assert!(JobId::random().as_str().parse::<JobId>().is_ok());
    }

    #[test]
    fn an_error_names_what_and_why() {
        let error = "UPPER".parse::<ClusterName>().unwrap_err().to_string();
        assert!(error.contains("UPPER") && error.contains("1 to 31"), "{error}");
    }
}
