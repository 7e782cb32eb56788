//! DescribeTags.

use serde::Serialize;

use super::answer::Set;
use super::error::ApiError;
use super::filter::Filter;
use super::params::Params;
use super::{Api, describe_instances};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    tag_set: Set<Item>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    resource_id: String,
    resource_type: &'static str,
    key: String,
    value: String,
}

pub(super) fn run(api: &Api, params: &Params) -> Result<Answer, ApiError> {
    let filters = Filter::all(params)?;
    let mut selected = Vec::new();
    for instance in describe_instances::listed(api) {
        for (key, value) in &instance.tags {
            let (key, value) = (key.clone(), value.clone());
            let item = Item { resource_id: instance.id.to_string(), resource_type: "instance", key, value };
            if accepts_all(&filters, &item)? {
                selected.push(item);
            }
        }
    }
    Ok(Answer { tag_set: selected.into_iter().collect() })
}

fn accepts_all(filters: &[Filter], item: &Item) -> Result<bool, ApiError> {
    for filter in filters {
        let accepted = match filter.name.as_str() {
            "resource-id" => filter.accepts(&item.resource_id),
            "resource-type" => filter.accepts(item.resource_type),
            "key" => filter.accepts(&item.key),
            "value" => filter.accepts(&item.value),
            _ => return Err(filter.unknown()),
        };
        if !accepted {
            return Ok(false);
        }
    }
    Ok(true)
}
