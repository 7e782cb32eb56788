//! CreateTags.

use std::collections::BTreeMap;

use super::answer::Return;
use super::error::ApiError;
use super::params::Params;
use super::{Api, describe_instances};
use crate::fleet::InstanceId;

const COUNT_LIMIT: usize = 50;
const KEY_LIMIT: usize = 127;
const VALUE_LIMIT: usize = 255;

pub(super) fn run(api: &Api, params: &Params) -> Result<Return, ApiError> {
    let ids = resources(params)?;
    let new = tags(params)?;
    if new.is_empty() {
        return Err(ApiError::missing("Tag"));
    }
    let instances = describe_instances::by_id(api, &ids)?;
    for instance in &instances {
        let all = instance.tags.iter().chain(&new).map(|(key, value)| (key.clone(), value.clone())).collect();
        check_count(&all)?;
    }
    params.ready()?;
    for id in &ids {
        api.fleet.update(id, |instance| instance.tags.extend(new.clone()))?;
    }
    Ok(Return { ok: true })
}

/// Only instances can be tagged.
pub(super) fn resources(params: &Params) -> Result<Vec<InstanceId>, ApiError> {
    let ids = params.list("ResourceId");
    if ids.is_empty() {
        return Err(ApiError::missing("ResourceIdSet"));
    }
    let unknown = |id: &str| ApiError::new("InvalidID", format!("The ID '{id}' is not valid"));
    ids.into_iter().map(|id| id.parse().map_err(|_| unknown(id))).collect()
}

/// The tags `Tag.N.Key`, `Tag.N.Value`, checked by EC2's rules.
pub(super) fn tags(params: &Params) -> Result<BTreeMap<String, String>, ApiError> {
    params.parts("Tag").iter().map(tag).collect()
}

fn tag(part: &Params) -> Result<(String, String), ApiError> {
    let key = part.required("Key")?;
    let value = part.get("Value").unwrap_or_default();
    if key.chars().count() > KEY_LIMIT {
        return Err(ApiError::invalid("Tag key exceeds the maximum length of 127 characters"));
    }
    if value.chars().count() > VALUE_LIMIT {
        return Err(ApiError::invalid("Tag value exceeds the maximum length of 255 characters"));
    }
    if key.starts_with("aws:") {
        return Err(ApiError::invalid("Tag keys starting with 'aws:' are reserved for internal use"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn check_count(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if tags.len() > COUNT_LIMIT {
        return Err(ApiError::new("TagLimitExceeded", "The maximum number of Tags for a resource has been reached."));
    }
    Ok(())
}
