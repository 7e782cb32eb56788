//! `cloud stop`: ends the machines while the cloud still serves them, then the cloud, then removes what is left by name.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::fleet;
use crate::info::CloudInfo;
use crate::layout::{Layout, MachineDir};
use crate::lock::HeldLock;
use crate::machine::KeeperStatus;
use crate::machine::process::{Pidfd, kill_inside};
use crate::network::{self, Names};
use crate::serve::require_root;
use crate::settings::CloudTag;
use crate::{durable, lock};

/// A keeper ends its machine by force after ten seconds.
const MACHINES_LIMIT: Duration = Duration::from_secs(20);
const CLOUD_LIMIT: Duration = Duration::from_secs(15);
const FORCE_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

pub(super) fn run(directory: &Path, purge: bool) -> anyhow::Result<ExitCode> {
    require_root()?;
    let Some(layout) = existing(directory)? else {
        println!("no cloud in {}", directory.display());
        return Ok(ExitCode::SUCCESS);
    };
    let count = fleet::load_instances(&layout)?.values().filter(|instance| !instance.state.is_terminated()).count();
    end_machines(&layout)?;
    let lock = end_cloud(&layout, directory)?;
    end_machines(&layout)?;
    clean_up(&layout)?;
    if purge {
        remove_all_files(&layout)?;
    }
    drop(lock);
    let kept = if purge { "its directory is removed" } else { "its buckets are kept" };
    println!("cloud in {} is stopped: {count} instances terminated, {kept}", directory.display());
    Ok(ExitCode::SUCCESS)
}

/// The layout of a directory that a cloud has served, even if its files are lost; none for any other one.
fn existing(directory: &Path) -> anyhow::Result<Option<Layout>> {
    if !directory.exists() {
        return Ok(None);
    }
    let layout = Layout::open(directory)?;
    let has_served = layout.lock().exists() || network::is_there(&Names::new(CloudTag::of(&layout)))?;
    Ok(has_served.then_some(layout))
}

/// Powers every machine off, and ends by force what does not follow.
fn end_machines(layout: &Layout) -> anyhow::Result<()> {
    let keepers: Vec<Pidfd> = machines(layout)?.iter().filter_map(keeper).collect();
    signal_all(&keepers, Signal::SIGTERM)?;
    if !all_ended(&keepers, MACHINES_LIMIT)? {
        signal_all(&keepers, Signal::SIGKILL)?;
        anyhow::ensure!(all_ended(&keepers, FORCE_LIMIT)?, "a machine does not end");
    }
    Ok(())
}

fn machines(layout: &Layout) -> anyhow::Result<Vec<MachineDir>> {
    let entries = match std::fs::read_dir(layout.instances()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    Ok(entries.filter_map(|entry| Some(MachineDir::new(entry.ok()?.path()))).collect())
}

/// The process that keeps the machine, if one does.
fn keeper(dir: &MachineDir) -> Option<Pidfd> {
    let is_held = || lock::is_held(&dir.lock()).unwrap_or(false);
    let status = is_held().then(|| KeeperStatus::load(dir).ok().flatten()).flatten()?;
    let process = Pidfd::open(status.pid).ok()?;
    // Held still, so the process that was opened is the one that holds it.
    is_held().then_some(process)
}

fn signal_all(processes: &[Pidfd], signal: Signal) -> anyhow::Result<()> {
    for process in processes {
        process.signal(signal)?;
    }
    Ok(())
}

fn all_ended(processes: &[Pidfd], limit: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + limit;
    for process in processes {
        if !process.wait(deadline.saturating_duration_since(Instant::now()))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ends the process that serves, and holds its lock from then on.
fn end_cloud(layout: &Layout, directory: &Path) -> anyhow::Result<HeldLock> {
    let deadline = Instant::now() + CLOUD_LIMIT + FORCE_LIMIT;
    let mut force_at = None;
    loop {
        if let Some(lock) = lock::acquire(&layout.lock())? {
            return Ok(lock);
        }
        anyhow::ensure!(Instant::now() < deadline, "the cloud in {} does not end", directory.display());
        // A cloud that has not said its pid yet is about to.
        if let Some(process) = CloudInfo::load(directory).ok().and_then(|info| Pidfd::open(info.pid).ok()) {
            let force = *force_at.get_or_insert(Instant::now() + CLOUD_LIMIT);
            let signal = if Instant::now() < force { Signal::SIGTERM } else { Signal::SIGKILL };
            process.signal(signal).context("cannot end the cloud")?;
            process.wait(POLL)?;
        }
        std::thread::sleep(POLL);
    }
}

/// Removes processes, network and disks by name, whoever made them.
fn clean_up(layout: &Layout) -> anyhow::Result<()> {
    let names = Names::new(CloudTag::of(layout));
    for netns in network::namespaces(&names)? {
        let is_empty = kill_inside(&network::netns_path(&netns), FORCE_LIMIT)?;
        anyhow::ensure!(is_empty, "processes in {netns} do not end");
    }
    network::remove_all(&names)?;
    durable::remove_tree(&layout.instances())?;
    durable::remove_tree(&layout.launches())?;
    durable::remove_file(&layout.role_keys())?;
    durable::remove_file(&layout.admin())?;
    durable::remove_file(&layout.info())?;
    Ok(())
}

/// Removes what a cloud keeps, by name: whatever else is in the directory is somebody else's.
fn remove_all_files(layout: &Layout) -> anyhow::Result<()> {
    durable::remove_tree(&layout.bucket())?;
    let keys = [layout.document_key(), layout.document_certificate()];
    for file in keys.into_iter().chain([layout.settings(), layout.faults(), layout.log(), layout.lock()]) {
        durable::remove_file(&file)?;
    }
    match std::fs::remove_dir(layout.root()) {
        Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => Err(error.into()),
        _ => Ok(()),
    }
}
