//! What is known of one node, for whoever asks why it is missing, lost or slow. Pure: from what was written down, what
//! is seen, and what the cloud says when asked.

use super::plan::{Intent, UNREACHABLE_AFTER};
use super::{NodePhase, NodeView};
use crate::provider::{Instance, ProviderError};
use crate::registry::{LastWord, Liveness, VolumeCondition};
use crate::state::NodeRecord;

/// Lines of console output that are shown, from its end.
const CONSOLE_LINES: usize = 40;

/// Everything about one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    pub view: NodeView,
    /// What the cloud says of its machine; none: it lists no such machine.
    pub machine: Result<Option<Instance>, ProviderError>,
    /// What it reached, by time; the last is how far it came.
    pub history: Vec<Moment>,
    /// What was last heard of its agent and of its volume, of its life and of its end.
    pub words: Vec<LastWord>,
    /// The end of what its boot printed.
    pub console: Result<String, ProviderError>,
    /// What to do.
    pub next: String,
}

/// One phase, and when it was reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    pub phase: &'static str,
    /// Seconds since the epoch. "booted" and "mounted" are by the node's own clock.
    pub at: f64,
}

/// What the cloud answered, or that it did not.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    pub(super) machine: Result<Option<Instance>, ProviderError>,
    pub(super) console: Result<String, ProviderError>,
}

/// What this process knows of the node's agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    pub(super) liveness: Option<Liveness>,
    pub(super) silence: std::time::Duration,
    pub(super) word: Option<LastWord>,
}

/// The report.
pub(super) fn report(
    intent: &Intent,
    node: &NodeRecord,
    view: NodeView,
    heard: &Heard,
    answers: Answers,
    now: f64,
) -> NodeReport {
    let next = next(intent, node, &view, now);
    NodeReport {
        history: history(intent, node, heard, now),
        words: words(node, heard, now),
        machine: answers.machine,
        console: answers.console.map(|text| tail(&text)),
        view,
        next,
    }
}

fn history(intent: &Intent, node: &NodeRecord, heard: &Heard, now: f64) -> Vec<Moment> {
    let launch = intent.launches.iter().find(|launch| launch.id == node.launch);
    let phase = |name: &str| heard.liveness.as_ref().and_then(|live| live.facts.phases.get(name)).copied();
    let cut_off = heard.liveness.is_some() && heard.silence > UNREACHABLE_AFTER && !node.gone;
    let moments = [
        ("requested", launch.map(|launch| launch.created_at)),
        ("launched", node.instance.as_ref().and(launch.and_then(|launch| launch.answered_at))),
        ("booted", phase("boot")),
        ("joined", node.joined_at),
        ("mounted", phase("mount")),
        ("ready", node.ready_at),
        ("unreachable", cut_off.then_some(now - heard.silence.as_secs_f64())),
        ("lost", node.gone_at),
    ];
    let mut reached: Vec<_> = moments.into_iter().filter_map(|(phase, at)| Some(Moment { phase, at: at? })).collect();
    // Stable: where clocks differ by little, the order of the list is kept for equal times only.
    reached.sort_by(|a, b| a.at.total_cmp(&b.at));
    reached
}

fn words(node: &NodeRecord, heard: &Heard, now: f64) -> Vec<LastWord> {
    let mut words: Vec<LastWord> = heard.word.iter().cloned().collect();
    if let Some(live) = &heard.liveness {
        let at = now - heard.silence.as_secs_f64();
        let volume = match live.volume.condition {
            VolumeCondition::Starting => "its volume was starting",
            VolumeCondition::Mounted => "its volume was mounted",
            VolumeCondition::Failed => "its volume had failed",
        };
        let dirty = live.volume.dirty_files;
        let files = if dirty == 0 { String::new() } else { format!(", {dirty} files were not in S3 yet") };
        let message = if live.volume.message.is_empty() { String::new() } else { format!(": {}", live.volume.message) };
        words.push(LastWord { at, text: format!("{volume}{files}{message}") });
    }
    let end = node.gone_at.zip(node.gone_why.clone());
    words.extend(end.map(|(at, text)| LastWord { at, text }));
    words.sort_by(|a, b| a.at.total_cmp(&b.at));
    words
}

/// The last lines, without control characters that a terminal would obey.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(CONSOLE_LINES)..];
    let clean = |line: &&str| line.chars().filter(|c| *c == '\t' || !c.is_control()).collect::<String>();
    last.iter().map(clean).collect::<Vec<_>>().join("\n")
}

fn next(intent: &Intent, node: &NodeRecord, view: &NodeView, now: f64) -> String {
    let name = &intent.cluster.spec.name;
    let deadline = intent.cluster.created_at + intent.cluster.spec.timeout.as_secs_f64();
    let left = (deadline - now).max(0.0).ceil();
    let anew = format!("`ec2mpi destroy {name}` and create it anew for all nodes; jobs run on the others meanwhile");
    match &view.phase {
        NodePhase::Ready => "nothing: it is ready".to_owned(),
        NodePhase::Requested => format!("wait: the cloud is being asked for its machine, for {left} s more"),
        NodePhase::Booting => {
            format!("wait: it is given up in {left} s; what its boot prints is the console output")
        }
        NodePhase::Joined => format!(
            "wait for its volume; when it does not mount, see /var/log/ec2mpi/volume.log on it \
             (`ec2mpi ssh {name} --node {}`)",
            node.index
        ),
        NodePhase::Unreachable => format!(
            "wait: its machine may come back, and its files with it; `ec2mpi destroy {name} --discard` gives those up"
        ),
        NodePhase::Leaving => "nothing: its cluster is being destroyed".to_owned(),
        NodePhase::Gone { .. } => {
            format!("what it had not uploaded to S3 is lost, the rest is in {name}'s volume; {anew}")
        }
        NodePhase::Failed { .. } if node.instance.is_none() => {
            format!("ask for fewer nodes, for another --type, or later: {anew}")
        }
        NodePhase::Failed { .. } => format!("the console output tells how far its boot came; {anew}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::plan::tests::{CREATED, instance, ready};
    use crate::provider::InstanceState;

    fn view(index: u32, phase: NodePhase) -> NodeView {
        NodeView { phase, ..crate::job::fixtures::view(index + 1).nodes.remove(index as usize) }
    }

    fn answers() -> Answers {
        let machine = instance(1, InstanceState::Running);
        Answers { machine: Ok(Some(machine)), console: Ok("one\n\u{1b}[31mtwo\n".into()) }
    }

    fn phases(report: &NodeReport) -> Vec<&str> {
        report.history.iter().map(|moment| moment.phase).collect()
    }

    #[test]
    fn a_healthy_node_has_its_history_and_nothing_to_do() {
        let (intent, observed) = ready(2);
        let node = &intent.nodes[1];
        let seen = &observed.agents[node.instance.as_ref().unwrap()];
        let heard = Heard { liveness: Some(seen.liveness.clone()), ..Heard::default() };
        let report = report(&intent, node, view(1, NodePhase::Ready), &heard, answers(), CREATED + 60.0);
        assert_eq!(phases(&report), ["requested", "launched", "joined", "ready"]);
        assert_eq!(report.next, "nothing: it is ready");
        assert_eq!(report.console.unwrap(), "one\n[31mtwo", "no control characters");
    }

    #[test]
    fn a_node_that_is_lost_or_out_of_reach_says_since_when_and_its_last_words() {
        let (mut intent, observed) = ready(2);
        let seen = observed.agents[intent.nodes[1].instance.as_ref().unwrap()].clone();
        let word = LastWord { at: CREATED + 40.0, text: "its session ended: no heartbeat".into() };
        let mut heard =
            Heard { liveness: Some(seen.liveness), silence: Duration::from_secs(20), word: Some(word.clone()) };
        heard.liveness.as_mut().unwrap().volume.dirty_files = 3;
        let away =
            report(&intent, &intent.nodes[1], view(1, NodePhase::Unreachable), &heard, answers(), CREATED + 60.0);
        assert_eq!(phases(&away).last(), Some(&"unreachable"));
        assert!((away.history.last().unwrap().at - (CREATED + 40.0)).abs() < 1e-6);
        assert_eq!(away.words[0], word);
        assert!(away.words[1].text.contains("3 files were not in S3"), "{:?}", away.words);
        assert!(away.next.contains("may come back"), "{}", away.next);

        intent.nodes[1].gone = true;
        intent.nodes[1].gone_at = Some(CREATED + 50.0);
        intent.nodes[1].gone_why = Some("its machine ended: spot".into());
        let gone = NodePhase::Gone { why: "its machine ended: spot".into() };
        let lost = report(&intent, &intent.nodes[1], view(1, gone), &heard, answers(), CREATED + 60.0);
        assert_eq!(phases(&lost).last(), Some(&"lost"));
        assert_eq!(lost.words.last().unwrap().text, "its machine ended: spot");
        assert!(lost.next.contains("not uploaded to S3 is lost"), "{}", lost.next);
    }

    #[test]
    fn a_node_without_a_machine_was_only_asked_for() {
        let (mut intent, _) = ready(2);
        intent.nodes[1].instance = None;
        (intent.nodes[1].joined_at, intent.nodes[1].ready_at) = (None, None);
        let failed = NodePhase::Failed { why: "the cloud had only 1 of 2 machines".into() };
        let answers = Answers { machine: Ok(None), console: Err(ProviderError::Gone("no machine".into())) };
        let report = report(&intent, &intent.nodes[1], view(1, failed), &Heard::default(), answers, CREATED + 60.0);
        assert_eq!(phases(&report), ["requested"]);
        assert!(report.next.contains("fewer nodes"), "{}", report.next);
    }

    #[test]
    fn only_the_end_of_a_long_console_is_shown() {
        let long: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let shown = tail(&long);
        assert_eq!(shown.lines().count(), CONSOLE_LINES);
        assert!(shown.ends_with("line 99") && !shown.contains("line 59\n"));
    }
}
