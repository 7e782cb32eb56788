//! Answers as XML, and the shapes that several actions share.

use serde::Serialize;

use super::error::ApiError;
use crate::catalog;
use crate::fleet::{Instance, Reason, State};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// The body of an answer: `<ActionResponse xmlns=...><requestId>...</requestId> ... </ActionResponse>`.
pub(super) fn xml<T: Serialize>(action: &str, request_id: &str, body: &T) -> Result<String, ApiError> {
    // Serialized alone and put inside: the serializer cannot flatten lists.
    let inner = quick_xml::se::to_string_with_root("body", body)?;
    let inner = inner.strip_prefix("<body>").and_then(|rest| rest.strip_suffix("</body>")).unwrap_or_default();
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"{NAMESPACE}\"><requestId>{request_id}\
         </requestId>{inner}</{action}Response>"
    ))
}

/// The answer of actions that have nothing to say.
#[derive(Debug, Serialize)]
pub(super) struct Return {
    #[serde(rename = "return")]
    pub(super) ok: bool,
}

/// A list: `<item>...</item><item>...</item>`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Set<T> {
    item: Vec<T>,
}

impl<T> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self { item: items.into_iter().collect() }
    }
}

impl<T> Set<T> {
    pub(super) fn empty() -> Self {
        Self { item: Vec::new() }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct StateItem {
    code: u16,
    name: &'static str,
}

impl From<&State> for StateItem {
    fn from(state: &State) -> Self {
        Self { code: state.code(), name: state.name() }
    }
}

/// A change of state, as TerminateInstances answers it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StateChange {
    pub(super) instance_id: String,
    pub(super) current_state: StateItem,
    pub(super) previous_state: StateItem,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Tag {
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Group {
    group_id: String,
    group_name: String,
}

#[derive(Debug, Serialize)]
struct Code {
    code: String,
    message: String,
}

impl From<&Reason> for Code {
    fn from(reason: &Reason) -> Self {
        Self { code: reason.code.clone(), message: reason.message.clone() }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Placement {
    availability_zone: &'static str,
    group_name: &'static str,
    tenancy: &'static str,
}

#[derive(Debug, Serialize)]
struct Monitoring {
    state: &'static str,
}

#[derive(Debug, Serialize)]
struct Profile {
    arn: String,
    id: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CpuOptions {
    core_count: u32,
    threads_per_core: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MetadataItem {
    state: &'static str,
    http_tokens: &'static str,
    http_put_response_hop_limit: u8,
    http_endpoint: &'static str,
    instance_metadata_tags: &'static str,
}

/// One instance, as DescribeInstances lists it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InstanceItem {
    instance_id: String,
    image_id: String,
    instance_state: StateItem,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_dns_name: Option<String>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_name: Option<String>,
    ami_launch_index: u32,
    instance_type: String,
    launch_time: String,
    placement: Placement,
    monitoring: Monitoring,
    #[serde(skip_serializing_if = "Option::is_none")]
    subnet_id: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vpc_id: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_ip_address: Option<String>,
    source_dest_check: bool,
    group_set: Set<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason: Option<Code>,
    architecture: String,
    root_device_type: &'static str,
    root_device_name: &'static str,
    virtualization_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_token: Option<String>,
    tag_set: Set<Tag>,
    hypervisor: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    iam_instance_profile: Option<Profile>,
    ebs_optimized: bool,
    ena_support: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_options: Option<CpuOptions>,
    metadata_options: MetadataItem,
}

impl InstanceItem {
    /// A terminated instance has lost its address, network and groups, as on EC2.
    pub(super) fn new(instance: &Instance, slots: u32) -> Self {
        let spec = instance.spec();
        let here = !instance.state.is_terminated();
        let kind = catalog::instance_type(&spec.instance_type, slots);
        Self {
            instance_id: instance.id.to_string(),
            image_id: spec.image.clone(),
            instance_state: StateItem::from(&instance.state),
            private_dns_name: here.then(|| dns_name(instance)),
            reason: instance.state.reason().map(|reason| reason.message.clone()).unwrap_or_default(),
            key_name: spec.key_name.clone(),
            ami_launch_index: instance.index,
            instance_type: spec.instance_type.clone(),
            launch_time: time(instance.reservation.launched_at),
            placement: Placement { availability_zone: spec.zone.name(), group_name: "", tenancy: "default" },
            monitoring: Monitoring { state: "disabled" },
            subnet_id: here.then_some(spec.zone.subnet()),
            vpc_id: here.then_some(catalog::VPC),
            private_ip_address: here.then(|| instance.address.to_string()),
            source_dest_check: true,
            group_set: if here { groups(&spec.security_groups) } else { Set::empty() },
            state_reason: instance.state.reason().map(Code::from),
            architecture: catalog::Architecture::host().to_string(),
            root_device_type: "ebs",
            root_device_name: "/dev/sda1",
            virtualization_type: "hvm",
            client_token: spec.client_token.clone(),
            tag_set: instance.tags.iter().map(|(key, value)| Tag { key: key.clone(), value: value.clone() }).collect(),
            hypervisor: "xen",
            iam_instance_profile: spec.profile.as_deref().map(profile),
            ebs_optimized: false,
            ena_support: true,
            cpu_options: kind
                .map(|kind| CpuOptions { core_count: kind.cores, threads_per_core: kind.threads_per_core }),
            metadata_options: metadata(instance),
        }
    }
}

fn metadata(instance: &Instance) -> MetadataItem {
    let options = &instance.spec().metadata;
    let enabled = |on| if on { "enabled" } else { "disabled" };
    MetadataItem {
        state: "applied",
        http_tokens: options.tokens.as_str(),
        http_put_response_hop_limit: options.hop_limit,
        http_endpoint: enabled(options.enabled),
        instance_metadata_tags: enabled(options.tags),
    }
}

fn profile(name: &str) -> Profile {
    Profile { arn: crate::imds::profile_arn(name), id: crate::imds::profile_id(name) }
}

fn groups(ids: &[String]) -> Set<Group> {
    ids.iter().map(|id| Group { group_id: id.clone(), group_name: "default".to_owned() }).collect()
}

/// The name that a resolver inside the network would know.
pub(crate) fn dns_name(instance: &Instance) -> String {
    format!("{}.{}.compute.internal", instance.host_name(), catalog::REGION)
}

/// EC2's form of a time: UTC, milliseconds.
pub(crate) fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

/// All the instances of one launch that are listed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReservationItem {
    reservation_id: String,
    owner_id: &'static str,
    group_set: Set<Group>,
    instances_set: Set<InstanceItem>,
}

impl ReservationItem {
    /// The instances must be of one launch and at least one; none otherwise.
    pub(super) fn new(instances: &[Instance], slots: u32) -> Option<Self> {
        let mut sorted: Vec<&Instance> = instances.iter().collect();
        sorted.sort_by_key(|instance| instance.index);
        let first = sorted.first()?;
        Some(Self {
            reservation_id: first.reservation.id.clone(),
            owner_id: catalog::ACCOUNT,
            group_set: Set::empty(),
            instances_set: sorted.iter().map(|instance| InstanceItem::new(instance, slots)).collect(),
        })
    }
}
