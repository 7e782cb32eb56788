//! `cloud fault`: what is to go wrong in a running cloud.

mod add;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(super) use add::AddArgs;

use crate::faults::admin::{self, Ask};
use crate::faults::{Bounds, Fault, FaultId, Kind, Progress};
use crate::info::CloudInfo;
use crate::layout::Layout;

/// Verbs of `cloud fault`.
#[derive(Debug, Subcommand)]
pub(super) enum FaultCommand {
    /// Have something go wrong, from now on or at the next occasion.
    Add(Box<AddArgs>),
    /// List the faults and how often each has struck; those that are over too.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove faults; a machine that was cut off is joined again, one that died stays dead.
    Clear {
        /// Faults, such as f-1; none: all of them.
        ids: Vec<FaultId>,
    },
}

pub(super) fn run(directory: &Path, command: FaultCommand) -> anyhow::Result<ExitCode> {
    // Says so where no cloud runs.
    CloudInfo::load(directory)?;
    let layout = Layout::open(directory)?;
    let send = |ask: &Ask| admin::ask(&layout, ask).context("cloud fault");
    match command {
        FaultCommand::Add(args) => {
            for (kind, bounds) in args.into_faults(Timestamp::now())? {
                send(&Ask::Add { kind, bounds })?.iter().for_each(print_line);
            }
        }
        FaultCommand::List { json: false } => match send(&Ask::List)?.as_slice() {
            [] => eprintln!("no faults"),
            faults => faults.iter().for_each(print_line),
        },
        FaultCommand::List { json: true } => {
            let rows: Vec<Value> = send(&Ask::List)?.iter().map(to_json).collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        FaultCommand::Clear { ids } => {
            let cleared = send(&Ask::Clear { ids })?;
            println!("{} faults cleared", cleared.len());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_line(fault: &Fault) {
    let (id, struck) = (fault.id.to_string(), fault.struck);
    println!("{id:<5} {:<8} struck {struck:<4} {}{}", stage(fault), fault.kind, bounds(&fault.bounds));
}

/// Where it stands, in one word.
fn stage(fault: &Fault) -> &'static str {
    match &fault.kind {
        Kind::Machine(machine) => match machine.progress {
            Progress::Waiting { .. } => "waiting",
            Progress::Striking { .. } => "striking",
            Progress::Done => "over",
        },
        _ if fault.is_over(Timestamp::now()) => "over",
        _ => "in force",
    }
}

fn bounds(bounds: &Bounds) -> String {
    let mut text = String::new();
    if bounds.skip > 0 {
        text += &format!(", after {} that are spared", bounds.skip);
    }
    if let Some(count) = bounds.count {
        text += &format!(", {count} times");
    }
    if let Some(chance) = bounds.chance {
        text += &format!(", with probability {} (seed {})", chance.probability, chance.seed);
    }
    if let Some(until) = bounds.until {
        text += &format!(", until {}", until.strftime("%H:%M:%S UTC"));
    }
    text
}

fn to_json(fault: &Fault) -> Value {
    json!({
        "id": fault.id,
        "stage": stage(fault),
        "text": fault.kind.to_string(),
        "asked": fault.asked,
        "struck": fault.struck,
        "kind": fault.kind,
        "bounds": fault.bounds,
    })
}
