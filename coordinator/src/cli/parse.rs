//! What words of the command line mean. Whatever is refused here is a usage error, before anything starts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterName, JobId};

pub(super) fn cluster(text: &str) -> Result<ClusterName, String> {
    text.parse().map_err(|error| format!("{error}"))
}

pub(super) fn job(text: &str) -> Result<JobId, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// `2`, or `50%` of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MinNodes {
    Count(u32),
    Percent(u32),
}

impl MinNodes {
    /// How many of so many, rounded up, at least one.
    pub(super) fn of(self, nodes: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (nodes * percent).div_ceil(100).max(1),
        }
    }
}

impl FromStr for MinNodes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a number of nodes, such as 3, nor a share of them, such as 75%");
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(wrong()),
            },
            None => match text.parse() {
                Ok(count @ 1..) => Ok(Self::Count(count)),
                _ => Err(wrong()),
            },
        }
    }
}

/// `K=V`.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form NAME=VALUE"))?;
    let legal = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if legal {
        Ok((name.to_owned(), value.to_owned()))
    } else {
        Err(format!("{name:?} is not the name of an environment variable"))
    }
}

/// The last of two values for one name counts.
pub(super) fn environment(variables: Vec<(String, String)>) -> HashMap<String, String> {
    variables.into_iter().collect()
}

/// Seconds of a wait, for the wire.
pub(super) fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// A time that is a wait: at least a second, at most a day.
pub(super) fn wait(text: &str) -> Result<Duration, String> {
    let time = crate::config::parse_duration(text)?;
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    if (least..=most).contains(&time) { Ok(time) } else { Err(format!("{text:?} has to be from 1s to 24h")) }
}

/// How long a cluster lives.
pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    let time = crate::config::parse_duration(text)?;
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 3600));
    if (least..=most).contains(&time) { Ok(time) } else { Err(format!("{text:?} has to be from 1s to 720h")) }
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Local(PathBuf),
    Remote {
        cluster: ClusterName,
        /// Absolute.
        path: String,
    },
}

impl FromStr for Place {
    type Err = String;

    /// A colon before any slash makes it a cluster's; `./a:b` is a local name with a colon.
    fn from_str(text: &str) -> Result<Self, String> {
        let remote = text.split_once(':').filter(|(name, _)| !name.contains('/'));
        let Some((name, path)) = remote else {
            return if text.is_empty() { Err("the path is empty".into()) } else { Ok(Self::Local(text.into())) };
        };
        let cluster = cluster(name).map_err(|why| format!("{why} (a local name with a colon is written ./{text})"))?;
        if !path.starts_with('/') {
            return Err(format!("{path:?} is not an absolute path: write {name}:/shared/{path}"));
        }
        Ok(Self::Remote { cluster, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_nodes_is_a_number_or_a_share() {
        for (text, nodes, expected) in [("3", 4, 3), ("75%", 4, 3), ("50%", 5, 3), ("1%", 4, 1), ("100%", 1000, 1000)] {
            assert_eq!(text.parse::<MinNodes>().unwrap().of(nodes), expected, "{text} of {nodes}");
        }
        for bad in ["0", "-1", "0%", "101%", "", "%", "x", "1.5"] {
            assert!(bad.parse::<MinNodes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_have_a_name_and_any_value() {
        assert_eq!(variable("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        assert_eq!(variable("_x1=").unwrap(), ("_x1".into(), String::new()));
        for bad in ["A", "=b", "1A=b", "A-B=c", ""] {
            assert!(variable(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn waits_are_bounded() {
        assert_eq!(wait("10m").unwrap(), Duration::from_secs(600));
        for bad in ["0", "25h", "x"] {
            assert!(wait(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_cluster_lives_for_ever_by_mistake() {
        assert_eq!(ttl("8h").unwrap(), Duration::from_secs(8 * 3600));
        for bad in ["0", "721h", "8d"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_with_a_colon_before_a_slash_is_on_a_cluster() {
        let remote = |path: &str| Place::Remote { cluster: "demo".parse().unwrap(), path: path.into() };
        assert_eq!("demo:/shared/a:b".parse(), Ok(remote("/shared/a:b")));
        assert_eq!("./a:b".parse(), Ok(Place::Local("./a:b".into())));
        assert_eq!("dir/file".parse(), Ok(Place::Local("dir/file".into())));
        assert!("demo:x".parse::<Place>().unwrap_err().contains("demo:/shared/x"));
        assert!("De:/x".parse::<Place>().unwrap_err().contains("./De:/x"));
        assert!("".parse::<Place>().is_err());
    }
}
