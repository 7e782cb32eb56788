//! The command line: one file a verb, one call, one print. Data goes to standard output, progress and errors to
//! standard error.

mod archive;
mod cancel;
mod connect;
mod cp;
mod create;
mod daemon;
mod destroy;
mod exec;
mod follow;
mod hostfile;
mod interrupt;
mod jobs;
mod json;
mod list;
mod logs;
mod output;
mod parse;
mod progress;
mod run;
mod ssh;
mod status;
mod stop;
mod table;
mod watch;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::connect::Coordinator;
use crate::config::{Environment, GlobalArgs, ServeArgs, Settings};

/// Everything went as asked.
const OK: u8 = 0;
/// It did not.
const FAILURE: u8 = 1;

const ABOUT: &str = "MPI clusters on EC2, or on this machine, that configure themselves and share an S3 bucket";

const AFTER_HELP: &str = "\
Examples:
  ec2mpi create demo --nodes 4
  ec2mpi cp program.c demo:/shared/
  ec2mpi exec demo -- mpicc -O2 -o program program.c
  ec2mpi run demo -n 8 -- ./program
  ec2mpi destroy demo

A coordinator is started where none answers; `ec2mpi stop` ends it, clusters and jobs go on.

Exit codes:
  0       done
  1       failed; standard error says why and what to do next
  2       the command line is wrong
  others  run, exec and logs -f: the program's own; 128 + N when signal N ended it, 130 when it was cancelled,
          75 when a node of the job was lost: standard error names it, and the same command may work again";

#[derive(Debug, Parser)]
#[command(name = "ec2mpi", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a cluster and wait until it is ready.
    Create(create::Args),
    /// List the clusters.
    List(list::Args),
    /// Show a cluster and its nodes.
    Status(status::Args),
    /// Tell what is known of one node, and what to do next.
    Why(why::Args),
    /// Destroy a cluster and prove that nothing of it is left.
    Destroy(destroy::Args),
    /// Run an MPI program on a cluster.
    Run(run::Args),
    /// Run a plain command on one node.
    Exec(exec::Args),
    /// Print a job's output.
    Logs(logs::Args),
    /// List the jobs of a cluster.
    Jobs(jobs::Args),
    /// End a job on all nodes.
    Cancel(cancel::Args),
    /// Copy files to or from a node.
    Cp(cp::Args),
    /// Print the hostfile for mpirun.
    Hostfile(hostfile::Args),
    /// Log in to a node as user mpi.
    Ssh(ssh::Args),
    /// Be the coordinator, in the foreground.
    Serve(ServeArgs),
    /// End the coordinator; clusters and jobs go on.
    Stop,
    /// The local cloud: AWS on this machine.
    Cloud(ec2mpi_local_cloud::CloudArgs),
}

/// Parses the arguments of this process, does what they say, and gives the exit code.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match perform(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

fn perform(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = Settings::resolve(&arguments.global, &Environment::of_this_process())?;
    match arguments.verb {
        // Before any thread is started: the keeper of a machine forks.
        Verb::Cloud(cloud) => {
            crate::telemetry::init();
            ec2mpi_local_cloud::run(cloud, &settings.cloud_dir)
        }
        Verb::Serve(serve) => block_on(crate::serve::run(settings, serve))?.map(|()| ExitCode::SUCCESS),
        verb => {
            let code = block_on(ask(&Coordinator::new(settings), verb))?;
            code.map(ExitCode::from)
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A thread that writes to a pipe which nobody empties must not hold the process.
    runtime.shutdown_background();
    Ok(result)
}

async fn ask(coordinator: &Coordinator, verb: Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::Create(args) => create::run(coordinator, args).await,
        Verb::List(args) => list::run(coordinator, args).await,
        Verb::Status(args) => status::run(coordinator, args).await,
        Verb::Why(args) => why::run(coordinator, args).await,
        Verb::Destroy(args) => destroy::run(coordinator, args).await,
        Verb::Run(args) => run::run(coordinator, args).await,
        Verb::Exec(args) => exec::run(coordinator, args).await,
        Verb::Logs(args) => logs::run(coordinator, args).await,
        Verb::Jobs(args) => jobs::run(coordinator, args).await,
        Verb::Cancel(args) => cancel::run(coordinator, args).await,
        Verb::Cp(args) => cp::run(coordinator, args).await,
        Verb::Hostfile(args) => hostfile::run(coordinator, args).await,
        Verb::Ssh(args) => ssh::run(coordinator, args).await,
        Verb::Stop => stop::run(coordinator).await,
        Verb::Serve(_) | Verb::Cloud(_) => Ok(OK), // `perform` does these, without a client
    }
}

#[cfg(test)]
mod tests;
