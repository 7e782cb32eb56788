//! The cloud on this machine.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use ec2mpi_local_cloud::{CloudInfo, Options};

use super::{Cloud, Listen};
use crate::cluster::launch::{Pace, Place};
use crate::config::{CloudKind, Settings};
use crate::provider::ec2::{Ec2Provider, Ec2Settings};

/// The instance profile of every machine on the local cloud.
const INSTANCE_PROFILE: &str = "ec2mpi-node";

/// The local cloud's only image.
const IMAGE: &str = "ami-00000000000000001";

pub(super) async fn open(settings: &Settings) -> anyhow::Result<Cloud> {
    let info = find_or_start(settings).await?;
    let api = Ec2Settings {
        region: info.region.clone(),
        endpoint: Some(info.ec2_endpoint.clone()),
        credentials: Some((info.access_key.clone(), info.secret_key.clone())),
    };
    let gateway = IpAddr::V4(info.gateway);
    Ok(Cloud {
        provider: Arc::new(Ec2Provider::connect(&api).await),
        document_certificates: vec![info.document_certificate_pem.clone()],
        advertise: gateway,
        listen: Listen { address: gateway, agents_port: None, files_port: None },
        place: place(info),
    })
}

fn place(info: CloudInfo) -> Place {
    Place {
        cloud: CloudKind::Local.name().to_owned(),
        region: info.region,
        image: IMAGE.to_owned(),
        default_instance_type: info.default_instance_type,
        default_ttl: None,
        subnet: None,
        security_groups: Vec::new(),
        // What gives a machine its credentials for the bucket; the local cloud has a profile of every name.
        instance_profile: Some(INSTANCE_PROFILE.to_owned()),
        cidr: info.cidr,
        dedicated_cores: false,
        bucket: info.bucket,
        prefix: String::new(),
        node_s3_endpoint: info.node_s3_endpoint,
        pace: Pace::LOCAL,
    }
}

/// The cloud is a process of its own, which outlives this one; where it is started from here, its machines see nothing
/// of the coordinator's directory.
async fn find_or_start(settings: &Settings) -> anyhow::Result<CloudInfo> {
    let directory = settings.cloud_dir.clone();
    let options = Options { masks: vec![settings.state_dir.clone()], ..Options::default() };
    let started = tokio::task::spawn_blocking(move || ec2mpi_local_cloud::ensure_running(&directory, &options));
    started.await.context("starting the local cloud panicked")?
}
