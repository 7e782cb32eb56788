//! `ec2mpi create`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use ec2mpi_proto::id::ClusterName;
use ec2mpi_proto::v1::{self, CreateClusterRequest, GetClusterRequest, WatchClusterRequest, cluster, node};
use tonic::Code;

use super::connect::{Client, Coordinator, is_lost, told};
use super::parse::{self, MinNodes};
use super::progress::Progress;
use super::watch::watch;
use super::{FAILURE, OK, interrupt, json, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ec2mpi create demo --nodes 4
  ec2mpi create big --nodes 100 --min-nodes 90% --type c7i.2xlarge --timeout 20m --ttl 8h")]
pub(super) struct Args {
    /// Name of the new cluster: a-z, 0-9 and -, at most 31 characters, beginning with a letter.
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// How many nodes, 1 to 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), allow_negative_numbers = true)]
    nodes: u32,
    /// Be content with so many nodes, or with such a share of them [default: all].
    #[arg(long, value_name = "N|P%", allow_negative_numbers = true)]
    min_nodes: Option<MinNodes>,
    /// Give up nodes that are not ready after this time (90, 90s, 10m, 2h).
    #[arg(long, value_name = "TIME", value_parser = parse::wait, default_value = "10m")]
    timeout: Duration,
    /// How long its machines live, 1s to 720h: then they upload what is dirty, power off and are gone
    /// [default: 12h with --cloud aws, for ever on the local cloud].
    #[arg(long, value_name = "TIME", value_parser = parse::ttl)]
    ttl: Option<Duration>,
    /// Return as soon as the intent is recorded.
    #[arg(long)]
    no_wait: bool,
    /// Instance type [default: the cloud's].
    #[arg(long = "type", value_name = "TYPE")]
    instance_type: Option<String>,
    /// MPI slots on each node [default: its physical cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), allow_negative_numbers = true)]
    slots: Option<u32>,
    /// Print the cluster as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let min_nodes = args.min_nodes.map_or(args.nodes, |min| min.of(args.nodes));
    if min_nodes > args.nodes {
        bail!("--min-nodes {min_nodes} is more than --nodes {}", args.nodes);
    }
    let request = CreateClusterRequest {
        name: args.name.to_string(),
        nodes: args.nodes,
        min_nodes,
        timeout_seconds: parse::seconds(args.timeout),
        instance_type: args.instance_type.unwrap_or_default(),
        slots_per_node: args.slots.unwrap_or(0),
        ttl_seconds: args.ttl.map_or(0, parse::seconds),
    };
    let (client, cluster) = create(coordinator, request).await?;
    if args.no_wait {
        return report_begun(&cluster, args.json);
    }
    let name = &args.name;
    tokio::select! {
        cluster = wait(coordinator, client, name) => report(&cluster?, args.json),
        () = interrupt::first() => {
            eprintln!("cluster {name} is still being created: `ec2mpi status {name}` shows it, `ec2mpi destroy {name}` ends it");
            Ok(interrupt::EXIT_CODE)
        }
    }
}

/// Records the intent. After a lost answer it is looked up whether the intent was recorded.
async fn create(coordinator: &Coordinator, request: CreateClusterRequest) -> anyhow::Result<(Client, v1::Cluster)> {
    let mut client = coordinator.connect().await?;
    let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let mut was_lost = false;
    loop {
        match client.create_cluster(request.clone()).await {
            Ok(cluster) => return Ok((client, cluster.into_inner())),
            Err(status) if is_lost(&status) && !was_lost => {
                was_lost = true;
                client = coordinator.reconnect().await?;
            }
            Err(status) if status.code() == Code::AlreadyExists && was_lost => {
                let found = client.get_cluster(GetClusterRequest { name: request.name.clone() }).await;
                let found = found.map_err(told)?.into_inner();
                if found.created_at + 1.0 < begun {
                    return Err(told(status));
                }
                return Ok((client, found));
            }
            Err(status) => return Err(told(status)),
        }
    }
}

async fn wait(coordinator: &Coordinator, client: Client, name: &ClusterName) -> anyhow::Result<v1::Cluster> {
    let mut progress = Progress::new();
    let request = WatchClusterRequest { name: name.to_string(), follow: false };
    let last = watch(coordinator, client, request, |cluster| {
        progress.show(cluster);
        // Someone else may destroy it meanwhile.
        cluster.state() != cluster::State::Destroying
    })
    .await;
    progress.finish();
    match last? {
        Some(cluster) => Ok(cluster),
        None => bail!("cluster {name} was destroyed while it was being created"),
    }
}

fn report_begun(cluster: &v1::Cluster, as_json: bool) -> anyhow::Result<u8> {
    let name = &cluster.name;
    let text = match as_json {
        true => format!("{:#}\n", json::cluster(cluster)),
        false => format!("cluster {name} is being created: `ec2mpi status {name}` shows how it goes\n"),
    };
    output::print(&text)?;
    Ok(OK)
}

fn report(cluster: &v1::Cluster, as_json: bool) -> anyhow::Result<u8> {
    let ready = cluster.state() == cluster::State::Ready;
    if as_json {
        output::print(&format!("{:#}\n", json::cluster(cluster)))?;
    } else if ready {
        output::print(&closing_line(cluster))?;
    }
    if ready {
        return Ok(OK);
    }
    let name = &cluster.name;
    eprintln!("error: cluster {name} is {}: {}", json::cluster_state(cluster.state()), cluster.message);
    for node in cluster.nodes.iter().filter(|node| !node.message.is_empty()) {
        eprintln!("  {}: {} (`ec2mpi why {name} {}`)", node.host_name, node.message, node.index);
    }
    eprintln!("what came up of it is still there: `ec2mpi status {name}` shows it, `ec2mpi destroy {name}` ends it");
    Ok(FAILURE)
}

/// What came up, and where the time went.
fn closing_line(cluster: &v1::Cluster) -> String {
    let ready: Vec<_> = cluster.nodes.iter().filter(|node| node.state() == node::State::Ready).collect();
    let slots: u32 = ready.iter().map(|node| node.slots).sum();
    let nodes = match (ready.len(), cluster.nodes_wanted as usize) {
        (1, 1) => "1 node".to_owned(),
        (all, wanted) if all == wanted => format!("{all} nodes"),
        (some, wanted) => format!("{some} of {wanted} nodes"),
    };
    let seconds = |phase: &str| cluster.timings.get(phase).copied().unwrap_or(0.0);
    let split: Vec<_> =
        ["launch", "boot", "join", "mount"].iter().map(|phase| format!("{phase} {:.1}", seconds(phase))).collect();
    let (name, total) = (&cluster.name, seconds("total"));
    let first = format!("cluster {name} is ready: {nodes}, {slots} slots, in {total:.1} s ({})\n", split.join(", "));
    cluster
        .nodes
        .iter()
        .filter(|node| node.state() != node::State::Ready)
        .fold(first, |text, node| text + &missing(cluster, node))
}

/// A node that the cluster goes on without.
fn missing(cluster: &v1::Cluster, node: &v1::Node) -> String {
    let why = if node.message.is_empty() { json::node_state(node.state()) } else { &node.message };
    format!("  without {}: {why} (`ec2mpi why {} {}`)\n", node.host_name, cluster.name, node.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_splits_the_time() {
        let ready = v1::Node { state: node::State::Ready.into(), slots: 2, ..Default::default() };
        let failed = v1::Node { state: node::State::Failed.into(), slots: 2, ..Default::default() };
        let times = [("total", 6.1), ("launch", 0.4), ("boot", 0.3), ("join", 2.1), ("mount", 1.2)];
        let mut cluster = v1::Cluster {
            name: "demo".into(),
            nodes_wanted: 4,
            nodes: vec![ready.clone(); 4],
            timings: times.into_iter().map(|(phase, time)| (phase.to_owned(), time)).collect(),
            ..Default::default()
        };
        let expected =
            "cluster demo is ready: 4 nodes, 8 slots, in 6.1 s (launch 0.4, boot 0.3, join 2.1, mount 1.2)\n";
        assert_eq!(closing_line(&cluster), expected);
        cluster.nodes[3] = failed;
        cluster.nodes[3].host_name = "demo-3".into();
        cluster.nodes[3].index = 3;
        cluster.nodes[3].message = "the cloud had only 3 of 4 machines".into();
        let text = closing_line(&cluster);
        assert!(text.contains("3 of 4 nodes, 6 slots"), "{text}");
        let expected = "\n  without demo-3: the cloud had only 3 of 4 machines (`ec2mpi why demo 3`)\n";
        assert!(text.ends_with(expected), "{text}");
    }
}
