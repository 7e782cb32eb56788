//! What there is to choose from: one region, zone, subnet, security group and image. Filters other than by id are refused.

use serde::Serialize;

use super::Api;
use super::answer::Set;
use super::error::ApiError;
use super::filter::Filter;
use super::params::Params;
use crate::catalog;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Regions {
    region_info: Set<Region>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    region_name: &'static str,
    region_endpoint: &'static str,
    opt_in_status: &'static str,
}

pub(super) fn regions() -> Regions {
    let region =
        Region { region_name: catalog::REGION, region_endpoint: "localhost", opt_in_status: "opt-in-not-required" };
    Regions { region_info: [region].into_iter().collect() }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Zones {
    availability_zone_info: Set<Zone>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Zone {
    zone_name: &'static str,
    zone_id: &'static str,
    zone_state: &'static str,
    region_name: &'static str,
    zone_type: &'static str,
}

pub(super) fn zones() -> Zones {
    let zone = Zone {
        zone_name: catalog::ZONE,
        zone_id: catalog::ZONE_ID,
        zone_state: "available",
        region_name: catalog::REGION,
        zone_type: "availability-zone",
    };
    Zones { availability_zone_info: [zone].into_iter().collect() }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Subnets {
    subnet_set: Set<Subnet>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Subnet {
    subnet_id: &'static str,
    state: &'static str,
    vpc_id: &'static str,
    cidr_block: String,
    available_ip_address_count: usize,
    availability_zone: &'static str,
    availability_zone_id: &'static str,
    default_for_az: bool,
    map_public_ip_on_launch: bool,
}

pub(super) fn subnets(api: &Api, params: &Params) -> Result<Subnets, ApiError> {
    let network = api.fleet.network();
    let used = api.fleet.all().iter().filter(|instance| !instance.state.is_terminated()).count();
    let subnet = Subnet {
        subnet_id: catalog::SUBNET,
        state: "available",
        vpc_id: catalog::VPC,
        cidr_block: network.to_string(),
        available_ip_address_count: network.hosts().count().saturating_sub(used),
        availability_zone: catalog::ZONE,
        availability_zone_id: catalog::ZONE_ID,
        default_for_az: true,
        map_public_ip_on_launch: false,
    };
    let known = [("subnet-id", catalog::SUBNET), ("vpc-id", catalog::VPC), ("availability-zone", catalog::ZONE)];
    let wanted = Wanted { parameter: "SubnetId", id: catalog::SUBNET, missing: "InvalidSubnetID.NotFound" };
    Ok(Subnets { subnet_set: select(params, &wanted, &known, subnet)? })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecurityGroups {
    security_group_info: Set<SecurityGroup>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SecurityGroup {
    owner_id: &'static str,
    group_id: &'static str,
    group_name: &'static str,
    group_description: &'static str,
    vpc_id: &'static str,
}

pub(super) fn security_groups(params: &Params) -> Result<SecurityGroups, ApiError> {
    let group = SecurityGroup {
        owner_id: catalog::ACCOUNT,
        group_id: catalog::SECURITY_GROUP,
        group_name: "default",
        group_description: "default VPC security group",
        vpc_id: catalog::VPC,
    };
    let known = [("group-id", catalog::SECURITY_GROUP), ("group-name", "default"), ("vpc-id", catalog::VPC)];
    let wanted = Wanted { parameter: "GroupId", id: catalog::SECURITY_GROUP, missing: "InvalidGroup.NotFound" };
    Ok(SecurityGroups { security_group_info: select(params, &wanted, &known, group)? })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Images {
    images_set: Set<Image>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    image_id: &'static str,
    image_state: &'static str,
    image_owner_id: &'static str,
    name: &'static str,
    architecture: String,
    image_type: &'static str,
    is_public: bool,
    root_device_type: &'static str,
    root_device_name: &'static str,
    virtualization_type: &'static str,
    hypervisor: &'static str,
    ena_support: bool,
}

pub(super) fn images(params: &Params) -> Result<Images, ApiError> {
    let architecture = catalog::Architecture::host().to_string();
    let image = Image {
        image_id: catalog::IMAGE,
        image_state: "available",
        image_owner_id: catalog::ACCOUNT,
        name: "this-machine",
        architecture: architecture.clone(),
        image_type: "machine",
        is_public: false,
        root_device_type: "ebs",
        root_device_name: "/dev/sda1",
        virtualization_type: "hvm",
        hypervisor: "xen",
        ena_support: true,
    };
    let known = [
        ("image-id", catalog::IMAGE),
        ("architecture", architecture.as_str()),
        ("name", "this-machine"),
        ("state", "available"),
    ];
    let wanted = Wanted { parameter: "ImageId", id: catalog::IMAGE, missing: "InvalidAMIID.NotFound" };
    Ok(Images { images_set: select(params, &wanted, &known, image)? })
}

/// How a request names the only thing there is.
struct Wanted {
    parameter: &'static str,
    id: &'static str,
    missing: &'static str,
}

fn select<T>(params: &Params, wanted: &Wanted, known: &[(&str, &str)], only: T) -> Result<Set<T>, ApiError> {
    if let Some(other) = params.list(wanted.parameter).into_iter().find(|id| *id != wanted.id) {
        return Err(ApiError::new(wanted.missing, format!("The ID '{other}' does not exist")));
    }
    for filter in Filter::all(params)? {
        let value = known.iter().find(|(name, _)| *name == filter.name).ok_or_else(|| filter.unknown())?.1;
        if !filter.accepts(value) {
            return Ok(Set::empty());
        }
    }
    Ok([only].into_iter().collect())
}
