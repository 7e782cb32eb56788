//! DescribeInstanceAttribute: the user-data and the shutdown behaviour.

use serde::Serialize;

use super::error::ApiError;
use super::params::Params;
use super::{Api, describe_instances};
use crate::fleet::OnShutdown;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    instance_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_data: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_initiated_shutdown_behavior: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Value {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

pub(super) fn run(api: &Api, params: &Params) -> Result<Answer, ApiError> {
    let id = params.instance_id()?;
    let instances = describe_instances::by_id(api, std::slice::from_ref(&id))?;
    let spec = instances.first().ok_or_else(|| ApiError::missing("InstanceId"))?.spec();
    let mut answer =
        Answer { instance_id: id.to_string(), user_data: None, instance_initiated_shutdown_behavior: None };
    match params.required("Attribute")? {
        "userData" => answer.user_data = Some(Value { value: spec.user_data.clone() }),
        "instanceInitiatedShutdownBehavior" => {
            let word = if spec.on_shutdown == OnShutdown::Stop { "stop" } else { "terminate" };
            answer.instance_initiated_shutdown_behavior = Some(Value { value: Some(word.to_owned()) });
        }
        other => return Err(ApiError::invalid(format!("Value ({other}) for parameter attribute is invalid."))),
    }
    Ok(answer)
}
