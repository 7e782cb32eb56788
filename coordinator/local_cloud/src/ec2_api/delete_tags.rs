//! DeleteTags: by key, or by key and value; without tags, all of them.

use super::answer::Return;
use super::error::ApiError;
use super::params::Params;
use super::{Api, create_tags, describe_instances};

pub(super) fn run(api: &Api, params: &Params) -> Result<Return, ApiError> {
    let ids = create_tags::resources(params)?;
    describe_instances::by_id(api, &ids)?;
    let parts = params.parts("Tag");
    let wanted: Vec<(&str, Option<&str>)> =
        parts.iter().map(|part| Ok((part.required("Key")?, part.get("Value")))).collect::<Result<_, ApiError>>()?;
    let is_meant = |key: &str, value: &str| {
        wanted.is_empty() || wanted.iter().any(|(k, v)| *k == key && v.is_none_or(|v| v == value))
    };
    params.ready()?;
    for id in &ids {
        api.fleet.update(id, |instance| instance.tags.retain(|key, value| !is_meant(key, value)))?;
    }
    Ok(Return { ok: true })
}
