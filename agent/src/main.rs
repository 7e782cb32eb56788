//! `ec2mpi-agent`: see the crate's documentation.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ec2mpi_agent::cli::run(ec2mpi_agent::cli::Cli::parse())
}
