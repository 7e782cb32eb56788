//! The cloud that machines come from: found, started if it is the local one, and described.

use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ec2mpi_local_cloud::{CloudInfo, InfoError};

use crate::cluster::launch::{Pace, Place};
use crate::config::{CloudKind, Settings};
use crate::provider::Provider;
use crate::provider::ec2::{Ec2Provider, Ec2Settings};

/// The local cloud's only image.
const LOCAL_IMAGE: &str = "ami-00000000000000001";

/// How long the local cloud may take to come up.
const START_LIMIT: Duration = Duration::from_secs(45);

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
        instance_profile: None,
        cidr: info.cidr,
        dedicated_cores: false,
        bucket: info.bucket,
        node_s3_endpoint: info.node_s3_endpoint,
        pace: Pace::LOCAL,
    }
}

async fn find_or_start(settings: &Settings) -> anyhow::Result<CloudInfo> {
    match CloudInfo::load(&settings.cloud_dir) {
        Ok(info) => return Ok(info),
        Err(InfoError::NotRunning(_)) => {}
        Err(error) => return Err(error.into()),
    }
    start(settings).await?;
    CloudInfo::load(&settings.cloud_dir).context("the local cloud started, and then did not answer")
}

/// `ec2mpi cloud start` makes a process of its own, which outlives this one, and returns when it answers.
async fn start(settings: &Settings) -> anyhow::Result<()> {
    let executable = std::env::current_exe().context("cannot find the path of this executable")?;
    tracing::info!(directory = %settings.cloud_dir.display(), "starting the local cloud");
    let mut command = tokio::process::Command::new(executable);
    command
        .args(["cloud", "start", "--mask"])
        .arg(&settings.state_dir)
        .env("EC2MPI_CLOUD_DIR", &settings.cloud_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(START_LIMIT, command.status()).await;
    let seconds = START_LIMIT.as_secs();
    let log = settings.cloud_dir.join("cloud.log");
    let status =
        ended.with_context(|| format!("the local cloud did not start within {seconds} s, see {}", log.display()))?;
    let status = status.context("cannot start the local cloud")?;
    if !status.success() {
        bail!("the local cloud did not start ({status}), see {} and the lines above", log.display());
    }
    Ok(())
}
