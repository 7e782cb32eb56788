//! What is found under each path. Paths and forms as in AWS's "Instance metadata categories".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::catalog;
use crate::document::{Document, DocumentSigner};
use crate::ec2_api::dns_name;
use crate::fleet::Instance;
use crate::keys::Keys;
use crate::network;

/// What one answer is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) instance: &'a Instance,
    pub(super) keys: &'a Keys,
    pub(super) signer: &'a DocumentSigner,
    pub(super) now: Timestamp,
    /// When the machine is to be reclaimed, once that is known.
    pub(super) spot_notice: Option<Timestamp>,
}

/// What is at a path that begins with `/latest` or with a version's date; none where there is nothing.
pub(super) fn find(source: &Source<'_>, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let path = path.trim_start_matches('/');
    if path.is_empty() {
        return Ok(Some(b"latest".to_vec()));
    }
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    if !is_version(version) {
        return Ok(None);
    }
    let text = match rest.trim_end_matches('/') {
        "" => Some(top(source)),
        "user-data" => return user_data(source),
        "dynamic" => Some("instance-identity/".to_owned()),
        rest => match (rest.strip_prefix("meta-data"), rest.strip_prefix("dynamic/instance-identity")) {
            (Some(rest), _) => meta_data(source, rest.trim_start_matches('/'))?,
            (_, Some(rest)) => identity(source, rest.trim_start_matches('/'))?,
            _ => None,
        },
    };
    Ok(text.map(String::into_bytes))
}

fn is_version(text: &str) -> bool {
    text == "latest" || text.parse::<jiff::civil::Date>().is_ok()
}

fn top(source: &Source<'_>) -> String {
    let user_data = if source.instance.spec().user_data.is_some() { "\nuser-data" } else { "" };
    format!("dynamic\nmeta-data{user_data}")
}

fn user_data(source: &Source<'_>) -> anyhow::Result<Option<Vec<u8>>> {
    Ok(source.instance.spec().user_data.as_deref().map(|text| STANDARD.decode(text)).transpose()?)
}

fn meta_data(source: &Source<'_>, path: &str) -> anyhow::Result<Option<String>> {
    let instance = source.instance;
    let spec = instance.spec();
    let found = match path {
        "" => listing(source),
        "ami-id" => spec.image.clone(),
        "ami-launch-index" => instance.index.to_string(),
        "hostname" | "local-hostname" => dns_name(instance),
        "instance-action" => "none".to_owned(),
        "instance-id" => instance.id.to_string(),
        "instance-life-cycle" => if source.spot_notice.is_some() { "spot" } else { "on-demand" }.to_owned(),
        "instance-type" => spec.instance_type.clone(),
        "local-ipv4" => instance.address.to_string(),
        "mac" => network::mac(instance.address),
        "placement" => "availability-zone\navailability-zone-id\nregion".to_owned(),
        "placement/availability-zone" => catalog::ZONE.to_owned(),
        "placement/availability-zone-id" => catalog::ZONE_ID.to_owned(),
        "placement/region" => catalog::REGION.to_owned(),
        "reservation-id" => instance.reservation.id.clone(),
        "security-groups" => "default".to_owned(),
        "services" => "domain\npartition".to_owned(),
        "services/domain" => "amazonaws.com".to_owned(),
        "services/partition" => "aws".to_owned(),
        _ => return if path.starts_with("spot") { Ok(spot(source, path)) } else { role_or_tag(source, path) },
    };
    Ok(Some(found))
}

/// There from the notice on.
fn spot(source: &Source<'_>, path: &str) -> Option<String> {
    let at = time(source.spot_notice?);
    match path {
        "spot" => Some("instance-action\ntermination-time".to_owned()),
        "spot/instance-action" => Some(serde_json::json!({"action": "terminate", "time": at}).to_string()),
        "spot/termination-time" => Some(at),
        _ => None,
    }
}

fn listing(source: &Source<'_>) -> String {
    let instance = source.instance;
    let mut names = vec!["ami-id", "ami-launch-index", "hostname"];
    if instance.spec().profile.is_some() {
        names.push("iam/");
    }
    names.extend(["instance-action", "instance-id", "instance-life-cycle", "instance-type"]);
    names.extend([
        "local-hostname",
        "local-ipv4",
        "mac",
        "placement/",
        "reservation-id",
        "security-groups",
        "services/",
    ]);
    if source.spot_notice.is_some() {
        names.push("spot/");
    }
    if instance.spec().metadata.tags {
        names.push("tags/");
    }
    names.join("\n")
}

/// What is there only for instances with a profile, or whose tags may be read.
fn role_or_tag(source: &Source<'_>, path: &str) -> anyhow::Result<Option<String>> {
    let instance = source.instance;
    if let Some(role) = instance.spec().profile.as_deref() {
        let found = match path {
            "iam" => Some("info\nsecurity-credentials/".to_owned()),
            "iam/info" => Some(serde_json::to_string_pretty(&IamInfo::new(source, role))?),
            "iam/security-credentials" => Some(role.to_owned()),
            _ if path.strip_prefix("iam/security-credentials/") == Some(role) => Some(credentials(source)?),
            _ => None,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    if !instance.spec().metadata.tags {
        return Ok(None);
    }
    Ok(match path {
        "tags" => Some("instance/".to_owned()),
        "tags/instance" => Some(instance.tags.keys().cloned().collect::<Vec<_>>().join("\n")),
        _ => path.strip_prefix("tags/instance/").and_then(|key| instance.tags.get(key)).cloned(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IamInfo {
    code: &'static str,
    last_updated: String,
    instance_profile_arn: String,
    instance_profile_id: String,
}

impl IamInfo {
    fn new(source: &Source<'_>, role: &str) -> Self {
        Self {
            code: "Success",
            last_updated: time(source.now),
            instance_profile_arn: profile_arn(role),
            instance_profile_id: profile_id(role),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    code: &'static str,
    last_updated: String,
    #[serde(rename = "Type")]
    kind: &'static str,
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

fn credentials(source: &Source<'_>) -> anyhow::Result<String> {
    let key = source.keys.role_key(&source.instance.id, source.now)?;
    Ok(serde_json::to_string_pretty(&Credentials {
        code: "Success",
        last_updated: time(key.issued_at),
        kind: "AWS-HMAC",
        access_key_id: key.access_key,
        secret_access_key: key.secret_key,
        token: key.session_token,
        expiration: time(key.expires_at),
    })?)
}

fn identity(source: &Source<'_>, path: &str) -> anyhow::Result<Option<String>> {
    let text = document(source).to_text()?;
    Ok(match path {
        "" => Some("document\npkcs7\nrsa2048\nsignature".to_owned()),
        "document" => Some(text),
        // On AWS `pkcs7` is signed with another key and algorithm; here it is the same as `rsa2048`.
        "pkcs7" | "rsa2048" => Some(source.signer.pkcs7(&text)?),
        "signature" => Some(source.signer.signature(&text)),
        _ => None,
    })
}

fn document(source: &Source<'_>) -> Document {
    let instance = source.instance;
    Document {
        account_id: catalog::ACCOUNT.to_owned(),
        architecture: catalog::Architecture::host().to_string(),
        availability_zone: catalog::ZONE.to_owned(),
        billing_products: None,
        devpay_product_codes: None,
        marketplace_product_codes: None,
        image_id: instance.spec().image.clone(),
        instance_id: instance.id.to_string(),
        instance_type: instance.spec().instance_type.clone(),
        kernel_id: None,
        pending_time: time(instance.reservation.launched_at),
        private_ip: instance.address,
        ramdisk_id: None,
        region: catalog::REGION.to_owned(),
        version: "2017-09-30".to_owned(),
    }
}

/// ARN of the instance profile of that name.
pub(crate) fn profile_arn(name: &str) -> String {
    format!("arn:aws:iam::{}:instance-profile/{name}", catalog::ACCOUNT)
}

/// Id of the instance profile of that name.
pub(crate) fn profile_id(name: &str) -> String {
    let digest = hex::encode_upper(Sha256::digest(name));
    format!("AIPA{}", &digest[..16])
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
