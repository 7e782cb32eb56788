//! How a cluster comes up or goes, on standard error: moving lines on a terminal; elsewhere, where they end in a log, a
//! line now and then when it takes long.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ec2mpi_proto::v1::{self, cluster, node};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::json::node_state;

/// With more nodes than this, a terminal shows only the counts.
const MAX_NODE_LINES: usize = 16;
const TICK: Duration = Duration::from_millis(120);
/// What is over sooner is not worth a line in a log, and what goes on gets no more than one in so long.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows views of one cluster.
pub(super) enum Progress {
    Terminal(Box<Lines>),
    Plain { last: Instant },
}

/// The moving lines: one that sums up, one a node.
pub(super) struct Lines {
    all: MultiProgress,
    summary: ProgressBar,
    nodes: Vec<ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Plain { last: Instant::now() };
        }
        let all = MultiProgress::new();
        let summary = all.add(spinner("{spinner} {elapsed:>4} {msg}"));
        summary.enable_steady_tick(TICK);
        Self::Terminal(Box::new(Lines { all, summary, nodes: Vec::new() }))
    }

    pub(super) fn show(&mut self, cluster: &v1::Cluster) {
        let text = summary(cluster);
        match self {
            Self::Plain { last } if last.elapsed() < LINE_EVERY => {}
            Self::Plain { last } => {
                eprintln!("{text}");
                *last = Instant::now();
            }
            Self::Terminal(lines) => lines.show(text, &cluster.nodes),
        }
    }

    /// Takes the moving lines away.
    pub(super) fn finish(&mut self) {
        if let Self::Terminal(lines) = self {
            lines.nodes.drain(..).for_each(|line| line.finish_and_clear());
            lines.summary.finish_and_clear();
        }
    }
}

impl Lines {
    fn show(&mut self, text: String, nodes: &[v1::Node]) {
        self.summary.set_message(text);
        if nodes.len() > MAX_NODE_LINES {
            return;
        }
        while self.nodes.len() < nodes.len() {
            self.nodes.push(self.all.add(spinner("  {msg}")));
        }
        for (line, node) in self.nodes.iter().zip(nodes) {
            line.set_message(node_line(node));
        }
    }
}

fn spinner(template: &str) -> ProgressBar {
    // The templates are constants of this file; the default style is as good as any.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

fn node_line(node: &v1::Node) -> String {
    let mut line = format!("{:<20} {:<11} {:<15}", node.host_name, node_state(node.state()), node.address);
    if !node.message.is_empty() {
        let _ = write!(line, " {}", node.message);
    }
    line
}

/// Where a cluster stands, in one line.
pub(super) fn summary(cluster: &v1::Cluster) -> String {
    let wanted = cluster.nodes_wanted;
    match cluster.state() {
        cluster::State::Destroying => {
            let gone = count(cluster, node::State::Gone);
            with_message(format!("{gone} of {} nodes terminated", cluster.nodes.len()), cluster)
        }
        _ => {
            let ready = count(cluster, node::State::Ready);
            let others = [
                node::State::Requested,
                node::State::Booting,
                node::State::Joined,
                node::State::Unreachable,
                node::State::Leaving,
                node::State::Gone,
                node::State::Failed,
            ];
            let others: Vec<_> = others
                .into_iter()
                .map(|state| (count(cluster, state), node_state(state)))
                .filter(|(number, _)| *number > 0)
                .map(|(number, state)| format!("{number} {state}"))
                .collect();
            let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
            format!("{ready} of {wanted} nodes ready{others}")
        }
    }
}

fn with_message(text: String, cluster: &v1::Cluster) -> String {
    if cluster.message.is_empty() { text } else { format!("{text}: {}", cluster.message) }
}

fn count(cluster: &v1::Cluster, state: node::State) -> usize {
    cluster.nodes.iter().filter(|node| node.state() == state).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(state: cluster::State, nodes: &[node::State]) -> v1::Cluster {
        let node = |state: &node::State| v1::Node { state: (*state).into(), ..Default::default() };
        v1::Cluster {
            state: state.into(),
            nodes_wanted: 4,
            nodes: nodes.iter().map(node).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_summary_counts_nodes_by_state() {
        use node::State::{Booting, Gone, Joined, Leaving, Ready, Requested};
        let creating = |nodes: &[node::State]| summary(&cluster(cluster::State::Creating, nodes));
        assert_eq!(creating(&[]), "0 of 4 nodes ready");
        assert_eq!(creating(&[Ready, Ready, Joined, Booting]), "2 of 4 nodes ready (1 booting, 1 joined)");
        assert_eq!(creating(&[Requested; 4]), "0 of 4 nodes ready (4 requested)");
        let mut going = cluster(cluster::State::Destroying, &[Gone, Leaving]);
        going.message = "draining".into();
        assert_eq!(summary(&going), "1 of 2 nodes terminated: draining");
    }
}
