//! What a site has on the host, seen from outside: processes, mounts, namespaces, links; and their removal by force.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process of a site.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub words: Vec<String>,
}

impl Process {
    /// Whether it runs the program of this name, wherever that lies.
    pub fn is_program(&self, program: &str) -> bool {
        self.words.first().is_some_and(|word| word.rsplit('/').next() == Some(program))
    }

    /// Whether one of the arguments is this word.
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().skip(1).any(|other| other == word)
    }

    /// Whether the arguments start with these, whatever the program is called.
    pub fn is(&self, program: &str, verb: &str) -> bool {
        let name = self.words.first().map(|word| word.rsplit('/').next().unwrap_or(word));
        name == Some(program) && self.words.get(1).is_some_and(|word| word == verb)
    }
}

/// All processes whose arguments can be read.
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            Some(Process { pid, words: null_terminated(&fs::read(entry.path().join("cmdline")).ok()?) })
        })
        .filter(|process| !process.words.is_empty())
        .collect()
}

/// The processes of one pid namespace, given by any of its members.
pub fn in_pid_namespace_of(member: i32) -> Vec<Process> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = namespace(member) else { return Vec::new() };
    processes().into_iter().filter(|process| namespace(process.pid).as_ref() == Some(&wanted)).collect()
}

/// The processes that have the directory in their arguments or in their environment, this one excepted.
pub fn processes_of(directory: &Path) -> Vec<Process> {
    let needle = directory.to_string_lossy().into_owned();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mentions = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        process.words.iter().any(|word| word.contains(&needle))
            || null_terminated(&environment).iter().any(|entry| entry.contains(&needle))
    };
    processes().into_iter().filter(|process| process.pid != own && mentions(process)).collect()
}

/// The mount points below a directory, innermost first.
pub fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|field| PathBuf::from(field.replace("\\040", " ")))
        .filter(|path| path.starts_with(directory))
        .collect();
    found.reverse();
    found
}

/// Named network namespaces that begin so.
pub fn namespaces(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Network interfaces of this namespace that begin so.
pub fn interfaces(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Everything of a site that is on the host, one line each; `bridge` is the cloud's, where it is known.
pub fn traces(directory: &Path, bridge: Option<&str>) -> Vec<String> {
    let mut found: Vec<String> =
        processes_of(directory).iter().map(|process| format!("process {} {:?}", process.pid, process.words)).collect();
    found.extend(mounts_below(directory).iter().map(|path| format!("mount {}", path.display())));
    if let Some(bridge) = bridge {
        found.extend(interfaces(bridge).iter().map(|name| format!("interface {name}")));
        found.extend(namespaces(&namespace_prefix(bridge)).iter().map(|name| format!("namespace {name}")));
    }
    found
}

/// Removes by force what [`traces`] finds, and the directory.
pub fn remove(directory: &Path, bridge: Option<&str>) {
    for process in processes_of(directory) {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    if let Some(bridge) = bridge {
        for namespace in namespaces(&namespace_prefix(bridge)) {
            remove_namespace(&namespace);
        }
        for name in interfaces(bridge) {
            let _ = Command::new("ip").args(["link", "del", &name]).output();
        }
    }
    // Mounts stay busy until the killed processes have been reaped.
    for _ in 0..50 {
        for path in mounts_below(directory) {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
        if fs::remove_dir_all(directory).is_ok() || !directory.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!("{} cannot be removed", directory.display());
}

fn remove_namespace(name: &str) {
    let inside = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = inside.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

/// How the namespaces of a bridge's machines begin: bridge `e2mHASH`, namespaces `e2m-HASH-INSTANCE`.
pub fn namespace_prefix(bridge: &str) -> String {
    format!("e2m-{}-", bridge.trim_start_matches("e2m"))
}

fn null_terminated(bytes: &[u8]) -> Vec<String> {
    let fields = bytes.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    fields.map(|field| String::from_utf8_lossy(field).into_owned()).collect()
}
