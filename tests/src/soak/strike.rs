//! The blow: finds what is to be killed, and kills it.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Death, Plan, Victim};
use crate::host;
use crate::machine::Machine;
use crate::site::Site;
use crate::stranger;
use crate::wait::{seconds, until};

/// How long the victim may take to come into being.
const COMES_WITHIN: Duration = seconds(10);

/// What was killed.
#[derive(Debug, Clone, Default)]
pub struct Blow {
    pub what: String,
    /// The instance, when a machine was killed.
    pub instance: Option<String>,
}

/// Kills what the plan says, as soon as it exists. `instances`: those of the cluster by index, where they are known.
pub fn strike(site: &Site, plan: &Plan, instances: &[String]) -> Blow {
    let begun = std::time::Instant::now();
    loop {
        if let Some(blow) = try_strike(site, plan, instances) {
            return blow;
        }
        if begun.elapsed() > COMES_WITHIN {
            return Blow { what: "nothing was there to kill".into(), instance: None };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn try_strike(site: &Site, plan: &Plan, instances: &[String]) -> Option<Blow> {
    match plan.victim {
        Victim::Coordinator => end(coordinator(site)?, "coordinator"),
        Victim::Cloud => {
            let blow = end(i32::try_from(site.cloud()["pid"].as_i64()?).ok()?, "cloud")?;
            std::thread::sleep(Duration::from_millis(300));
            site.start_cloud(&[]);
            Some(blow)
        }
        Victim::Agent => end_on(&machine(site, plan, instances)?, "run", "agent"),
        Victim::Volume => end_on(&machine(site, plan, instances)?, "mount", "volume"),
        Victim::Node => end_machine(site, &machine(site, plan, instances)?, plan.death),
    }
}

/// Kills a process, and waits until it is dead: what a user does next does not meet it dying.
fn end(pid: i32, what: &str) -> Option<Blow> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).ok()?;
    let cmdline = format!("/proc/{pid}/cmdline");
    until(seconds(10), "a killed process is dead", || {
        std::fs::read(&cmdline).map_or(true, |words| words.is_empty()).then_some(())
    });
    Some(Blow { what: format!("{what} killed"), instance: None })
}

fn end_on(machine: &Machine, verb: &str, what: &str) -> Option<Blow> {
    let found = machine.processes().into_iter().find(|process| process.is("ec2mpi-agent", verb))?;
    end(found.pid, &format!("{what} of {}", machine.instance))
}

fn end_machine(site: &Site, machine: &Machine, death: Death) -> Option<Blow> {
    match death {
        Death::PowerCut => kill(Pid::from_raw(machine.init), Signal::SIGKILL).ok()?,
        Death::Terminated => stranger::terminate(site, &machine.instance),
    }
    let what = format!("{} ({death:?})", machine.instance);
    Some(Blow { what, instance: Some(machine.instance.clone()) })
}

/// The coordinator of the site, whoever started it.
pub fn coordinator(site: &Site) -> Option<i32> {
    let is_coordinator =
        |process: &host::Process| process.is_program("ec2mpi") && process.has("serve") && !process.has("cloud");
    host::processes_of(site.directory()).into_iter().find(is_coordinator).map(|process| process.pid)
}

/// The node's machine; before it is known which it is, any that runs.
fn machine(site: &Site, plan: &Plan, instances: &[String]) -> Option<Machine> {
    if let Some(instance) = instances.get(plan.node as usize) {
        return Machine::look_for(site, instance);
    }
    let running = Machine::all(site);
    running.get(plan.node as usize % running.len().max(1)).cloned()
}
