//! The subcommands.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::node::{self, archive, join, paths::Paths, supervise, wrapper};
use crate::telemetry;
use crate::volume::{control, mount};

/// What runs on every node of an ec2mpi cluster, and the volume by itself.
#[derive(Debug, Parser)]
#[command(name = "ec2mpi-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Keep agent, sshd and volume running (what a node's boot starts)
    Supervise,
    /// Be the agent: join the cluster, then obey the coordinator
    Run,
    /// Mount a bucket
    Mount(Box<mount::MountArgs>),
    /// Wait until everything written to a mounted volume is in S3
    Drain(control::DrainArgs),
    /// Show the state of a mounted volume
    Status(control::StatusArgs),
    /// Drain, then unmount
    Umount(control::UmountArgs),
    /// Run one order of the spool
    #[command(hide = true)]
    Job { dir: PathBuf },
    /// Write a file or a tree to stdout as tar
    #[command(hide = true)]
    Pack { path: PathBuf },
    /// Unpack a tar stream from stdin
    #[command(hide = true)]
    Unpack { path: PathBuf },
}

/// Runs the subcommand; an error goes to stderr.
pub fn run(cli: Cli) -> ExitCode {
    match carry_out(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let refused = error.chain().any(|cause| cause.downcast_ref::<join::Refused>().is_some());
            if refused { ExitCode::from(join::REFUSED_EXIT_CODE) } else { ExitCode::FAILURE }
        }
    }
}

fn carry_out(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Supervise => on_runtime(supervise::run(Paths::new("/"))),
        Verb::Run => {
            let agent = std::env::current_exe().context("cannot find the agent's own program")?;
            on_runtime(node::run(Paths::new("/"), agent))
        }
        Verb::Mount(args) => mount::run(*args),
        Verb::Drain(args) => control::drain(args),
        Verb::Status(args) => control::status(args),
        Verb::Umount(args) => control::umount(args),
        Verb::Job { dir } => wrapper::run(&dir),
        Verb::Pack { path } => archive::pack(&path, std::io::stdout().lock()),
        Verb::Unpack { path } => archive::unpack(&path, std::io::stdin().lock()),
    }
}

fn on_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    telemetry::start();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}
