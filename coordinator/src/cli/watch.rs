//! Watching a cluster change, across restarts of the coordinator.

use ec2mpi_proto::v1::{self, WatchClusterRequest};
use tonic::{Code, Status, Streaming};

use super::connect::{Client, Coordinator, is_lost, told};

/// Tells every view to `see` until the coordinator ends the watch or `see` answers false. Gives the last view; none
/// when there is no such cluster, or no longer.
pub(super) async fn watch(
    coordinator: &Coordinator,
    mut client: Client,
    request: WatchClusterRequest,
    mut see: impl FnMut(&v1::Cluster) -> bool,
) -> anyhow::Result<Option<v1::Cluster>> {
    let mut last = None;
    loop {
        let outcome = match client.watch_cluster(request.clone()).await {
            Ok(stream) => views(stream.into_inner(), &mut see, &mut last).await,
            Err(status) => Err(status),
        };
        match outcome {
            Ok(()) => return Ok(last),
            Err(status) if is_lost(&status) => client = coordinator.reconnect().await?,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(told(status)),
        }
    }
}

async fn views(
    mut stream: Streaming<v1::Cluster>,
    see: &mut impl FnMut(&v1::Cluster) -> bool,
    last: &mut Option<v1::Cluster>,
) -> Result<(), Status> {
    while let Some(view) = stream.message().await? {
        let go_on = see(&view);
        *last = Some(view);
        if !go_on {
            break;
        }
    }
    Ok(())
}
