//! What there is to choose from: one region, two zones and subnets, one security group and image. Filters beyond these
//! are refused.

use serde::Serialize;

use super::Api;
use super::answer::Set;
use super::error::ApiError;
use super::filter::Filter;
use super::params::Params;
use crate::catalog;
use crate::fleet::Instance;

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

pub(super) fn zones(params: &Params) -> Result<Zones, ApiError> {
    let row = |zone: catalog::Zone| Row {
        known: vec![
            ("zone-name", zone.name().to_owned()),
            ("zone-id", zone.id().to_owned()),
            ("state", "available".into()),
        ],
        item: Zone {
            zone_name: zone.name(),
            zone_id: zone.id(),
            zone_state: "available",
            region_name: catalog::REGION,
            zone_type: "availability-zone",
        },
    };
    let wanted = Wanted { parameter: "ZoneName", missing: "InvalidParameterValue" };
    Ok(Zones { availability_zone_info: select(params, &wanted, catalog::Zone::ALL.map(row))? })
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
    let all = api.fleet.all();
    let row = |zone: catalog::Zone| {
        let network = zone.network(api.fleet.network());
        let is_there = |instance: &&Instance| instance.spec().zone == zone && !instance.state.is_terminated();
        let used = all.iter().filter(is_there).count();
        let known = [
            ("subnet-id", zone.subnet()),
            ("vpc-id", catalog::VPC),
            ("availability-zone", zone.name()),
            ("availability-zone-id", zone.id()),
            ("default-for-az", "true"),
            ("state", "available"),
        ];
        Row {
            known: known.map(|(name, value)| (name, value.to_owned())).to_vec(),
            item: Subnet {
                subnet_id: zone.subnet(),
                state: "available",
                vpc_id: catalog::VPC,
                cidr_block: network.to_string(),
                available_ip_address_count: network.hosts().count().saturating_sub(used),
                availability_zone: zone.name(),
                availability_zone_id: zone.id(),
                default_for_az: true,
                map_public_ip_on_launch: false,
            },
        }
    };
    let wanted = Wanted { parameter: "SubnetId", missing: "InvalidSubnetID.NotFound" };
    Ok(Subnets { subnet_set: select(params, &wanted, catalog::Zone::ALL.map(row))? })
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
    let known = known.map(|(name, value)| (name, value.to_owned())).to_vec();
    let wanted = Wanted { parameter: "GroupId", missing: "InvalidGroup.NotFound" };
    Ok(SecurityGroups { security_group_info: select(params, &wanted, [Row { known, item: group }])? })
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
    let known = known.map(|(name, value)| (name, value.to_owned())).to_vec();
    let wanted = Wanted { parameter: "ImageId", missing: "InvalidAMIID.NotFound" };
    Ok(Images { images_set: select(params, &wanted, [Row { known, item: image }])? })
}

/// How a request names what it wants.
struct Wanted {
    parameter: &'static str,
    /// Code of the error for a name that nothing has.
    missing: &'static str,
}

/// One thing, with what filters may ask of it; its name comes first.
struct Row<T> {
    known: Vec<(&'static str, String)>,
    item: T,
}

fn select<T, const N: usize>(params: &Params, wanted: &Wanted, rows: [Row<T>; N]) -> Result<Set<T>, ApiError> {
    let names = params.list(wanted.parameter);
    let has_name = |row: &Row<T>, name: &str| row.known.first().is_some_and(|(_, own)| own == name);
    if let Some(other) = names.iter().find(|name| !rows.iter().any(|row| has_name(row, name))) {
        return Err(ApiError::new(wanted.missing, format!("The ID '{other}' does not exist")));
    }
    let is_known = |name: &str| rows.iter().all(|row| row.known.iter().any(|(known, _)| *known == name));
    let filters = Filter::all(params, is_known)?;
    let passes = |row: &Row<T>, filter: &Filter| {
        row.known.iter().any(|(name, value)| *name == filter.name && filter.accepts(value))
    };
    let is_wanted = |row: &Row<T>| {
        (names.is_empty() || names.iter().any(|name| has_name(row, name)))
            && filters.iter().all(|filter| passes(row, filter))
    };
    Ok(rows.into_iter().filter(is_wanted).map(|row| row.item).collect())
}
