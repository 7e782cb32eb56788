//! Parameters of a request: `Name`, `Name.1`, `Name.1.Part.2` and so on, from query and form body.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::fleet::InstanceId;

/// The parameters of one request, or of one numbered part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Params {
    values: BTreeMap<String, String>,
    /// Which ones were looked at.
    seen: RefCell<BTreeSet<String>>,
}

impl Params {
    pub(crate) fn parse(query: &str, body: &[u8]) -> Result<Self, ApiError> {
        let body = std::str::from_utf8(body).map_err(|_| malformed())?;
        let pairs = query.split('&').chain(body.split('&')).filter(|pair| !pair.is_empty());
        let values = pairs.map(decode_pair).collect::<Result<_, _>>()?;
        Ok(Self { values, seen: RefCell::default() })
    }

    #[cfg(test)]
    pub(super) fn of(pairs: &[(&str, &str)]) -> Self {
        let values = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { values, seen: RefCell::default() }
    }

    pub(crate) fn take_action(&self) -> Result<String, ApiError> {
        self.get("Version");
        let missing = || ApiError::new("MissingAction", "The request is missing an action or a required parameter.");
        self.get("Action").map(str::to_owned).ok_or_else(missing)
    }

    /// The value of that name; none when it is missing or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (name, value) = self.values.get_key_value(name)?;
        self.seen.borrow_mut().insert(name.clone());
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| ApiError::missing(name))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u32>, ApiError> {
        let wrong = |value: &str| ApiError::invalid(format!("Value ({value}) for parameter {name} is invalid."));
        self.get(name).map(|value| value.parse().map_err(|_| wrong(value))).transpose()
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                Err(ApiError::invalid(format!("Invalid value '{other}' for {name}. Must be true or false.")))
            }
        }
    }

    /// `PREFIX.1`, `PREFIX.2` ... in order of their numbers.
    pub(crate) fn list(&self, prefix: &str) -> Vec<&str> {
        self.numbers(prefix).into_iter().filter_map(|number| self.get(&format!("{prefix}.{number}"))).collect()
    }

    /// The parts `PREFIX.1.*`, `PREFIX.2.*` ..., each without its prefix.
    pub(crate) fn parts(&self, prefix: &str) -> Vec<Self> {
        let part = |number| self.below(&format!("{prefix}.{number}."));
        self.numbers(prefix).into_iter().map(part).collect()
    }

    fn below(&self, prefix: &str) -> Self {
        let inside = self.values.iter().filter_map(|(name, value)| Some((name, name.strip_prefix(prefix)?, value)));
        let values = inside.map(|(name, rest, value)| {
            self.seen.borrow_mut().insert(name.clone());
            (rest.to_owned(), value.clone())
        });
        Self { values: values.collect(), seen: RefCell::default() }
    }

    fn numbers(&self, prefix: &str) -> BTreeSet<u32> {
        let number = |name: &String| name.strip_prefix(prefix)?.strip_prefix('.')?.split('.').next()?.parse().ok();
        self.values.keys().filter_map(number).collect()
    }

    /// The instance ids of a request, each checked; they may be none.
    pub(crate) fn instance_ids(&self) -> Result<Vec<InstanceId>, ApiError> {
        self.list("InstanceId").into_iter().map(instance_id).collect()
    }

    /// The single instance id of a request that needs one.
    pub(crate) fn instance_id(&self) -> Result<InstanceId, ApiError> {
        self.required("InstanceId").and_then(instance_id)
    }

    /// For actions that change something, after all checks and before the change: nothing may be unseen, and a dry run
    /// ends here.
    pub(crate) fn ready(&self) -> Result<(), ApiError> {
        let dry_run = self.boolean("DryRun")?;
        self.refuse_unseen()?;
        if dry_run {
            return Err(ApiError::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set."));
        }
        Ok(())
    }

    /// Refuses what the action did not look at: better no answer than one that ignores what was asked for.
    pub(crate) fn refuse_unseen(&self) -> Result<(), ApiError> {
        let seen = self.seen.borrow();
        match self.values.keys().find(|name| !seen.contains(*name)) {
            Some(name) => Err(ApiError::new(
                "UnsupportedOperation",
                format!("The local cloud does not implement the parameter {name}."),
            )),
            None => Ok(()),
        }
    }

    /// Equal for requests that ask for the same, whatever the order of their parameters.
    pub(crate) fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        for (name, value) in self.values.iter().filter(|(name, _)| !matches!(name.as_str(), "Version" | "DryRun")) {
            digest.update(name.len().to_le_bytes());
            digest.update(name);
            digest.update(value.len().to_le_bytes());
            digest.update(value);
        }
        hex::encode(digest.finalize())
    }
}

fn instance_id(text: &str) -> Result<InstanceId, ApiError> {
    text.parse().map_err(|error| ApiError::new("InvalidInstanceID.Malformed", format!("{error}")))
}

fn decode_pair(pair: &str) -> Result<(String, String), ApiError> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok((decode(name)?, decode(value)?))
}

fn decode(text: &str) -> Result<String, ApiError> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| malformed())
}

fn malformed() -> ApiError {
    ApiError::new("MalformedQueryString", "The query string contains a syntax error.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_query_and_form() {
        let params =
            Params::parse("Action=Do&Version=1", b"A=x+y%26z&L.10=c&L.2=b&L.1=a&P.1.Key=k&P.1.Value.1=v&E=").unwrap();
        assert_eq!(params.take_action().unwrap(), "Do");
        assert_eq!(params.get("A"), Some("x y&z"));
        assert_eq!(params.list("L"), ["a", "b", "c"]);
        let parts = params.parts("P");
        assert_eq!((parts[0].get("Key"), parts[0].list("Value")), (Some("k"), vec!["v"]));
        assert_eq!(params.get("E"), None);
        params.refuse_unseen().unwrap();
        assert!(Params::parse("", b"A=%ff").is_err());
    }

    #[test]
    fn says_what_it_does_not_know() {
        let params = Params::of(&[("Known", "1"), ("Placement.GroupName", "g")]);
        params.get("Known");
        let error = params.refuse_unseen().unwrap_err();
        assert_eq!(error.code, "UnsupportedOperation");
        assert!(error.message.contains("Placement.GroupName"));
    }

    #[test]
    fn fingerprints_tell_values_apart() {
        let print = |pairs: &[(&str, &str)]| Params::of(pairs).fingerprint();
        assert_eq!(print(&[("A", "1"), ("B", "2")]), print(&[("B", "2"), ("A", "1"), ("DryRun", "false")]));
        assert_ne!(print(&[("A", "1"), ("B", "2")]), print(&[("A", "1B2")]));
    }
}
