//! What `/proc` tells of processes.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// When a process started: clock ticks since the boot of the kernel. `None` when there is no such process.
pub fn start_ticks(pid: i32) -> Option<u64> {
    parse_start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22. The name in field 2 may hold blanks and brackets, so fields count from the last bracket.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The processes of a user whose environment holds `NAME=value`.
pub fn with_environment(uid: u32, assignment: &str) -> Vec<i32> {
    pids().filter(|pid| real_uid(*pid) == Some(uid) && environment_holds(*pid, assignment)).collect()
}

/// The process whose standard input is the file with this device and inode number.
pub fn with_stdin(dev: u64, ino: u64) -> Option<i32> {
    pids()
        .find(|pid| fs::metadata(format!("/proc/{pid}/fd/0")).is_ok_and(|meta| meta.dev() == dev && meta.ino() == ino))
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").ok().into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn real_uid(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

fn environment_holds(pid: i32, assignment: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|b| *b == 0).any(|entry| entry == assignment.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_strange_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_start_ticks(stat), Some(4242));
        assert_eq!(parse_start_ticks("nonsense"), None);
        assert!(start_ticks(i32::try_from(std::process::id()).unwrap()).unwrap() > 0);
    }
}
