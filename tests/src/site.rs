//! A coordinator and a local cloud in a directory of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::outcome::{Outcome, Running};
use crate::wait::seconds;
use crate::{host, place};

/// No single command may take longer.
pub const COMMAND_LIMIT: Duration = seconds(150);

/// What stopping a cloud with all its machines may take.
const STOP_LIMIT: Duration = seconds(60);

/// How much of each log a failed test shows.
const LINES_SHOWN: usize = 25;

/// A place where the programs keep everything, removed with all that runs there when dropped.
#[derive(Debug)]
pub struct Site {
    directory: PathBuf,
}

impl Site {
    /// An empty place. Nothing is started: the first command does that.
    ///
    /// # Panics
    /// When not root, or when the directory cannot be made.
    #[track_caller]
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the scenarios make machines: run them as root (`make test` does)");
        let made = tempfile::Builder::new().prefix(place::SITE_PREFIX).tempdir().expect("a temporary directory");
        let directory = made.keep();
        fs::write(directory.join("owner"), crate::site::owner_line()).expect("a new directory can be written");
        fs::create_dir(directory.join("output")).expect("a new directory can be written");
        Self { directory }
    }

    /// Where everything of this site lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file or directory directly below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.path("control.sock")
    }

    /// `ec2mpi` with this site's environment, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&place::executable("ec2mpi"), arguments)
    }

    /// Any program with this site's environment, not started.
    pub fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_") || name.starts_with("EC2MPI_")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            // Not the configuration of the user who runs the tests.
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("EC2MPI_STATE_DIR", self.path("coordinator"))
            .env("EC2MPI_SOCKET", self.socket())
            .env("EC2MPI_CLOUD_DIR", self.path("cloud"))
            .env("EC2MPI_AGENT", place::executable("ec2mpi-agent"))
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    /// Starts `ec2mpi` with these arguments.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments), &self.path("output"))
    }

    /// Starts a command made by [`Self::command`].
    pub fn start_command(&self, command: Command) -> Running {
        Running::start(command, &self.path("output"))
    }

    /// Runs `ec2mpi` with these arguments to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.start(arguments).wait(COMMAND_LIMIT)
    }

    /// Starts the cloud alone.
    #[track_caller]
    pub fn start_cloud(&self, arguments: &[&str]) {
        self.run(&[&["cloud", "start"], arguments].concat()).ok();
    }

    /// What the running cloud says of itself.
    #[track_caller]
    pub fn cloud(&self) -> Value {
        let text = fs::read_to_string(self.path("cloud/cloud.json")).expect("a running cloud has a cloud.json");
        serde_json::from_str(&text).expect("cloud.json is JSON")
    }

    /// The cloud's bridge, when a cloud has ever told it.
    pub fn bridge(&self) -> Option<String> {
        bridge_of(&self.directory)
    }

    /// Makes a cluster and waits until it is ready; what `status --json` says of it then.
    #[track_caller]
    pub fn create(&self, name: &str, nodes: u32) -> Value {
        self.run(&["create", name, "--nodes", &nodes.to_string()]).ok();
        self.status(name)
    }

    /// `ec2mpi status NAME --json`.
    #[track_caller]
    pub fn status(&self, name: &str) -> Value {
        self.run(&["status", name, "--json"]).json()
    }

    /// Compiles a program of `tests/programs` on the cluster: `/shared/NAME`.
    #[track_caller]
    pub fn install(&self, cluster: &str, name: &str) {
        let source = place::program(&format!("{name}.c"));
        let words = source.to_str().expect("the checkout's path is text");
        self.run(&["cp", words, &format!("{cluster}:/shared/")]).ok();
        let file = format!("{name}.c");
        self.run(&["exec", cluster, "--", "mpicc", "-O2", "-o", name, &file, "-lm"]).ok();
    }

    /// Everything of this site that is on the host.
    pub fn traces(&self) -> Vec<String> {
        host::traces(&self.directory, self.bridge().as_deref())
    }

    fn stop_politely(&self) {
        for arguments in [&["stop"][..], &["cloud", "stop", "--purge"]] {
            let mut running = self.start(arguments);
            let begun = std::time::Instant::now();
            while running.is_running() && begun.elapsed() < STOP_LIMIT {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn show_logs(&self) {
        let cloud = self.path("cloud");
        show_tail(&self.path("coordinator/coordinator.log"));
        show_tail(&cloud.join("cloud.log"));
        for instance in fs::read_dir(cloud.join("instances")).into_iter().flatten().flatten() {
            show_tail(&instance.path().join("console.log"));
            for log in fs::read_dir(instance.path().join("upper/var/log/ec2mpi")).into_iter().flatten().flatten() {
                show_tail(&log.path());
            }
        }
        for output in fs::read_dir(self.path("output")).into_iter().flatten().flatten() {
            if output.file_name().to_string_lossy().ends_with("stderr") {
                show_tail(&output.path());
            }
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let bridge = self.bridge();
        if self.path("coordinator").exists() || self.path("cloud").exists() {
            self.stop_politely();
        }
        host::remove(&self.directory, bridge.as_deref());
    }
}

/// The bridge of the cloud in a site's directory; noted beside `cloud.json`, which goes when the cloud stops.
pub fn bridge_of(directory: &Path) -> Option<String> {
    let note = directory.join("bridge");
    let text = fs::read_to_string(directory.join("cloud/cloud.json")).ok();
    let told = text.and_then(|text| serde_json::from_str::<Value>(&text).ok()?["bridge"].as_str().map(str::to_owned));
    if let Some(bridge) = &told {
        let _ = fs::write(&note, bridge);
    }
    told.or_else(|| fs::read_to_string(note).ok())
}

/// Names the process that owns a site: its pid, and when it began, for pids are used again.
pub fn owner_line() -> String {
    let pid = std::process::id();
    format!("{pid} {}", began(pid).unwrap_or_default())
}

/// Whether the process that an owner line names lives.
pub fn owner_lives(line: &str) -> bool {
    let Some((pid, begin)) = line.trim().split_once(' ') else { return false };
    pid.parse().ok().and_then(began).is_some_and(|actual| actual == begin)
}

/// Field 22 of `/proc/PID/stat`: the start, in ticks since the boot of the machine.
fn began(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

fn show_tail(path: &Path) {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    if !lines.is_empty() {
        eprintln!("--- {} (end of {} lines)", path.display(), lines.len());
        lines[lines.len().saturating_sub(LINES_SHOWN)..].iter().for_each(|line| eprintln!("{line}"));
    }
}
