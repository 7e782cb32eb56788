//! `ec2mpi jobs`.

use ec2mpi_proto::id::ClusterName;
use ec2mpi_proto::v1::{self, ListJobsRequest, job};

use super::connect::Coordinator;
use super::{OK, json, output, parse, table};

/// Of a long command, so much is shown.
const COMMAND_WIDTH: usize = 60;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// Print the jobs as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let request = ListJobsRequest { cluster: args.name.to_string() };
    let jobs = coordinator.ask(async |mut client| client.list_jobs(request.clone()).await).await?.jobs;
    if args.json {
        let values: Vec<_> = jobs.iter().map(json::job).collect();
        output::print(&format!("{:#}\n", serde_json::Value::from(values)))?;
    } else {
        let rows: Vec<_> = jobs.iter().map(row).collect();
        let header = ["JOB", "STATE", "EXIT", "RANKS", "STARTED", "TOOK", "COMMAND", "MESSAGE"];
        output::print(&table::render(&header, &rows))?;
    }
    Ok(OK)
}

fn row(job: &v1::Job) -> Vec<String> {
    let over = matches!(job.state(), job::State::Ended | job::State::Cancelled | job::State::Lost);
    let if_over = |text: String| if over { text } else { "-".into() };
    vec![
        job.job_id.clone(),
        json::job_state(job.state()).into(),
        if_over(job.exit_code.to_string()),
        if job.ranks == 0 { "-".into() } else { job.ranks.to_string() },
        table::moment(job.started_at),
        if_over(table::span(job.ended_at - job.started_at)),
        cut(&job.command.join(" ").replace('\n', " ")),
        job.message.clone(),
    ]
}

fn cut(text: &str) -> String {
    if text.chars().count() <= COMMAND_WIDTH {
        return text.to_owned();
    }
    text.chars().take(COMMAND_WIDTH - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_job_has_no_exit_code_and_a_long_command_is_cut() {
        let job = v1::Job { state: job::State::Running.into(), command: vec!["x".repeat(100)], ..Default::default() };
        let row = row(&job);
        assert_eq!((row[2].as_str(), row[5].as_str()), ("-", "-"));
        assert_eq!(row[6].chars().count(), COMMAND_WIDTH);
    }
}
