//! DescribeInstanceTypes.

use serde::Serialize;

use super::Api;
use super::answer::Set;
use super::error::ApiError;
use super::filter::Filter;
use super::params::Params;
use crate::catalog::{self, InstanceType};

const FILTERS: [&str; 4] =
    ["instance-type", "processor-info.supported-architecture", "network-info.efa-supported", "current-generation"];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    instance_type_set: Set<Item>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    instance_type: &'static str,
    current_generation: bool,
    free_tier_eligible: bool,
    supported_usage_classes: Set<&'static str>,
    supported_root_device_types: Set<&'static str>,
    supported_virtualization_types: Set<&'static str>,
    bare_metal: bool,
    hypervisor: &'static str,
    processor_info: Processor,
    v_cpu_info: Cpus,
    memory_info: Memory,
    instance_storage_supported: bool,
    network_info: Network,
    burstable_performance_supported: bool,
    dedicated_hosts_supported: bool,
    auto_recovery_supported: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Processor {
    supported_architectures: Set<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpus {
    #[serde(rename = "defaultVCpus")]
    default_vcpus: u32,
    default_cores: u32,
    default_threads_per_core: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    size_in_mi_b: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    network_performance: &'static str,
    maximum_network_interfaces: u32,
    maximum_network_cards: u32,
    ipv6_supported: bool,
    ena_support: &'static str,
    efa_supported: bool,
}

pub(super) fn run(api: &Api, params: &Params) -> Result<Answer, ApiError> {
    let names = params.list("InstanceType");
    let all = catalog::instance_types(api.slots);
    let unknown: Vec<&str> = names.iter().copied().filter(|name| !all.iter().any(|kind| kind.name == *name)).collect();
    if !unknown.is_empty() {
        let list = unknown.join(", ");
        let message = format!("The following supplied instance types do not exist: [{list}]");
        return Err(ApiError::new("InvalidInstanceType", message));
    }
    let filters = Filter::all(params, |name| FILTERS.contains(&name))?;
    let is_wanted = |kind: &&InstanceType| {
        (names.is_empty() || names.contains(&kind.name)) && filters.iter().all(|filter| accepts(filter, kind))
    };
    Ok(Answer { instance_type_set: all.iter().filter(is_wanted).map(item).collect() })
}

fn accepts(filter: &Filter, kind: &InstanceType) -> bool {
    match filter.name.as_str() {
        "instance-type" => filter.accepts(kind.name),
        "processor-info.supported-architecture" => filter.accepts(&kind.architecture.to_string()),
        "network-info.efa-supported" => filter.accepts(&kind.efa.to_string()),
        "current-generation" => filter.accepts("true"),
        _ => false,
    }
}

fn item(kind: &InstanceType) -> Item {
    let one = |value| [value].into_iter().collect();
    Item {
        instance_type: kind.name,
        current_generation: true,
        free_tier_eligible: false,
        supported_usage_classes: one("on-demand"),
        supported_root_device_types: one("ebs"),
        supported_virtualization_types: one("hvm"),
        bare_metal: false,
        hypervisor: "nitro",
        processor_info: Processor { supported_architectures: [kind.architecture.to_string()].into_iter().collect() },
        v_cpu_info: Cpus {
            default_vcpus: kind.cores * kind.threads_per_core,
            default_cores: kind.cores,
            default_threads_per_core: kind.threads_per_core,
        },
        memory_info: Memory { size_in_mi_b: kind.memory_mib },
        instance_storage_supported: false,
        network_info: Network {
            network_performance: "Up to 12.5 Gigabit",
            maximum_network_interfaces: 1,
            maximum_network_cards: 1,
            ipv6_supported: false,
            ena_support: "required",
            efa_supported: kind.efa,
        },
        burstable_performance_supported: false,
        dedicated_hosts_supported: false,
        auto_recovery_supported: false,
    }
}
