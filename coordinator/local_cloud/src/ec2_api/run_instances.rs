//! RunInstances: checked whole, written down whole, then started.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::answer::ReservationItem;
use super::error::ApiError;
use super::params::Params;
use super::{Api, create_tags};
use crate::catalog::{self, Architecture};
use crate::fleet::{LaunchError, LaunchSpec, MetadataOptions, OnShutdown, Order, Tokens};

/// EC2's limit, before base64.
const USER_DATA_LIMIT: usize = 16 * 1024;
const CLIENT_TOKEN_LIMIT: usize = 64;

pub(super) fn run(api: &Api, params: &Params) -> Result<ReservationItem, ApiError> {
    let order = order(params, api.slots)?;
    let launched = api.fleet.launch(&order, Timestamp::now()).map_err(launch_error)?;
    if launched.is_new {
        for instance in &launched.instances {
            api.machines.start(&instance.id);
        }
    }
    let forgotten = || idempotency("The instances of the earlier request are gone");
    ReservationItem::new(&launched.instances, api.slots).ok_or_else(forgotten)
}

/// The whole request, checked.
fn order(params: &Params, slots: u32) -> Result<Order, ApiError> {
    let (min, max) = counts(params)?;
    let image = params.required("ImageId")?;
    check_image(image)?;
    let kind = instance_type(params.get("InstanceType").unwrap_or(catalog::DEFAULT_TYPE), slots)?;
    check_subnet(params)?;
    let spec = LaunchSpec {
        image: image.to_owned(),
        instance_type: kind.to_owned(),
        client_token: client_token(params)?,
        user_data: user_data(params)?,
        profile: profile(params)?,
        security_groups: security_groups(params)?,
        on_shutdown: on_shutdown(params)?,
        metadata: metadata(params)?,
        key_name: key_name(params)?,
    };
    let tags = tags(params)?;
    let dry_run = params.boolean("DryRun")?;
    params.refuse_unseen()?;
    if dry_run {
        return Err(ApiError::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set."));
    }
    Ok(Order { min, max, spec, tags, fingerprint: params.fingerprint() })
}

fn counts(params: &Params) -> Result<(u32, u32), ApiError> {
    let count = |name| params.number(name)?.ok_or_else(|| ApiError::missing(name));
    let (min, max) = (count("MinCount")?, count("MaxCount")?);
    if min == 0 || max == 0 {
        return Err(ApiError::invalid(
            "Value (0) for parameter minCount is invalid. The number of instances must be greater than 0.",
        ));
    }
    if min > max {
        return Err(ApiError::invalid("Value for parameter maxCount is invalid: it must not be lower than minCount."));
    }
    Ok((min, max))
}

fn check_image(image: &str) -> Result<(), ApiError> {
    match image.strip_prefix("ami-") {
        _ if image == catalog::IMAGE => Ok(()),
        Some(digits) if matches!(digits.len(), 8 | 17) && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Err(ApiError::new("InvalidAMIID.NotFound", format!("The image id '[{image}]' does not exist")))
        }
        _ => Err(ApiError::new("InvalidAMIID.Malformed", format!("Invalid id: \"{image}\" (expecting \"ami-...\")"))),
    }
}

fn instance_type(name: &str, slots: u32) -> Result<&'static str, ApiError> {
    let unknown = || ApiError::invalid(format!("Invalid value '{name}' for InstanceType."));
    let kind = catalog::instance_type(name, slots).ok_or_else(unknown)?;
    let image = Architecture::host();
    if kind.architecture != image {
        return Err(ApiError::invalid(format!(
            "The architecture '{}' of the specified instance type does not match the architecture '{image}' of the \
             specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
            kind.architecture
        )));
    }
    Ok(kind.name)
}

fn check_subnet(params: &Params) -> Result<(), ApiError> {
    if let Some(zone) = params.get("Placement.AvailabilityZone").filter(|zone| *zone != catalog::ZONE) {
        return Err(ApiError::invalid(format!("Invalid availability zone: [{zone}]")));
    }
    match params.get("SubnetId") {
        None | Some(catalog::SUBNET) => Ok(()),
        Some(other) => {
            Err(ApiError::new("InvalidSubnetID.NotFound", format!("The subnet ID '{other}' does not exist")))
        }
    }
}

fn security_groups(params: &Params) -> Result<Vec<String>, ApiError> {
    let groups: Vec<String> = params.list("SecurityGroupId").into_iter().map(str::to_owned).collect();
    if let Some(other) = groups.iter().find(|group| *group != catalog::SECURITY_GROUP) {
        return Err(ApiError::new("InvalidGroup.NotFound", format!("The security group '{other}' does not exist")));
    }
    Ok(if groups.is_empty() { vec![catalog::SECURITY_GROUP.to_owned()] } else { groups })
}

fn client_token(params: &Params) -> Result<Option<String>, ApiError> {
    match params.get("ClientToken") {
        Some(token) if token.len() > CLIENT_TOKEN_LIMIT || !token.is_ascii() => {
            Err(ApiError::invalid("Client token must be at most 64 ASCII characters long."))
        }
        token => Ok(token.map(str::to_owned)),
    }
}

fn user_data(params: &Params) -> Result<Option<String>, ApiError> {
    let Some(text) = params.get("UserData") else { return Ok(None) };
    let bytes = STANDARD.decode(text).map_err(|_| ApiError::invalid("Invalid BASE64 encoding of user data."))?;
    if bytes.len() > USER_DATA_LIMIT {
        return Err(ApiError::invalid(format!("User data is limited to {USER_DATA_LIMIT} bytes")));
    }
    Ok(Some(text.to_owned()))
}

/// By name or by ARN; the local cloud has a profile and a role of every name.
fn profile(params: &Params) -> Result<Option<String>, ApiError> {
    let arn = params.get("IamInstanceProfile.Arn").map(|arn| arn.rsplit('/').next().unwrap_or(arn));
    let Some(name) = params.get("IamInstanceProfile.Name").or(arn) else { return Ok(None) };
    let is_legal =
        name.len() <= 128 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte));
    if !is_legal {
        return Err(ApiError::invalid(format!(
            "Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
        )));
    }
    Ok(Some(name.to_owned()))
}

fn on_shutdown(params: &Params) -> Result<OnShutdown, ApiError> {
    match params.get("InstanceInitiatedShutdownBehavior") {
        None | Some("stop") => Ok(OnShutdown::Stop),
        Some("terminate") => Ok(OnShutdown::Terminate),
        Some(other) => Err(ApiError::invalid(format!(
            "Invalid value '{other}' for InstanceInitiatedShutdownBehavior. Must be stop or terminate."
        ))),
    }
}

fn metadata(params: &Params) -> Result<MetadataOptions, ApiError> {
    let mut options = MetadataOptions::default();
    let part = |name: &str| format!("MetadataOptions.{name}");
    let wrong = |name: &str, value: &str| ApiError::invalid(format!("Invalid value '{value}' for {name}"));
    let switch = |name: &str, default| match params.get(&part(name)) {
        None => Ok(default),
        Some("enabled") => Ok(true),
        Some("disabled") => Ok(false),
        Some(other) => Err(wrong(name, other)),
    };
    options.enabled = switch("HttpEndpoint", options.enabled)?;
    options.tags = switch("InstanceMetadataTags", options.tags)?;
    switch("HttpProtocolIpv6", false)?;
    options.tokens = match params.get(&part("HttpTokens")) {
        None | Some("required") => Tokens::Required,
        Some("optional") => Tokens::Optional,
        Some(other) => return Err(wrong("HttpTokens", other)),
    };
    if let Some(limit) = params.number(&part("HttpPutResponseHopLimit"))? {
        let legal = u8::try_from(limit).ok().filter(|limit| (1..=64).contains(limit));
        options.hop_limit = legal.ok_or_else(|| wrong("HttpPutResponseHopLimit", &limit.to_string()))?;
    }
    Ok(options)
}

fn key_name(params: &Params) -> Result<Option<String>, ApiError> {
    match params.get("KeyName") {
        None => Ok(None),
        Some(name) => Err(ApiError::new("InvalidKeyPair.NotFound", format!("The key pair '{name}' does not exist"))),
    }
}

/// The tags for the instances; those for their volumes are checked and go nowhere, as there are none.
fn tags(params: &Params) -> Result<BTreeMap<String, String>, ApiError> {
    let mut tags = BTreeMap::new();
    for specification in params.parts("TagSpecification") {
        let found = create_tags::tags(&specification)?;
        match specification.required("ResourceType")? {
            "instance" => tags.extend(found),
            "volume" | "network-interface" => {}
            other => {
                return Err(ApiError::invalid(format!(
                    "'{other}' is not a valid taggable resource type for this operation."
                )));
            }
        }
    }
    create_tags::check_count(&tags)?;
    Ok(tags)
}

fn launch_error(error: LaunchError) -> ApiError {
    match error {
        LaunchError::Mismatch => idempotency(
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        ),
        LaunchError::NoCapacity { left } => ApiError::new(
            "InsufficientInstanceCapacity",
            format!(
                "We currently do not have sufficient capacity in the Availability Zone you requested ({}): {left} \
                 machines are left. Our system will be working on provisioning additional capacity.",
                catalog::ZONE
            ),
        ),
        LaunchError::NoAddresses { free } => ApiError::new(
            "InsufficientFreeAddressesInSubnet",
            format!(
                "There are not enough free addresses in subnet '{}' to satisfy the requested number of instances: {free} are free.",
                catalog::SUBNET
            ),
        ),
        LaunchError::Io(error) => ApiError::internal(&error),
    }
}

fn idempotency(message: &str) -> ApiError {
    ApiError::new("IdempotentParameterMismatch", message)
}
