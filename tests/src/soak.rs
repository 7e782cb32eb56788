//! Randomised runs of a whole life of a cluster, with one thing killed in each: what happens when, and what is right.
//! Everything follows from the seed, so a run can be had again; only the moment at which the blow meets the programs is
//! the machine's. Pure: [`scene`] does it.

pub mod scene;
pub mod strike;

use std::fmt;
use std::time::Duration;

/// The part of a cluster's life in which something is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Create,
    Run,
    Idle,
    Destroy,
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Coordinator,
    /// The agent of one node.
    Agent,
    /// The volume of one node.
    Volume,
    /// The cloud's process, which is started again as a user would.
    Cloud,
    /// The machine of one node, all of it.
    Node,
}

/// How a machine comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Its process 1 is killed: a power failure.
    PowerCut,
    /// TerminateInstances, by somebody else than the coordinator.
    Terminated,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub nodes: u32,
    pub phase: Phase,
    pub victim: Victim,
    /// Which node, for victims that are on one.
    pub node: u32,
    pub death: Death,
    /// From the beginning of the phase to the blow.
    pub instant: Duration,
    /// What the MPI program shall end with.
    pub code: i32,
    /// Whether its ranks write files to the volume.
    pub writes: bool,
}

/// Prints of each rank, 100 ms apart.
pub const TICKS: u32 = 25;

/// How a job came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// Its exit code and its output, complete.
    Right { code: i32 },
    /// Reported as lost, with the name of the node that was killed.
    Lost { node: String },
    /// Not started, or its files not all in S3, because of the node that was killed, which is named.
    Named { node: String, code: i32 },
    /// None of these.
    Wrong { why: String },
}

/// SplitMix64.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit)).unwrap_or(0)
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(u32::try_from(choices.len()).unwrap_or(1)) as usize]
    }
}

impl Phase {
    const ALL: [Self; 4] = [Self::Create, Self::Run, Self::Idle, Self::Destroy];

    /// How long the phase takes, about: the blow falls within.
    fn length(self) -> u32 {
        match self {
            Self::Create => 2500,
            Self::Run => 4000,
            Self::Idle => 500,
            Self::Destroy => 700,
        }
    }
}

impl Victim {
    const ALL: [Self; 5] = [Self::Coordinator, Self::Agent, Self::Volume, Self::Cloud, Self::Node];
}

impl Plan {
    /// What a seed stands for.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let nodes = 2 + dice.below(3);
        let (phase, victim) = (dice.one_of(&Phase::ALL), dice.one_of(&Victim::ALL));
        let wants_to_write = dice.below(2) == 0;
        Self {
            seed,
            nodes,
            phase,
            victim,
            node: dice.below(nodes),
            death: dice.one_of(&[Death::PowerCut, Death::Terminated]),
            instant: Duration::from_millis(dice.below(phase.length()).into()),
            code: dice.one_of(&[0, 0, 0, 7]),
            // Writes that meet a killed volume fail, and the program with them: that is its right.
            writes: wants_to_write && victim != Victim::Volume,
        }
    }

    /// The first seed from `from` on in whose run this is killed in this phase.
    pub fn seed_of(from: u64, phase: Phase, victim: Victim) -> u64 {
        (from..).find(|seed| Self::of(*seed).phase == phase && Self::of(*seed).victim == victim).unwrap_or(from)
    }

    /// With how many nodes `create` is to be content.
    pub fn min_nodes(&self) -> u32 {
        if self.phase == Phase::Create && self.victim == Victim::Node { self.nodes - 1 } else { self.nodes }
    }

    /// Whether a machine ends.
    pub fn kills_a_node(&self) -> bool {
        self.victim == Victim::Node
    }
}

/// What a run of the program came to. `killed`: the name of the node that was killed by then; `told`: the client's
/// stderr.
pub fn judge(plan: &Plan, killed: Option<&str>, ranks: u32, code: i32, stdout: &str, told: &str) -> JobEnd {
    let missing = missing_output(ranks, stdout);
    if code == plan.code && missing.is_none() && !told.contains("not be in S3") {
        return JobEnd::Right { code };
    }
    match killed {
        Some(node) if code == 75 && told.contains(&format!("node {node} is lost")) => {
            JobEnd::Lost { node: node.into() }
        }
        Some(node) if names_in_barrier(told, node) => JobEnd::Named { node: node.into(), code },
        _ => {
            let output = missing.unwrap_or_else(|| "the output is complete".into());
            let last: Vec<&str> = told.lines().rev().take(3).collect();
            JobEnd::Wrong { why: format!("exit code {code}, not {}; {output}; {}", plan.code, last.join(" | ")) }
        }
    }
}

/// The program's end stands beside what the barrier says, or it was never begun.
fn names_in_barrier(told: &str, node: &str) -> bool {
    told.lines().any(|line| line.contains("barrier failed") && line.contains(&format!("{node}: ")))
        || told.contains(&format!("not started, {node}: "))
}

/// The first line of the program that is not there exactly once.
fn missing_output(ranks: u32, stdout: &str) -> Option<String> {
    let mut seen = std::collections::HashMap::<&str, u32>::new();
    for line in stdout.lines().filter_map(|line| line.split_once(" of ")) {
        *seen.entry(line.0).or_default() += 1;
    }
    let all = (0..TICKS).flat_map(|tick| (0..ranks).map(move |rank| format!("tick {tick} rank {rank}")));
    all.map(|line| (seen.get(line.as_str()).copied().unwrap_or(0), line))
        .find(|(count, _)| *count != 1)
        .map(|(count, line)| format!("{line:?} {count} times"))
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    pub plan: Plan,
    /// What was killed, in the end.
    pub struck: String,
    /// What came of create, of the job, and of destroy.
    pub happened: String,
    pub job: Option<JobEnd>,
    pub took: Duration,
    /// What was not as it should be.
    pub wrong: Option<String>,
}

/// The head of the table.
pub const HEADER: &str = "seed    nodes phase   victim         at ms job                  seconds what happened";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, struck, happened, job, took, wrong } = self;
        let job = job.as_ref().map_or("-".to_owned(), ToString::to_string);
        let (phase, victim) = (format!("{:?}", plan.phase), format!("{:?}", plan.victim));
        let (at, seconds) = (plan.instant.as_millis(), took.as_secs_f64());
        write!(f, "{:<7} {:>5} {phase:<7} {victim:<13} {at:>6} {job:<20} {seconds:>7.1} ", plan.seed, plan.nodes)?;
        write!(f, "{struck}; {happened}")?;
        wrong.iter().try_for_each(|wrong| write!(f, "; WRONG: {wrong}"))
    }
}

impl fmt::Display for JobEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Right { code } => write!(f, "ended {code}"),
            Self::Lost { node } => write!(f, "lost {node}"),
            Self::Named { node, code } => write!(f, "failed {code}, {node}"),
            Self::Wrong { .. } => f.write_str("WRONG"),
        }
    }
}

/// The numbers below the table.
pub fn summary(rows: &[Row]) -> String {
    let count = |what: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| what(row)).count();
    let mut text = format!("{} runs, {} as they should be\n", rows.len(), count(&|row| row.wrong.is_none()));
    for victim in Victim::ALL {
        let by_phase = Phase::ALL.map(|phase| {
            format!("{phase:?} {}", count(&|row| row.plan.victim == victim && row.plan.phase == phase)).to_lowercase()
        });
        text += &format!("  {victim:?} killed in: {}\n", by_phase.join(", "));
    }
    let right = count(&|row| matches!(row.job, Some(JobEnd::Right { .. })));
    let lost = count(&|row| matches!(row.job, Some(JobEnd::Lost { .. })));
    let named = count(&|row| matches!(row.job, Some(JobEnd::Named { .. })));
    text += &format!("  jobs: {right} ended with their code and all output, {lost} lost with the node's name, ");
    text += &format!("{named} failed in a barrier with the node's name\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_run_and_all_of_them_come() {
        assert_eq!(Plan::of(7), Plan::of(7));
        for phase in Phase::ALL {
            for victim in Victim::ALL {
                let plan = Plan::of(Plan::seed_of(0, phase, victim));
                assert_eq!((plan.phase, plan.victim), (phase, victim));
                assert!((2..=4).contains(&plan.nodes) && plan.node < plan.nodes);
            }
        }
    }

    fn output(ranks: u32) -> String {
        let line = |tick: u32, rank: u32| format!("tick {tick} rank {rank} of {ranks} on demo-{rank}\n");
        (0..TICKS).flat_map(|tick| (0..ranks).map(move |rank| line(tick, rank))).collect()
    }

    #[test]
    fn only_the_right_end_or_the_killed_nodes_name_will_do() {
        let plan = Plan { code: 7, ..Plan::of(1) };
        let lost = "error: job j-0 is lost: node demo-1 is lost, and the program with it: its machine ended";
        let whole = output(2);
        let cut = whole.replacen("tick 3 rank 1 ", "", 1);
        let end = |killed, code, stdout: &str, told| judge(&plan, killed, 2, code, stdout, told);
        assert_eq!(end(None, 7, &whole, ""), JobEnd::Right { code: 7 });
        assert!(matches!(end(None, 0, &whole, ""), JobEnd::Wrong { .. }), "another code");
        assert!(matches!(end(None, 7, &cut, ""), JobEnd::Wrong { .. }), "a line is missing");
        assert!(matches!(end(None, 7, &format!("{whole}{whole}"), ""), JobEnd::Wrong { .. }), "lines came twice");
        assert_eq!(end(Some("demo-1"), 75, &cut, lost), JobEnd::Lost { node: "demo-1".into() });
        assert!(matches!(end(Some("demo-0"), 75, &cut, lost), JobEnd::Wrong { .. }), "another node");
        assert!(matches!(end(None, 75, &cut, lost), JobEnd::Wrong { .. }), "no node was killed");
        let closing = "error: job j-0: the closing barrier failed, files may not be in S3: demo-1: gone";
        assert_eq!(end(Some("demo-1"), 7, &whole, closing), JobEnd::Named { node: "demo-1".into(), code: 7 });
        assert!(matches!(end(None, 7, &whole, closing), JobEnd::Wrong { .. }), "no node was killed");
    }
}
