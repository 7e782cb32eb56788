//! The cloud that machines come from: found, started if it is the local one, and described.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use ec2mpi_local_cloud::{CloudInfo, Options};

use crate::cluster::launch::{Pace, Place};
use crate::config::{CloudKind, Settings};
use crate::provider::Provider;
use crate::provider::ec2::{Ec2Provider, Ec2Settings};

/// The instance profile of every machine on the local cloud.
const LOCAL_INSTANCE_PROFILE: &str = "ec2mpi-node";

/// The local cloud's only image.
const LOCAL_IMAGE: &str = "ami-00000000000000001";

/// What the coordinator works with.
pub(super) struct Cloud {
    pub(super) place: Place,
    pub(super) provider: Arc<dyn Provider>,
    /// Certificates that identity documents are signed with, PEM.
    pub(super) document_certificates: Vec<String>,
    /// This machine's address as nodes reach it.
    pub(super) gateway: IpAddr,
}

/// Finds the cloud that the settings name.
pub(super) async fn open(settings: &Settings) -> anyhow::Result<Cloud> {
    match settings.cloud {
        CloudKind::Local => Ok(describe(find_or_start(settings).await?).await),
        CloudKind::Aws => bail!("this build knows the local cloud only; leave --cloud aws away"),
    }
}

async fn describe(info: CloudInfo) -> Cloud {
    let settings = Ec2Settings {
        region: info.region.clone(),
        endpoint: Some(info.ec2_endpoint.clone()),
        credentials: Some((info.access_key.clone(), info.secret_key.clone())),
    };
    Cloud {
        provider: Arc::new(Ec2Provider::connect(&settings).await),
        document_certificates: vec![info.document_certificate_pem.clone()],
        gateway: IpAddr::V4(info.gateway),
        place: place(info),
    }
}

fn place(info: CloudInfo) -> Place {
    Place {
        cloud: CloudKind::Local.name().to_owned(),
        region: info.region,
        image: LOCAL_IMAGE.to_owned(),
        default_instance_type: info.default_instance_type,
        subnet: None,
        security_groups: Vec::new(),
        // What gives a machine its credentials for the bucket; the local cloud has a profile of every name.
        instance_profile: Some(LOCAL_INSTANCE_PROFILE.to_owned()),
        cidr: info.cidr,
        dedicated_cores: false,
        bucket: info.bucket,
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
