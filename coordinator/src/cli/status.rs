//! `ec2mpi status`.

use ec2mpi_proto::id::ClusterName;
use ec2mpi_proto::v1::{self, GetClusterRequest};

use super::connect::Coordinator;
use super::progress::summary;
use super::{OK, json, output, parse, table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// Print the cluster as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let request = GetClusterRequest { name: args.name.to_string() };
    let cluster = coordinator.ask(async |mut client| client.get_cluster(request.clone()).await).await?;
    let text = if args.json { format!("{:#}\n", json::cluster(&cluster)) } else { page(&cluster) };
    output::print(&text)?;
    Ok(OK)
}

fn page(cluster: &v1::Cluster) -> String {
    let mut lines = vec![
        format!("cluster  {} ({})", cluster.name, cluster.cluster_id),
        format!("state    {}, {}", json::cluster_state(cluster.state()), summary(cluster)),
        format!("volume   {}", cluster.volume),
        format!("type     {}, {} cloud", cluster.instance_type, cluster.cloud),
        format!("created  {}", table::moment(cluster.created_at)),
    ];
    if cluster.expires_at > 0.0 {
        lines.push(format!("ends     {}", table::moment(cluster.expires_at)));
    }
    if !cluster.message.is_empty() {
        lines.push(format!("message  {}", cluster.message));
    }
    let rows: Vec<_> = cluster.nodes.iter().map(row).collect();
    let header = ["NODE", "NAME", "STATE", "ADDRESS", "INSTANCE", "SLOTS", "VOLUME", "NOT IN S3", "FAILED", "MESSAGE"];
    format!("{}\n\n{}", lines.join("\n"), table::render(&header, &rows))
}

fn row(node: &v1::Node) -> Vec<String> {
    let volume = node.volume.clone().unwrap_or_default();
    let messages = [node.message.as_str(), volume.message.as_str()];
    vec![
        node.index.to_string(),
        node.host_name.clone(),
        json::node_state(node.state()).into(),
        node.address.clone(),
        node.instance_id.clone(),
        node.slots.to_string(),
        volume.state,
        format!("{} in {} files", table::bytes(volume.dirty_bytes), volume.dirty_files),
        volume.failed_files.to_string(),
        messages.into_iter().filter(|message| !message.is_empty()).collect::<Vec<_>>().join("; "),
    ]
}
