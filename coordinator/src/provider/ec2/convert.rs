//! Between the provider's types and the SDK's.

use std::collections::BTreeMap;

use aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder;
use aws_sdk_ec2::types::{
    ArchitectureType, HttpTokensState, IamInstanceProfileSpecification, InstanceMetadataEndpointState,
    InstanceMetadataOptionsRequest, InstanceMetadataTagsState, InstanceStateName, InstanceType, InstanceTypeInfo,
    ResourceType, ShutdownBehavior, Tag, TagSpecification, VCpuInfo,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::super::{Instance, InstanceState, LaunchRequest, ProviderError, TypeFacts, tag};

/// RunInstances for a request: once by its launch id, terminated by its own shutdown, metadata only by token and not
/// from beyond the machine itself.
pub(super) fn launch_call(
    call: RunInstancesFluentBuilder,
    request: &LaunchRequest,
) -> Result<RunInstancesFluentBuilder, ProviderError> {
    let count = |machines: u32| i32::try_from(machines).map_err(|e| ProviderError::Refused(e.to_string()));
    let profile = request.instance_profile.as_ref().map(|n| IamInstanceProfileSpecification::builder().name(n).build());
    let groups = Some(request.security_groups.clone()).filter(|groups| !groups.is_empty());
    Ok(call
        .client_token(request.launch.as_str())
        .min_count(count(request.min)?)
        .max_count(count(request.max)?)
        .image_id(&request.image)
        .instance_type(InstanceType::from(request.instance_type.as_str()))
        .set_subnet_id(request.subnet.clone())
        .set_security_group_ids(groups)
        .set_iam_instance_profile(profile)
        .user_data(BASE64_STANDARD.encode(&request.user_data))
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .metadata_options(metadata_options())
        .tag_specifications(tags(ResourceType::Instance, &request.tags))
        .tag_specifications(tags(ResourceType::Volume, &request.tags)))
}

fn metadata_options() -> InstanceMetadataOptionsRequest {
    InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(HttpTokensState::Required)
        .http_put_response_hop_limit(1)
        .instance_metadata_tags(InstanceMetadataTagsState::Disabled)
        .build()
}

fn tags(kind: ResourceType, tags: &BTreeMap<String, String>) -> TagSpecification {
    let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags)).build()
}

/// A machine as EC2 lists it. What cannot be read is an unknown answer, not a machine left out.
pub(super) fn instance(found: &aws_sdk_ec2::types::Instance) -> Result<Instance, ProviderError> {
    let unreadable = |what: &str| ProviderError::Unknown(format!("a machine was listed without a readable {what}"));
    let id = found.instance_id().and_then(|id| id.parse().ok()).ok_or_else(|| unreadable("id"))?;
    let state = found.state().and_then(|state| state.name()).and_then(state).ok_or_else(|| unreadable("state"))?;
    let launch_tag = found.tags().iter().find(|t| t.key() == Some(tag::LAUNCH_ID)).and_then(|t| t.value());
    let address = found.private_ip_address().filter(|address| !address.is_empty());
    let address = address.map(str::parse).transpose().map_err(|_| unreadable("address"))?;
    let why = found.state_reason().and_then(|reason| reason.message()).or(found.state_transition_reason());
    Ok(Instance {
        id,
        launch: launch_tag.and_then(|launch| launch.parse().ok()),
        launch_index: found.ami_launch_index().and_then(|index| u32::try_from(index).ok()).unwrap_or(0),
        state,
        address,
        reason: why.unwrap_or_default().to_owned(),
    })
}

/// The text of GetConsoleOutput, which may be cut anywhere.
pub(super) fn console(base64: &str) -> Result<String, ProviderError> {
    let compact: String = base64.split_ascii_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(compact).map_err(|e| ProviderError::Unknown(format!("console output: {e}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn state(name: &InstanceStateName) -> Option<InstanceState> {
    match name {
        InstanceStateName::Pending => Some(InstanceState::Pending),
        InstanceStateName::Running => Some(InstanceState::Running),
        InstanceStateName::ShuttingDown => Some(InstanceState::ShuttingDown),
        InstanceStateName::Terminated => Some(InstanceState::Terminated),
        InstanceStateName::Stopping => Some(InstanceState::Stopping),
        InstanceStateName::Stopped => Some(InstanceState::Stopped),
        _ => None,
    }
}

/// Cores and architecture of a type.
pub(super) fn type_facts(found: &InstanceTypeInfo) -> Result<TypeFacts, ProviderError> {
    let name = found.instance_type().map_or("?", InstanceType::as_str);
    let cores = found.v_cpu_info().and_then(cores);
    let cores = cores.ok_or_else(|| ProviderError::Unknown(format!("cores of instance type {name}")))?;
    let supported = found.processor_info().map(|info| info.supported_architectures()).unwrap_or_default();
    let architecture = supported.iter().find_map(|architecture| match architecture {
        ArchitectureType::X8664 => Some("x86_64"),
        ArchitectureType::Arm64 => Some("aarch64"),
        _ => None,
    });
    let architecture = architecture
        .ok_or_else(|| ProviderError::Refused(format!("instance type {name} is neither x86_64 nor aarch64")))?;
    Ok(TypeFacts { cores, architecture: architecture.to_owned() })
}

fn cores(info: &VCpuInfo) -> Option<u32> {
    let positive = |count: i32| u32::try_from(count).ok().filter(|count| *count > 0);
    let threads = info.default_threads_per_core().and_then(positive).unwrap_or(1);
    let from_threads = || Some(info.default_v_cpus().and_then(positive)? / threads);
    info.default_cores().and_then(positive).or_else(from_threads)
}
