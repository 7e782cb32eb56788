//! `ec2mpi-agent`: see the crate's documentation.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = ec2mpi_agent::volume::mount::arguments(std::env::args_os());
    ec2mpi_agent::cli::run(ec2mpi_agent::cli::Cli::parse_from(arguments))
}
