//! `ec2mpi run`.

use std::time::Duration;

use ec2mpi_proto::id::ClusterName;
use ec2mpi_proto::v1::{self, RunJobRequest};

use super::connect::{Coordinator, told};
use super::follow::{Asked, Follower};
use super::{OK, output, parse};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Before the program starts, and after it ends, every node uploads what it wrote to /shared and forgets what it knew of
the others' files. Ctrl-C cancels the job on all nodes; a second one leaves it, and `ec2mpi logs NAME JOB -f` picks it up.

Examples:
  ec2mpi run demo -n 8 -- ./program --steps 1000
  ec2mpi run demo -n 4 --workdir /shared/case1 --env OMP_NUM_THREADS=2 -- ./program")]
pub(super) struct Args {
    /// The cluster.
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// How many ranks, at most the cluster's slots.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    ranks: u32,
    /// Where every rank starts.
    #[arg(long, value_name = "DIR", default_value = "/shared")]
    workdir: String,
    /// A variable for every rank; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::variable)]
    env: Vec<(String, String)>,
    /// Skip both barriers of the volume, for jobs side by side.
    #[arg(long)]
    no_barrier: bool,
    /// End the job, as lost, when a node of it is out of reach for so long (90, 90s, 10m).
    #[arg(long, value_name = "TIME", value_parser = parse::wait, default_value = "60s")]
    node_timeout: Duration,
    /// An argument for mpirun itself; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    mpi_arg: Vec<String>,
    /// Print hostfile, command and environment; start nothing.
    #[arg(long, conflicts_with = "detach")]
    explain: bool,
    /// Print the job's id and return at once.
    #[arg(long)]
    detach: bool,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let asked = Asked { command: args.command.clone(), ranks: args.ranks };
    let (explain, detach, name) = (args.explain, args.detach, args.name.to_string());
    let request = request(args);
    if explain {
        let answer = coordinator.connect().await?.explain_job(request).await.map_err(told)?;
        output::print(&explanation(&answer.into_inner()))?;
        return Ok(OK);
    }
    let start = |mut client: super::connect::Client| {
        let request = request.clone();
        async move { client.run_job(request).await }
    };
    let mut follower = Follower::new(coordinator, name.clone());
    if !detach {
        return follower.run(&asked, start).await;
    }
    let (_, job) = follower.start(&asked, start).await?;
    output::print(&format!("{job}\n"))?;
    eprintln!("`ec2mpi logs {name} {job} -f` follows it, `ec2mpi cancel {name} {job}` ends it");
    Ok(OK)
}

fn request(args: Args) -> RunJobRequest {
    let mut words = args.command.into_iter();
    RunJobRequest {
        cluster: args.name.to_string(),
        ranks: args.ranks,
        working_directory: args.workdir,
        environment: parse::environment(args.env),
        program: words.next().unwrap_or_default(),
        arguments: words.collect(),
        no_barrier: args.no_barrier,
        mpi_arguments: args.mpi_arg,
        node_timeout_seconds: parse::seconds(args.node_timeout),
    }
}

fn explanation(answer: &v1::ExplainJobResponse) -> String {
    let argv = answer.argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let mut variables: Vec<_> = answer.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    variables.sort();
    format!(
        "# on {}, as user mpi\n{argv}\n\n# environment\n{}\n# hostfile\n{}",
        answer.node,
        variables.concat(),
        answer.hostfile
    )
}

/// A word as a shell would take it.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,+@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_can_be_pasted_into_a_shell() {
        let answer = v1::ExplainJobResponse {
            hostfile: "10.0.0.1 slots=2\n".into(),
            argv: vec!["mpirun".into(), "-F /etc/x".into(), "it's".into()],
            environment: [("B".to_owned(), "2".to_owned()), ("A".to_owned(), "1".to_owned())].into(),
            node: "demo-0".into(),
        };
        let expected = "# on demo-0, as user mpi\nmpirun '-F /etc/x' 'it'\\''s'\n\n# environment\nA=1\nB=2\n\n\
                        # hostfile\n10.0.0.1 slots=2\n";
        assert_eq!(explanation(&answer), expected);
    }
}
