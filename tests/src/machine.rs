//! A machine of the local cloud, seen from the host.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{self, Process};
use crate::site::Site;
use crate::wait::{seconds, until};

/// One running machine.
#[derive(Debug, Clone)]
pub struct Machine {
    pub instance: String,
    /// The network namespace that has its name.
    pub namespace: String,
    /// The process that is 1 inside.
    pub init: i32,
}

impl Machine {
    /// The machine of an instance, found by its network namespace, without asking the cloud.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn find(site: &Site, instance: &str) -> Self {
        Self::look_for(site, instance).unwrap_or_else(|| panic!("{instance} does not run"))
    }

    /// The machine of an instance, if it runs.
    pub fn look_for(site: &Site, instance: &str) -> Option<Self> {
        Self::all(site).into_iter().find(|machine| machine.instance == instance)
    }

    /// All machines of a site that run, by namespace.
    pub fn all(site: &Site) -> Vec<Self> {
        let Some(bridge) = site.bridge() else { return Vec::new() };
        let prefix = format!("e2m-{}-", bridge.trim_start_matches("e2m"));
        let mut namespaces = host::namespaces(&prefix);
        namespaces.sort();
        let machine = |namespace: String| {
            let (instance, init) = (namespace.strip_prefix(&prefix)?.to_owned(), init_of(&namespace)?);
            Some(Self { instance, namespace, init })
        };
        namespaces.into_iter().filter_map(machine).collect()
    }

    /// The machine of a cluster's node, by what `status --json` says.
    #[track_caller]
    pub fn of_node(site: &Site, status: &serde_json::Value, index: usize) -> Self {
        let instance = status["nodes"][index]["instance_id"].as_str().expect("a node has an instance");
        Self::find(site, instance)
    }

    /// Its root directory, from the host.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init))
    }

    /// A file on it, as bytes.
    ///
    /// # Panics
    /// When it cannot be read.
    #[track_caller]
    pub fn read(&self, path: &str) -> Vec<u8> {
        let place = self.root().join(path.trim_start_matches('/'));
        fs::read(&place).unwrap_or_else(|error| panic!("{path} on {}: {error}", self.instance))
    }

    /// What runs on it.
    pub fn processes(&self) -> Vec<Process> {
        host::in_pid_namespace_of(self.init)
    }

    /// The process of an agent's verb, as soon as there is one: `run` is the agent, `mount` the volume.
    ///
    /// # Panics
    /// When there is none within 20 seconds.
    #[track_caller]
    pub fn agent(&self, verb: &str) -> i32 {
        until(seconds(20), &format!("ec2mpi-agent {verb} on {}", self.instance), || {
            self.processes().into_iter().find(|process| process.is("ec2mpi-agent", verb)).map(|process| process.pid)
        })
    }

    /// Kills the process of an agent's verb, and waits until another has taken its place.
    #[track_caller]
    pub fn kill_agent(&self, verb: &str) {
        let old = self.agent(verb);
        kill(Pid::from_raw(old), Signal::SIGKILL).expect("a running process can be killed");
        until(seconds(30), &format!("ec2mpi-agent {verb} runs again on {}", self.instance), || {
            (self.agent(verb) != old).then_some(())
        });
    }

    /// Cuts it off from every other machine and from the cloud, or ends that.
    ///
    /// # Panics
    /// When its cable cannot be found or pulled.
    #[track_caller]
    pub fn set_cut_off(&self, cut_off: bool) {
        let shown = Command::new("ip").args(["-n", &self.namespace, "-o", "link", "show", "eth0"]).output();
        let shown = String::from_utf8_lossy(&shown.expect("ip can be started").stdout).into_owned();
        // "2: eth0@if17: ...": 17 is the other end, on the host.
        let number = shown.split("eth0@if").nth(1).and_then(|rest| rest.split(':').next()).map(str::to_owned);
        let number = number.unwrap_or_else(|| panic!("no cable of {}: {shown}", self.instance));
        let index = |name: &String| fs::read_to_string(format!("/sys/class/net/{name}/ifindex"));
        let other =
            host::interfaces("e2v").into_iter().find(|name| index(name).is_ok_and(|text| text.trim() == number));
        let other = other.unwrap_or_else(|| panic!("no interface {number} on the host"));
        let state = if cut_off { "down" } else { "up" };
        let done = Command::new("ip").args(["link", "set", &other, state]).status();
        assert!(done.is_ok_and(|status| status.success()), "{other} cannot be set {state}");
    }

    /// Kills its process 1, and everything on it with that: a power failure.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn cut_power(&self) {
        kill(Pid::from_raw(self.init), Signal::SIGKILL).expect("a running machine can be killed");
    }

    /// Resets it: everything on it dies at once, and it boots again from its disk.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn reset(&self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.init)).expect("it runs");
        let keeper = status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|pid| pid.trim().parse().ok());
        // What the cloud sends for RebootInstances; then process 1 gets no time to end anything well.
        kill(Pid::from_raw(keeper.expect("a process has a parent")), Signal::SIGHUP).expect("the keeper runs");
        std::thread::sleep(std::time::Duration::from_millis(50));
        let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
    }

    /// A command in its network namespace alone (its address, the host's files).
    pub fn on_its_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.init)).arg("--").arg(program);
        command
    }
}

/// The process of the namespace that is 1 in its own pid namespace.
fn init_of(namespace: &str) -> Option<i32> {
    let output = Command::new("ip").args(["netns", "pids", namespace]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid| is_init(*pid))
}

fn is_init(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let Some(line) = status.lines().find_map(|line| line.strip_prefix("NSpid:")) else { return false };
    let numbers: Vec<&str> = line.split_whitespace().collect();
    numbers.len() > 1 && numbers.last() == Some(&"1")
}
