//! The cloud that machines come from: found, started if it is the local one, and described.

mod aws;
mod local;

use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::launch::Place;
use crate::config::{CloudKind, Settings};
use crate::provider::Provider;
use crate::state::State;

/// What the coordinator works with.
pub(super) struct Cloud {
    pub(super) place: Place,
    pub(super) provider: Arc<dyn Provider>,
    /// Certificates that identity documents are signed with, PEM.
    pub(super) document_certificates: Vec<String>,
    /// This machine's address as nodes reach it.
    pub(super) advertise: IpAddr,
    pub(super) listen: Listen,
}

/// Where this coordinator listens for nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listen {
    pub(super) address: IpAddr,
    /// None: a free one, the same ever after.
    pub(super) agents_port: Option<u16>,
    pub(super) files_port: Option<u16>,
}

/// Finds the cloud that the settings name.
pub(super) async fn open(settings: &Settings, state: &State) -> anyhow::Result<Cloud> {
    match settings.cloud {
        CloudKind::Local => local::open(settings).await,
        CloudKind::Aws => aws::open(&settings.aws.complete()?, state).await,
    }
}
