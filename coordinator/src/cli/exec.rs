//! `ec2mpi exec`.

use std::time::Duration;

use ec2mpi_proto::id::ClusterName;
use ec2mpi_proto::v1::ExecRequest;

use super::connect::Coordinator;
use super::follow::{Asked, Follower};
use super::parse;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ec2mpi exec demo -- mpicc -O2 -o program program.c
  ec2mpi exec demo --node 2 -- sh -c 'df -h /shared; nproc'")]
pub(super) struct Args {
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// The node's index; 0 is the head.
    #[arg(long, value_name = "I", default_value_t = 0)]
    node: u32,
    /// Where the command starts.
    #[arg(long, value_name = "DIR", default_value = "/shared")]
    workdir: String,
    /// A variable for the command; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::variable)]
    env: Vec<(String, String)>,
    /// End it, as lost, when the node is out of reach for so long.
    #[arg(long, value_name = "TIME", value_parser = parse::wait, default_value = "60s")]
    node_timeout: Duration,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let asked = Asked { command: args.command.clone(), ranks: 0 };
    let mut words = args.command.into_iter();
    let request = ExecRequest {
        cluster: args.name.to_string(),
        node: args.node,
        working_directory: args.workdir,
        environment: parse::environment(args.env),
        program: words.next().unwrap_or_default(),
        arguments: words.collect(),
        node_timeout_seconds: parse::seconds(args.node_timeout),
    };
    let start = |mut client: super::connect::Client| {
        let request = request.clone();
        async move { client.exec(request).await }
    };
    Follower::new(coordinator, args.name.to_string()).run(&asked, start).await
}
