//! `ec2mpi hostfile`.

use ec2mpi_proto::id::ClusterName;
use ec2mpi_proto::v1::GetHostfileRequest;

use super::connect::Coordinator;
use super::{OK, output, parse};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// For so many ranks; only the nodes they need [default: all slots].
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    ranks: Option<u32>,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let request = GetHostfileRequest { cluster: args.name.to_string(), ranks: args.ranks.unwrap_or(0) };
    let answer = coordinator.ask(async |mut client| client.get_hostfile(request.clone()).await).await?;
    output::print(&answer.text)?;
    Ok(OK)
}
