//! TerminateInstances: all of the instances or, when one is unknown, none.

use serde::Serialize;

use super::answer::{Set, StateChange, StateItem};
use super::error::ApiError;
use super::params::Params;
use super::{Api, describe_instances};
use crate::fleet::{InstanceId, Reason, State};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    instances_set: Set<StateChange>,
}

pub(super) fn run(api: &Api, params: &Params) -> Result<Answer, ApiError> {
    let ids = params.instance_ids()?;
    if ids.is_empty() {
        return Err(ApiError::missing("InstanceId"));
    }
    describe_instances::by_id(api, &ids)?;
    params.ready()?;
    let changes: Result<_, ApiError> = ids.iter().filter_map(|id| terminate(api, id).transpose()).collect();
    Ok(Answer { instances_set: changes? })
}

/// None for an instance that was forgotten in the meantime.
fn terminate(api: &Api, id: &InstanceId) -> Result<Option<StateChange>, ApiError> {
    let before = api.fleet.update(id, |instance| {
        if !matches!(instance.state, State::ShuttingDown { .. } | State::Terminated { .. }) {
            instance.state = State::ShuttingDown { reason: Reason::by_user() };
        }
    })?;
    if before.as_ref().is_some_and(|instance| !instance.state.is_terminated()) {
        api.machines.terminate(id);
    }
    let Some((before, after)) = before.zip(api.fleet.get(id)) else { return Ok(None) };
    Ok(Some(StateChange {
        instance_id: id.to_string(),
        current_state: StateItem::from(&after.state),
        previous_state: StateItem::from(&before.state),
    }))
}
