//! `ec2mpi destroy`.

use std::time::Duration;

use anyhow::bail;
use ec2mpi_proto::id::ClusterName;
use ec2mpi_proto::v1::{self, DestroyClusterRequest, WatchClusterRequest, cluster};
use tonic::Code;

use super::connect::{Client, Coordinator, is_lost, told};
use super::progress::Progress;
use super::watch::watch;
use super::{FAILURE, OK, interrupt, json, output, parse};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every node uploads what is not in S3 yet before it is terminated; the volume in S3 is kept.

Examples:
  ec2mpi destroy demo
  ec2mpi destroy demo --drain-timeout 10m
  ec2mpi destroy demo --discard")]
pub(super) struct Args {
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// Destroy even if files cannot be uploaded; they are lost.
    #[arg(long)]
    discard: bool,
    /// How long a node may take to upload.
    #[arg(long, value_name = "TIME", value_parser = parse::wait, default_value = "120s")]
    drain_timeout: Duration,
    /// Print the proof as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let request = DestroyClusterRequest {
        name: args.name.to_string(),
        discard: args.discard,
        drain_timeout_seconds: parse::seconds(args.drain_timeout),
    };
    let (name, client) = (&args.name, begin(coordinator, request).await?);
    tokio::select! {
        last = wait(coordinator, client, name) => report(name, last?, args.json),
        () = interrupt::first() => {
            eprintln!("cluster {name} is still being destroyed: `ec2mpi status {name}` shows it");
            Ok(interrupt::EXIT_CODE)
        }
    }
}

/// Records the intent; repeating it after a lost answer does no harm.
async fn begin(coordinator: &Coordinator, request: DestroyClusterRequest) -> anyhow::Result<Client> {
    let mut client = coordinator.connect().await?;
    match client.destroy_cluster(request.clone()).await {
        Ok(_) => Ok(client),
        Err(status) if is_lost(&status) => {
            let mut client = coordinator.reconnect().await?;
            match client.destroy_cluster(request).await {
                Ok(_) => Ok(client),
                // The first call was heard, and all is over: the watch finds out.
                Err(status) if status.code() == Code::NotFound => Ok(client),
                Err(status) => Err(told(status)),
            }
        }
        Err(status) => Err(told(status)),
    }
}

async fn wait(coordinator: &Coordinator, client: Client, name: &ClusterName) -> anyhow::Result<Option<v1::Cluster>> {
    let mut progress = Progress::new();
    let request = WatchClusterRequest { name: name.to_string(), follow: true };
    let last = watch(coordinator, client, request, |cluster| {
        progress.show(cluster);
        // Any state but these means that the coordinator changed its mind, and the message says why.
        cluster.state() == cluster::State::Destroying
    })
    .await;
    progress.finish();
    last
}

fn report(name: &ClusterName, last: Option<v1::Cluster>, as_json: bool) -> anyhow::Result<u8> {
    let Some(cluster) = last else {
        bail!("cluster {name} is no longer known, and how it ended was not heard: `ec2mpi list` shows what is left");
    };
    let Some(proof) = cluster.proof.as_ref().filter(|_| cluster.state() == cluster::State::Destroyed) else {
        let state = json::cluster_state(cluster.state());
        bail!("cluster {name} is {state}, not destroyed: {}", cluster.message);
    };
    let text = match as_json {
        true => format!("{:#}\n", json::destruction(&cluster.name, proof)),
        false => closing_lines(&cluster.name, proof),
    };
    output::print(&text)?;
    Ok(if proof.remaining == 0 { OK } else { FAILURE })
}

/// What is gone, what is left, and how that is known.
fn closing_lines(name: &str, proof: &v1::DestructionProof) -> String {
    let v1::DestructionProof { terminated, remaining, query, volume_kept } = proof;
    let instances = if *terminated == 1 { "instance" } else { "instances" };
    let first = format!(
        "cluster {name} is destroyed: {terminated} {instances} terminated, {remaining} left (asked: {query})\n"
    );
    if volume_kept.is_empty() {
        return first;
    }
    format!("{first}its files are kept in {volume_kept}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_tell_the_proof_and_the_volume() {
        let proof = v1::DestructionProof {
            terminated: 4,
            remaining: 0,
            query: "DescribeInstances tag:ec2mpi:cluster-id=c-1".into(),
            volume_kept: "s3://ec2mpi/demo/".into(),
        };
        let expected = "cluster demo is destroyed: 4 instances terminated, 0 left (asked: DescribeInstances \
                        tag:ec2mpi:cluster-id=c-1)\nits files are kept in s3://ec2mpi/demo/\n";
        assert_eq!(closing_lines("demo", &proof), expected);
    }
}
