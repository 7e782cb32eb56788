//! What a daemon and its children cost: processor time, resident memory and its peak, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Of a process and all below it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) rss_kib: u64,
    pub(crate) peak_kib: u64,
}

/// The usage now; nothing when the process is gone.
pub(crate) fn usage(pid: i32) -> Usage {
    let mut sum = Usage::default();
    for pid in tree(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        sum.cpu += cpu(&stat).unwrap_or_default();
        sum.rss_kib += kib(&status, "VmRSS:").unwrap_or(0);
        sum.peak_kib += kib(&status, "VmHWM:").unwrap_or(0);
    }
    sum
}

/// From now on the peak is counted anew.
pub(crate) fn forget_peak(pid: i32) {
    for pid in tree(pid) {
        // A process that ended has no peak to forget.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

/// The process and its descendants.
pub(crate) fn tree(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = field(&stat, 4).and_then(|text| text.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// Fields 14 and 15: ticks in user and kernel mode.
fn cpu(stat: &str) -> Option<Duration> {
    let ticks: u64 = field(stat, 14)?.parse::<u64>().ok()? + field(stat, 15)?.parse::<u64>().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// One field of `/proc/PID/stat`, counted from 1 as in proc(5); the second is in brackets and may hold anything.
fn field(stat: &str, number: usize) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3)
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The load of this machine, and its memory: what figures were measured under.
pub(crate) fn machine() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "MemTotal:")).unwrap_or(0);
    let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let kernel = kernel.unwrap_or_default();
    format!("{cores} cores, {} GiB, Linux {kernel}, load {}", memory >> 20, load.join(" "))
}

/// Bytes of memory that could be had.
pub(crate) fn available() -> u64 {
    fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "MemAvailable:")).unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "42 (a) b) R 7 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 12345";
        assert_eq!(field(stat, 4), Some("7"));
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(kib("Name:\tx\nVmHWM:\t    1024 kB\n", "VmHWM:"), Some(1024));
    }

    #[test]
    fn children_are_counted() {
        let mut child = std::process::Command::new("sleep").arg("20").spawn().expect("sleep exists");
        let own = i32::try_from(std::process::id()).expect("a pid");
        let pid = i32::try_from(child.id()).expect("a pid");
        assert!(tree(own).contains(&pid) && !tree(pid).contains(&own));
        assert!(usage(pid).rss_kib > 0 && usage(own).rss_kib > usage(pid).rss_kib);
        child.kill().expect("it is ours");
        child.wait().expect("it was killed");
        assert_eq!(usage(pid), Usage::default());
    }
}
