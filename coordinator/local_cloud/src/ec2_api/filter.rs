//! Filters: a name and values, of which one must match; `*` and `?` in a value stand for any characters and any one.

use super::error::ApiError;
use super::params::Params;
use crate::catalog;
use crate::fleet::Instance;

/// One filter of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) name: String,
    pub(super) values: Vec<String>,
}

impl Filter {
    /// All filters of a request; an error for one that EC2 has not or that is not written here.
    pub(super) fn all(params: &Params, is_known: impl Fn(&str) -> bool) -> Result<Vec<Self>, ApiError> {
        let filters: Vec<Self> = params.parts("Filter").iter().map(Self::parse).collect::<Result<_, _>>()?;
        match filters.iter().find(|filter| !is_known(&filter.name)) {
            Some(filter) => Err(ApiError::invalid(format!("The filter '{}' is invalid", filter.name))),
            None => Ok(filters),
        }
    }

    fn parse(part: &Params) -> Result<Self, ApiError> {
        let name = part.required("Name")?.to_owned();
        let values: Vec<String> = part.list("Value").into_iter().map(str::to_owned).collect();
        if values.is_empty() {
            Err(ApiError::invalid("The filter 'null' is invalid"))
        } else {
            Ok(Self { name, values })
        }
    }

    /// Whether one of the values matches `text`.
    pub(super) fn accepts(&self, text: &str) -> bool {
        self.values.iter().any(|value| matches(value.as_bytes(), text.as_bytes()))
    }

    /// Those of instances.
    pub(super) fn is_of_instances(name: &str) -> bool {
        const NAMES: [&str; 13] = [
            "tag-key",
            "instance-id",
            "instance-state-name",
            "instance-state-code",
            "instance-type",
            "image-id",
            "client-token",
            "reservation-id",
            "private-ip-address",
            "availability-zone",
            "subnet-id",
            "vpc-id",
            "architecture",
        ];
        name.starts_with("tag:") || NAMES.contains(&name)
    }

    /// Whether the filter, one of those of instances, lets an instance through.
    pub(super) fn accepts_instance(&self, instance: &Instance) -> bool {
        if let Some(key) = self.name.strip_prefix("tag:") {
            return instance.tags.get(key).is_some_and(|value| self.accepts(value));
        }
        let spec = instance.spec();
        let here = !instance.state.is_terminated();
        match self.name.as_str() {
            "tag-key" => instance.tags.keys().any(|key| self.accepts(key)),
            "instance-id" => self.accepts(instance.id.as_str()),
            "instance-state-name" => self.accepts(instance.state.name()),
            "instance-state-code" => self.accepts(&instance.state.code().to_string()),
            "instance-type" => self.accepts(&spec.instance_type),
            "image-id" => self.accepts(&spec.image),
            "client-token" => spec.client_token.as_deref().is_some_and(|token| self.accepts(token)),
            "reservation-id" => self.accepts(&instance.reservation.id),
            "private-ip-address" => here && self.accepts(&instance.address.to_string()),
            "availability-zone" => self.accepts(spec.zone.name()),
            "subnet-id" => here && self.accepts(spec.zone.subnet()),
            "vpc-id" => here && self.accepts(catalog::VPC),
            "architecture" => self.accepts(&catalog::Architecture::host().to_string()),
            _ => false,
        }
    }
}

/// Glob match without recursion: on a mismatch, the last star takes one character more.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let cases = [
            ("", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("?b*", "abc", true),
            ("*b*b", "abab", true),
            ("?", "", false),
        ];
        for (pattern, text, wanted) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} {text}");
        }
    }
}
