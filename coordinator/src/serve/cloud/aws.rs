//! AWS, or whatever stands at the endpoints that were given instead of AWS's own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Cloud, Listen};
use crate::cluster::launch::{Pace, Place};
use crate::config::{Aws, CloudKind};
use crate::identity::document;
use crate::provider::ec2::{Ec2Provider, Ec2Settings, own_address};
use crate::state::State;

/// When machines end themselves, unless `create` says otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(12 * 3600);

/// Which cloud the records are of.
const CLOUD: &str = "cloud";

/// The address block of a subnet, which never changes.
const BLOCK_OF: &str = "cidr_of_";

/// Everything is found out and checked here, before anything is launched.
pub(super) async fn open(aws: &Aws, state: &State) -> anyhow::Result<Cloud> {
    check_records(aws, state)?;
    let document_certificates = vec![document_certificate(aws)?];
    let advertise = advertise(aws).await?;
    let api = Ec2Settings { region: aws.region.clone(), endpoint: aws.endpoint.clone(), credentials: None };
    let provider = Ec2Provider::connect(&api).await;
    let cidr = block(aws, &provider, state).await?;
    Ok(Cloud {
        provider: Arc::new(provider),
        document_certificates,
        advertise: IpAddr::V4(advertise),
        listen: Listen { address: aws.listen, agents_port: Some(aws.port), files_port: Some(aws.port + 1) },
        place: place(aws, cidr),
    })
}

fn place(aws: &Aws, cidr: String) -> Place {
    Place {
        cloud: CloudKind::Aws.name().to_owned(),
        region: aws.region.clone(),
        image: aws.image.clone(),
        default_instance_type: aws.instance_type.clone(),
        default_ttl: Some(DEFAULT_TTL),
        subnet: Some(aws.subnet.clone()),
        security_groups: aws.security_groups.clone(),
        instance_profile: Some(aws.instance_profile.clone()),
        cidr,
        dedicated_cores: !aws.shared_cores,
        bucket: aws.bucket.clone(),
        prefix: aws.prefix.clone(),
        node_s3_endpoint: aws.s3_endpoint.clone().unwrap_or_default(),
        pace: Pace::AWS,
    }
}

/// A cluster is looked for where it was launched: in another region its machines would seem to have ended.
fn check_records(aws: &Aws, state: &State) -> anyhow::Result<()> {
    let ours = format!("aws {} {}", aws.region, aws.endpoint.as_deref().unwrap_or("-"));
    match state.setting(CLOUD)? {
        Some(theirs) if theirs != ours && !state.clusters()?.is_empty() => bail!(
            "the records hold clusters of another place ({theirs}; asked for: {ours}): \
             destroy them first, or choose another place for new records with --state-dir and --socket"
        ),
        _ => Ok(state.set_setting(CLOUD, &ours)?),
    }
}

fn document_certificate(aws: &Aws) -> anyhow::Result<String> {
    if let Some(path) = &aws.document_certificate {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the document certificate {}", path.display()))?;
        document::check_certificate(&text).with_context(|| format!("{}", path.display()))?;
        return Ok(text);
    }
    let region = &aws.region;
    document::aws_certificate(region).map(str::to_owned).with_context(|| {
        format!(
            "this build carries no certificate of the identity documents of region {region} (it has {}): save the \
             RSA-2048 one that AWS publishes (EC2 user guide, \"AWS public certificates for instance identity document \
             signatures\") and name it with --document-certificate FILE",
            document::aws_regions().collect::<Vec<_>>().join(", ")
        )
    })
}

async fn advertise(aws: &Aws) -> anyhow::Result<Ipv4Addr> {
    match aws.advertise {
        Some(address) => Ok(address),
        None => own_address().await.context(
            "nodes have to be told the address of this machine, and it is not on EC2 where that could be asked for: \
             give it with --advertise ADDRESS (nodes connect to it from their subnet)",
        ),
    }
}

async fn block(aws: &Aws, provider: &Ec2Provider, state: &State) -> anyhow::Result<String> {
    let name = format!("{BLOCK_OF}{}", aws.subnet);
    if let Some(known) = state.setting(&name)? {
        return Ok(known);
    }
    let asked = provider.subnet_block(&aws.subnet).await;
    let cidr = asked.with_context(|| format!("cannot look up {} in {}", aws.subnet, aws.region))?;
    state.set_setting(&name, &cidr)?;
    Ok(cidr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AwsOptions;

    fn aws(region: &str) -> Aws {
        let text = |text: &str| Some(text.to_owned());
        let options = AwsOptions {
            region: text(region),
            image: text("ami-1"),
            subnet: text("subnet-1"),
            security_groups: Some(vec!["sg-1".to_owned()]),
            instance_profile: text("node"),
            instance_type: text("c7i.large"),
            bucket: text("bucket"),
            ..AwsOptions::default()
        };
        options.complete().unwrap()
    }

    #[test]
    fn records_with_clusters_stay_with_their_region() {
        let state = State::in_memory().unwrap();
        check_records(&aws("eu-west-1"), &state).unwrap();
        check_records(&aws("us-east-1"), &state).unwrap();
        crate::state::sample_cluster(&state, "demo", 1);
        let error = check_records(&aws("eu-west-1"), &state).unwrap_err().to_string();
        assert!(error.contains("us-east-1") && error.contains("--state-dir"), "{error}");
        check_records(&aws("us-east-1"), &state).unwrap();
        let elsewhere = Aws { endpoint: Some("http://127.0.0.1:1".to_owned()), ..aws("us-east-1") };
        assert!(check_records(&elsewhere, &state).is_err());
    }

    #[test]
    fn a_region_without_a_certificate_says_what_to_do() {
        let error = document_certificate(&aws("mars-north-1")).unwrap_err().to_string();
        assert!(error.contains("mars-north-1") && error.contains("--document-certificate"), "{error}");
        let missing = Aws { document_certificate: Some("/no/such.pem".into()), ..aws("us-east-1") };
        assert!(format!("{:#}", document_certificate(&missing).unwrap_err()).contains("/no/such.pem"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.pem");
        std::fs::write(&path, "no certificate").unwrap();
        let wrong = Aws { document_certificate: Some(path), ..aws("us-east-1") };
        assert!(format!("{:#}", document_certificate(&wrong).unwrap_err()).contains("trusted certificate"));
    }
}
