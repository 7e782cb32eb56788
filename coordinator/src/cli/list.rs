//! `ec2mpi list`.

use ec2mpi_proto::v1::{self, ListClustersRequest, node};

use super::connect::Coordinator;
use super::{OK, json, output, table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the clusters as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let clusters =
        coordinator.ask(async |mut client| client.list_clusters(ListClustersRequest {}).await).await?.clusters;
    if args.json {
        let values: Vec<_> = clusters.iter().map(json::cluster).collect();
        output::print(&format!("{:#}\n", serde_json::Value::from(values)))?;
    } else if clusters.is_empty() {
        eprintln!("no clusters: `ec2mpi create NAME --nodes N` makes one");
    } else {
        let rows: Vec<_> = clusters.iter().map(row).collect();
        output::print(&table::render(&["NAME", "STATE", "NODES", "SLOTS", "TYPE", "CREATED", "VOLUME"], &rows))?;
    }
    Ok(OK)
}

fn row(cluster: &v1::Cluster) -> Vec<String> {
    let ready: Vec<_> = cluster.nodes.iter().filter(|node| node.state() == node::State::Ready).collect();
    vec![
        cluster.name.clone(),
        json::cluster_state(cluster.state()).into(),
        format!("{}/{}", ready.len(), cluster.nodes_wanted),
        ready.iter().map(|node| node.slots).sum::<u32>().to_string(),
        cluster.instance_type.clone(),
        table::moment(cluster.created_at),
        cluster.volume.clone(),
    ]
}
