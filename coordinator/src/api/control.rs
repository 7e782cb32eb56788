//! ControlService: validate, convert, call. One method a call; what a text may be is decided in `parse`, what a view
//! looks like on the wire in `render`.

mod build;
mod copy;
mod parse;
mod render;
mod ssh;
mod stream;

use std::path::PathBuf;

use ec2mpi_proto::MAX_MESSAGE_BYTES;
use ec2mpi_proto::v1::control_service_server::{ControlService, ControlServiceServer};
use ec2mpi_proto::v1::{self, job_event};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::stream::BoxStream;
use crate::cluster::Clusters;
use crate::job::{JobRecord, Jobs};
use crate::output::Offsets;
use crate::registry::Registry;
use crate::state::State;

pub use build::{build_id, build_name};

/// What GetInfo tells of this coordinator beside its build.
#[derive(Debug, Clone)]
pub struct ServiceInfo {
    pub state_directory: PathBuf,
    /// "local" or "aws".
    pub cloud: String,
    /// What it was told of that cloud, by flag.
    pub cloud_settings: Vec<(&'static str, String)>,
}

/// Serves the control API.
#[derive(Debug, Clone)]
pub struct ControlApi {
    clusters: Clusters,
    registry: Registry,
    state: State,
    jobs: Jobs,
    info: ServiceInfo,
    shutdown: CancellationToken,
}

impl ControlApi {
    /// `shutdown` is cancelled when a caller asks the coordinator to stop; streams end when it is cancelled.
    pub fn new(
        clusters: Clusters,
        registry: Registry,
        state: State,
        jobs: Jobs,
        info: ServiceInfo,
        shutdown: CancellationToken,
    ) -> Self {
        Self { clusters, registry, state, jobs, info, shutdown }
    }

    /// The tonic service, with this project's message limits.
    pub fn into_service(self) -> ControlServiceServer<Self> {
        ControlServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn follow(&self, job: &JobRecord) -> Result<Response<BoxStream<v1::JobEvent>>, Status> {
        let listener = self.jobs.listen(&job.cluster_name, Some(&job.id), Offsets::default(), true).await?;
        Ok(Response::new(stream::job_events(listener, self.shutdown.clone())))
    }
}

#[tonic::async_trait]
impl ControlService for ControlApi {
    type WatchClusterStream = BoxStream<v1::Cluster>;
    type RunJobStream = BoxStream<v1::JobEvent>;
    type ExecStream = BoxStream<v1::JobEvent>;
    type JobLogsStream = BoxStream<v1::JobEvent>;
    type CopyOutStream = BoxStream<v1::CopyChunk>;

    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Result<Response<v1::GetInfoResponse>, Status> {
        Ok(Response::new(v1::GetInfoResponse {
            build: build_name().to_owned(),
            pid: std::process::id(),
            state_directory: self.info.state_directory.display().to_string(),
            cloud: self.info.cloud.clone(),
            cloud_settings: self
                .info
                .cloud_settings
                .iter()
                .map(|(name, told)| ((*name).to_owned(), told.clone()))
                .collect(),
            build_id: build_id().map_err(|error| Status::internal(error.to_string()))?,
        }))
    }

    async fn create_cluster(
        &self,
        request: Request<v1::CreateClusterRequest>,
    ) -> Result<Response<v1::Cluster>, Status> {
        let spec = parse::cluster_spec(request.into_inner())?;
        Ok(Response::new(render::cluster(&self.clusters.create(spec).await?)))
    }

    async fn list_clusters(
        &self,
        _: Request<v1::ListClustersRequest>,
    ) -> Result<Response<v1::ListClustersResponse>, Status> {
        let clusters = self.clusters.list().iter().map(render::cluster).collect();
        Ok(Response::new(v1::ListClustersResponse { clusters }))
    }

    async fn get_cluster(&self, request: Request<v1::GetClusterRequest>) -> Result<Response<v1::Cluster>, Status> {
        let name = parse::cluster_name(&request.into_inner().name)?;
        Ok(Response::new(render::cluster(&self.clusters.get(&name)?)))
    }

    async fn watch_cluster(
        &self,
        request: Request<v1::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let request = request.into_inner();
        let views = self.clusters.watch(&parse::cluster_name(&request.name)?)?;
        Ok(Response::new(stream::clusters(views, request.follow, self.shutdown.clone())))
    }

    async fn explain_node(&self, request: Request<v1::ExplainNodeRequest>) -> Result<Response<v1::NodeReport>, Status> {
        let request = request.into_inner();
        let report = self.clusters.why(&parse::cluster_name(&request.cluster)?, &request.node).await?;
        Ok(Response::new(render::report(report)))
    }

    async fn destroy_cluster(
        &self,
        request: Request<v1::DestroyClusterRequest>,
    ) -> Result<Response<v1::Cluster>, Status> {
        let request = request.into_inner();
        let timeout = parse::drain_timeout(request.drain_timeout_seconds)?;
        let view = self.clusters.destroy(&parse::cluster_name(&request.name)?, request.discard, timeout).await?;
        Ok(Response::new(render::cluster(&view)))
    }

    async fn run_job(&self, request: Request<v1::RunJobRequest>) -> Result<Response<Self::RunJobStream>, Status> {
        let (cluster, spec) = parse::run(request.into_inner())?;
        self.follow(&self.jobs.run(&cluster, spec).await?).await
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<Self::ExecStream>, Status> {
        let (cluster, spec) = parse::exec(request.into_inner())?;
        self.follow(&self.jobs.exec(&cluster, spec).await?).await
    }

    async fn explain_job(
        &self,
        request: Request<v1::RunJobRequest>,
    ) -> Result<Response<v1::ExplainJobResponse>, Status> {
        let (cluster, spec) = parse::run(request.into_inner())?;
        Ok(Response::new(render::explanation(self.jobs.explain(&cluster, &spec).await?)))
    }

    async fn job_logs(&self, request: Request<v1::JobLogsRequest>) -> Result<Response<Self::JobLogsStream>, Status> {
        let request = request.into_inner();
        let cluster = parse::cluster_name(&request.cluster)?;
        let job = parse::optional_job(&request.job_id)?;
        let from = Offsets { stdout: request.stdout_offset, stderr: request.stderr_offset };
        let listener = self.jobs.listen(&cluster, job.as_ref(), from, request.follow).await?;
        Ok(Response::new(stream::job_events(listener, self.shutdown.clone())))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let cluster = parse::cluster_name(&request.into_inner().cluster)?;
        let jobs = self.jobs.list(&cluster)?.iter().map(render::job).collect();
        Ok(Response::new(v1::ListJobsResponse { jobs }))
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Result<Response<v1::Job>, Status> {
        let request = request.into_inner();
        let (cluster, job) = (parse::cluster_name(&request.cluster)?, parse::job(&request.job_id)?);
        Ok(Response::new(render::job(&self.jobs.cancel(&cluster, &job).await?)))
    }

    async fn copy_in(
        &self,
        request: Request<Streaming<v1::CopyInRequest>>,
    ) -> Result<Response<v1::CopyInResponse>, Status> {
        copy::copy_in(&self.clusters, &self.registry, request.into_inner()).await?;
        Ok(Response::new(v1::CopyInResponse {}))
    }

    async fn copy_out(&self, request: Request<v1::CopyOutRequest>) -> Result<Response<Self::CopyOutStream>, Status> {
        let target = parse::copy_source(request.into_inner())?;
        Ok(Response::new(copy::copy_out(&self.clusters, &self.registry, &target).await?))
    }

    async fn get_hostfile(
        &self,
        request: Request<v1::GetHostfileRequest>,
    ) -> Result<Response<v1::GetHostfileResponse>, Status> {
        let request = request.into_inner();
        let ranks = (request.ranks > 0).then_some(request.ranks);
        let text = self.jobs.hostfile(&parse::cluster_name(&request.cluster)?, ranks).await?;
        Ok(Response::new(v1::GetHostfileResponse { text }))
    }

    async fn issue_ssh_certificate(
        &self,
        request: Request<v1::IssueSshCertificateRequest>,
    ) -> Result<Response<v1::IssueSshCertificateResponse>, Status> {
        let request = request.into_inner();
        let cluster = self.clusters.get(&parse::cluster_name(&request.cluster)?)?;
        Ok(Response::new(ssh::issue(&self.state, &cluster, &request.public_key)?))
    }

    async fn stop(&self, _: Request<v1::StopRequest>) -> Result<Response<v1::StopResponse>, Status> {
        tracing::info!("asked to stop");
        self.shutdown.cancel();
        Ok(Response::new(v1::StopResponse {}))
    }
}

/// One event of a job on the wire.
fn event(event: job_event::Event) -> v1::JobEvent {
    v1::JobEvent { event: Some(event) }
}
