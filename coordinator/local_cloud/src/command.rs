//! `ec2mpi cloud ...`: the command line of the local cloud.

mod fault;
mod start;
mod status;
mod stop;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

pub use start::ensure_running;

use crate::layout::MachineDir;
use crate::machine::{init, keeper};
use crate::serve;
use crate::settings::Options;

/// Arguments of `ec2mpi cloud`.
#[derive(Debug, Args)]
pub struct CloudArgs {
    #[command(subcommand)]
    command: CloudCommand,
}

#[derive(Debug, Subcommand)]
enum CloudCommand {
    /// Start the local cloud in the background; returns when it answers.
    Start(Options),
    /// Run the local cloud in the foreground.
    Serve(Options),
    /// Print what the running cloud offers, and its instances.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Have things go wrong: too few machines, lost answers, machines that die, S3 that is away ...
    Fault {
        #[command(subcommand)]
        command: fault::FaultCommand,
    },
    /// End the cloud: terminate its instances, remove its network; its buckets are kept.
    Stop {
        /// Remove everything in its directory, the data of its buckets too.
        #[arg(long)]
        purge: bool,
    },
    /// The keeper of one machine; started by the cloud.
    #[command(hide = true)]
    Machine {
        #[arg(long)]
        dir: PathBuf,
    },
    /// Pid 1 of one machine; started by its keeper.
    #[command(hide = true)]
    MachineInit {
        #[arg(long)]
        dir: PathBuf,
    },
}

/// Runs one subcommand. Must be called before the process starts a thread or an async runtime: the keeper of a machine
/// forks. The calling program must offer these subcommands under the name `cloud`, and `--cloud-dir` before it.
pub fn run(args: CloudArgs, cloud_dir: &Path) -> anyhow::Result<ExitCode> {
    match args.command {
        CloudCommand::Start(options) => start::run(cloud_dir, &options),
        CloudCommand::Serve(options) => serve::run(cloud_dir, &options).map(|()| ExitCode::SUCCESS),
        CloudCommand::Status { json } => status::run(cloud_dir, json),
        CloudCommand::Fault { command } => fault::run(cloud_dir, command),
        CloudCommand::Stop { purge } => stop::run(cloud_dir, purge),
        CloudCommand::Machine { dir } => keeper::run(&MachineDir::new(dir)),
        CloudCommand::MachineInit { dir } => init::run(&MachineDir::new(dir)),
    }
}
