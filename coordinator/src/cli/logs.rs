//! `ec2mpi logs`.

use ec2mpi_proto::id::{ClusterName, JobId};

use super::connect::Coordinator;
use super::follow::{Followed, Follower, conclude};
use super::{OK, parse};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With -f the exit code is the job's. Ctrl-C leaves the job as it is.

Examples:
  ec2mpi logs demo
  ec2mpi logs demo j-0123456789ab -f")]
pub(super) struct Args {
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// The job [default: the newest].
    #[arg(value_parser = parse::job)]
    job: Option<JobId>,
    /// Go on until the job ends.
    #[arg(short, long)]
    follow: bool,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let mut follower = Follower::new(coordinator, args.name.to_string());
    match follower.logs(args.job.map(String::from), args.follow).await? {
        Followed::Ended(job) if args.follow => Ok(conclude(&job)),
        Followed::Ended(_) | Followed::SoFar => Ok(OK),
    }
}
