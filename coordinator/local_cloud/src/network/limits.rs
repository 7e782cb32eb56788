//! The neighbour table: shared by all namespaces, and too small for some dozens of machines that all talk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable::{self, Outlive};

/// What 100 machines with all pairs need (each is a neighbour of each other one), with room.
const WANTED: [(&str, u64); 3] = [("gc_thresh1", 4096), ("gc_thresh2", 16384), ("gc_thresh3", 32768)];
const DIRECTORY: &str = "/proc/sys/net/ipv4/neigh/default";
/// What the values were before the first cloud raised them.
const MEMORY: &str = "/run/ec2mpi-neighbours.json";

/// Raises what is lower than wanted, and remembers what it was.
pub(super) fn raise() -> io::Result<()> {
    let mut before: BTreeMap<String, u64> = durable::load(Path::new(MEMORY))?.unwrap_or_default();
    let current = read_all()?;
    for (name, value) in needed(&current) {
        before.entry(name.clone()).or_insert(current[&name]);
        durable::save(Path::new(MEMORY), &before, Outlive::Process)?;
        std::fs::write(path(&name), value.to_string())?;
    }
    Ok(())
}

/// Puts back what `raise` changed.
pub(super) fn restore() -> io::Result<()> {
    let before: BTreeMap<String, u64> = durable::load(Path::new(MEMORY))?.unwrap_or_default();
    for (name, value) in before.iter().filter(|(name, _)| WANTED.iter().any(|(wanted, _)| wanted == name)) {
        std::fs::write(path(name), value.to_string())?;
    }
    durable::remove_file(Path::new(MEMORY))
}

fn needed(current: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let is_low = |(name, value): &(&str, u64)| current.get(*name).is_some_and(|now| now < value);
    WANTED.iter().filter(|want| is_low(want)).map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

fn read_all() -> io::Result<BTreeMap<String, u64>> {
    let read = |name: &str| -> io::Result<(String, u64)> {
        let text = std::fs::read_to_string(path(name))?;
        let value = text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, name.to_owned()))?;
        Ok((name.to_owned(), value))
    };
    WANTED.iter().map(|(name, _)| read(name)).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raises_only_what_is_lower() {
        let current = [("gc_thresh1", 128), ("gc_thresh2", 99_999), ("gc_thresh3", 1024)];
        let current = current.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let names: Vec<String> = needed(&current).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["gc_thresh1", "gc_thresh3"]);
    }
}
