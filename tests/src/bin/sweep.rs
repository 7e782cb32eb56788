//! Removes what killed tests left: sites whose owner no longer lives. With `--report` it fails when there were any.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use ec2mpi_tests::{host, place, site};

fn main() -> ExitCode {
    let orphans = orphans();
    for directory in &orphans {
        let bridge = site::bridge_of(directory);
        eprintln!("a killed test left {}:", directory.display());
        host::traces(directory, bridge.as_deref()).iter().for_each(|line| eprintln!("  {line}"));
        host::remove(directory, bridge.as_deref());
    }
    let report = std::env::args().any(|word| word == "--report");
    if report && !orphans.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Directories of sites without a living owner. One without an owner file may be just coming to be.
fn orphans() -> Vec<PathBuf> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(place::SITE_PREFIX))
        .map(|entry| entry.path())
        .filter(|path| fs::read_to_string(path.join("owner")).is_ok_and(|line| !site::owner_lives(&line)))
        .collect()
}
