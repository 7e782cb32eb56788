//! RebootInstances.

use super::answer::Return;
use super::error::ApiError;
use super::params::Params;
use super::{Api, describe_instances};
use crate::fleet::State;

pub(super) fn run(api: &Api, params: &Params) -> Result<Return, ApiError> {
    let ids = params.instance_ids()?;
    if ids.is_empty() {
        return Err(ApiError::missing("InstanceId"));
    }
    let instances = describe_instances::by_id(api, &ids)?;
    if let Some(other) = instances.iter().find(|instance| !matches!(instance.state, State::Pending | State::Running)) {
        let message = format!("The instance '{}' is not in a state from which it can be rebooted.", other.id);
        return Err(ApiError::new("IncorrectState", message));
    }
    params.ready()?;
    for id in &ids {
        api.machines.reboot(id);
    }
    Ok(Return { ok: true })
}
