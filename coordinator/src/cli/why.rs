//! `ec2mpi why`.

use ec2mpi_proto::id::ClusterName;
use ec2mpi_proto::v1::{self, ExplainNodeRequest};

use super::connect::Coordinator;
use super::{OK, json, output, parse, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Tells of a node that is missing, lost, out of reach or healthy what its machine is, how far it came, what was last
heard of it, what its boot printed, and what to do next.

Examples:
  ec2mpi why demo 3
  ec2mpi why demo demo-3 --json")]
pub(super) struct Args {
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// The node: its index or its name.
    node: String,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let request = ExplainNodeRequest { cluster: args.name.to_string(), node: args.node };
    let report = coordinator.ask(async |mut client| client.explain_node(request.clone()).await).await?;
    let text = if args.json { format!("{:#}\n", json::report(&report)) } else { page(&report) };
    output::print(&text)?;
    Ok(OK)
}

fn page(report: &v1::NodeReport) -> String {
    let node = report.node.clone().unwrap_or_default();
    let mut lines = vec![format!("node     {} (index {})", node.host_name, node.index)];
    lines.push(match node.message.as_str() {
        "" => format!("state    {}", json::node_state(node.state())),
        why => format!("state    {}: {why}", json::node_state(node.state())),
    });
    lines.push(format!("machine  {}", machine(report, &node)));
    lines.extend(labelled("history", report.history.iter().map(|moment| entry(moment.at, &moment.phase))));
    lines.extend(labelled("heard", report.words.iter().map(|word| entry(word.at, &word.text))));
    lines.push(format!("next     {}", report.next));
    lines.push(match report.console_problem.as_str() {
        "" if report.console.is_empty() => "console  nothing was printed".to_owned(),
        "" => "console  the end of what its boot printed:".to_owned(),
        problem => format!("console  {problem}"),
    });
    lines.extend(report.console.lines().map(|line| format!("  {line}")));
    format!("{}\n", lines.join("\n"))
}

fn machine(report: &v1::NodeReport, node: &v1::Node) -> String {
    let id = if node.instance_id.is_empty() { "none" } else { &node.instance_id };
    let address = if node.address.is_empty() { String::new() } else { format!(" at {}", node.address) };
    let state = match (report.instance_state.as_str(), report.cloud_problem.as_str()) {
        ("", "") => "; the cloud lists no machine for it".to_owned(),
        ("", problem) => format!("; {problem}"),
        (state, _) if report.instance_reason.is_empty() => format!(", {state}"),
        (state, _) => format!(", {state}: {}", report.instance_reason),
    };
    format!("{id}{address}{state}")
}

fn entry(at: f64, what: &str) -> String {
    format!("{}  {what}", table::moment(at))
}

/// The first with a label, the others below it.
fn labelled(label: &str, entries: impl Iterator<Item = String>) -> Vec<String> {
    let label = |number: usize| if number == 0 { label } else { "" };
    entries.enumerate().map(|(number, entry)| format!("{:<8} {entry}", label(number))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tells_machine_history_last_words_and_what_to_do() {
        let report = v1::NodeReport {
            node: Some(v1::Node {
                index: 1,
                host_name: "demo-1".into(),
                instance_id: "i-1".into(),
                state: v1::node::State::Gone.into(),
                message: "its machine ended: spot".into(),
                ..Default::default()
            }),
            instance_state: "terminated".into(),
            instance_reason: "spot".into(),
            history: vec![v1::NodeMoment { phase: "requested".into(), at: 1.0 }],
            words: vec![v1::NodeWord { text: "its session ended: no heartbeat".into(), at: 2.0 }],
            console: "a\nb".into(),
            next: "create it anew".into(),
            ..Default::default()
        };
        let page = page(&report);
        for expected in [
            "node     demo-1 (index 1)\n",
            "state    gone: its machine ended: spot\n",
            "machine  i-1, terminated: spot\n",
            "  requested\n",
            "  its session ended: no heartbeat\n",
            "next     create it anew\n",
            "printed:\n  a\n  b\n",
        ] {
            assert!(page.contains(expected), "no {expected:?} in\n{page}");
        }
    }

    #[test]
    fn a_cloud_without_an_answer_and_a_node_without_a_machine_are_told() {
        let silent = v1::NodeReport { cloud_problem: "the cloud's answer is unknown: x".into(), ..Default::default() };
        assert!(page(&silent).contains("machine  none; the cloud's answer is unknown: x"), "{}", page(&silent));
        assert!(page(&v1::NodeReport::default()).contains("lists no machine for it"));
    }
}
