//! DescribeInstances: by id or by filter, in pages of whole reservations.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Serialize;

use super::Api;
use super::answer::{ReservationItem, Set};
use super::error::ApiError;
use super::filter::Filter;
use super::params::Params;
use crate::fleet::{Instance, InstanceId};

/// EC2 pages by reservation; without MaxResults too.
const PAGE: usize = 1000;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    reservation_set: Set<ReservationItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

/// Orders reservations, and says where a page ended.
type Position = (Timestamp, String);

pub(super) fn run(api: &Api, params: &Params) -> Result<Answer, ApiError> {
    let ids = params.instance_ids()?;
    let filters = Filter::all(params)?;
    let size = page_size(params, &ids)?;
    let after = params.get("NextToken").map(read_token).transpose()?;
    let mut groups = groups(select(api, &ids, &filters)?);
    if let Some(after) = after {
        groups = groups.split_off(&after);
        groups.remove(&after);
    }
    let rest = groups.len() > size;
    let page: Vec<(Position, Vec<Instance>)> = groups.into_iter().take(size).collect();
    let next_token = page.last().filter(|_| rest).map(|(position, _)| write_token(position));
    let reservation_set = page.iter().filter_map(|(_, instances)| ReservationItem::new(instances, api.slots)).collect();
    Ok(Answer { reservation_set, next_token })
}

fn page_size(params: &Params, ids: &[InstanceId]) -> Result<usize, ApiError> {
    match params.number("MaxResults")? {
        None => Ok(PAGE),
        Some(_) if !ids.is_empty() => Err(ApiError::new(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        )),
        Some(size @ 5..=1000) => Ok(size as usize),
        Some(size) => Err(ApiError::invalid(format!(
            "Value ( {size} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000."
        ))),
    }
}

fn select(api: &Api, ids: &[InstanceId], filters: &[Filter]) -> Result<Vec<Instance>, ApiError> {
    let found = if ids.is_empty() { listed(api) } else { by_id(api, ids)? };
    let accepted = |instance: &Instance| -> Result<bool, ApiError> {
        for filter in filters {
            if !filter.accepts_instance(instance)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let mut selected = Vec::new();
    for instance in found {
        if accepted(&instance)? {
            selected.push(instance);
        }
    }
    Ok(selected)
}

/// All instances but those that were launched this moment.
pub(super) fn listed(api: &Api) -> Vec<Instance> {
    let now = Timestamp::now();
    api.fleet.all().into_iter().filter(|instance| instance.is_listed(now)).collect()
}

/// The instances of those ids; one that is unknown is an error, and all that are unknown are named.
pub(super) fn by_id(api: &Api, ids: &[InstanceId]) -> Result<Vec<Instance>, ApiError> {
    let now = Timestamp::now();
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for id in ids {
        match api.fleet.get(id).filter(|instance| instance.is_listed(now)) {
            Some(instance) => found.push(instance),
            None => unknown.push(id.as_str()),
        }
    }
    match unknown.as_slice() {
        [] => Ok(found),
        [one] => Err(not_found(&format!("The instance ID '{one}' does not exist"))),
        many => Err(not_found(&format!("The instance IDs '{}' do not exist", many.join(", ")))),
    }
}

fn not_found(message: &str) -> ApiError {
    ApiError::new("InvalidInstanceID.NotFound", message)
}

fn groups(instances: Vec<Instance>) -> BTreeMap<Position, Vec<Instance>> {
    let mut groups: BTreeMap<Position, Vec<Instance>> = BTreeMap::new();
    for instance in instances {
        let position = (instance.reservation.launched_at, instance.reservation.id.clone());
        groups.entry(position).or_default().push(instance);
    }
    groups
}

fn write_token((at, id): &Position) -> String {
    URL_SAFE_NO_PAD.encode(format!("{at} {id}"))
}

fn read_token(token: &str) -> Result<Position, ApiError> {
    let parse = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let (at, id) = text.split_once(' ')?;
        Some((at.parse().ok()?, id.to_owned()))
    };
    parse().ok_or_else(|| ApiError::invalid(format!("Invalid value '{token}' for NextToken")))
}
