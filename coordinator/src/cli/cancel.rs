//! `ec2mpi cancel`.

use ec2mpi_proto::id::{ClusterName, JobId};
use ec2mpi_proto::v1::job;

use super::connect::Coordinator;
use super::{OK, interrupt, json, output, parse};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    #[arg(value_parser = parse::job)]
    job: JobId,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let job = interrupt::cancel_job(coordinator, args.name.as_str(), args.job.as_str()).await?;
    let text = match job.state() {
        job::State::Cancelled => format!("job {} is cancelled\n", args.job),
        job::State::Ended | job::State::Lost => {
            format!("job {} had ended already, with exit code {}\n", args.job, job.exit_code)
        }
        state => format!(
            "job {} is being cancelled ({}): `ec2mpi jobs {}` shows when it is over\n",
            args.job,
            json::job_state(state),
            args.name
        ),
    };
    output::print(&text)?;
    Ok(OK)
}
