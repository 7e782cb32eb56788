//! ControlService: validate, convert, call.

use std::path::PathBuf;

use ec2mpi_proto::v1::control_service_server::ControlServiceServer;
use tokio_util::sync::CancellationToken;

use crate::cluster::Clusters;
use crate::job::Jobs;
use crate::registry::Registry;
use crate::state::State;

/// What GetInfo tells of this coordinator.
#[derive(Debug, Clone)]
pub struct ServiceInfo {
    pub state_directory: PathBuf,
    /// "local" or "aws".
    pub cloud: String,
}

/// Serves the control API.
#[derive(Debug, Clone)]
pub struct ControlApi {}

impl ControlApi {
    /// `shutdown` is cancelled when a caller asks the coordinator to stop.
    pub fn new(
        _clusters: Clusters,
        _registry: Registry,
        _state: State,
        _jobs: Jobs,
        _info: ServiceInfo,
        _shutdown: CancellationToken,
    ) -> Self {
        todo!()
    }

    /// The tonic service, with this project's message limits.
    pub fn into_service(self) -> ControlServiceServer<Self> {
        todo!()
    }
}
