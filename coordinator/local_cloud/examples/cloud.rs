//! The local cloud alone, as `ec2mpi cloud` runs it: `cargo run --example cloud -- --cloud-dir DIR cloud start`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ec2mpi_local_cloud::CloudArgs;

#[derive(Debug, Parser)]
struct Cli {
    /// Directory of the cloud.
    #[arg(long, global = true, env = "EC2MPI_CLOUD_DIR", default_value = "/var/lib/ec2mpi/cloud")]
    cloud_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The local cloud.
    Cloud(CloudArgs),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let Cli { cloud_dir, command: Command::Cloud(args) } = Cli::parse();
    ec2mpi_local_cloud::run(args, &cloud_dir).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
