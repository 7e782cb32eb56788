//! A cloud of its own in a directory of its own, as a process; curl is its client, so the signatures are another's work.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Everything in these tests takes far less.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(30);

pub(crate) struct Lab {
    dir: tempfile::TempDir,
    /// The six digits in the names of its bridge and namespaces, which follow from its directory.
    tag: String,
}

/// One row of `cloud status --json`.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) address: String,
}

impl Lab {
    /// A cloud that runs. Machines need root: without it, this fails.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tag = tag(dir.path());
        let lab = Self { dir, tag };
        lab.start_again();
        lab
    }

    pub(crate) fn start_again(&self) {
        let output = self.cloud(&["start"]);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Runs `cloud ...` on this directory.
    pub(crate) fn cloud(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--cloud-dir").arg(self.dir.path()).arg("cloud").args(args);
        command
    }

    pub(crate) fn path(&self, rest: &str) -> PathBuf {
        self.dir.path().join(rest)
    }

    pub(crate) fn status(&self) -> Value {
        let output = self.cloud(&["status", "--json"]);
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn info(&self, key: &str) -> String {
        self.status()[key].as_str().unwrap().to_owned()
    }

    pub(crate) fn pid(&self) -> u64 {
        self.status()["pid"].as_u64().unwrap()
    }

    pub(crate) fn machines(&self) -> Vec<Machine> {
        let word = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let machine = |row: &Value| Machine {
            id: word(row, "id"),
            state: word(row, "state"),
            reason: word(row, "reason"),
            address: word(row, "address"),
        };
        self.status()["instances"].as_array().unwrap().iter().map(machine).collect()
    }

    pub(crate) fn machine(&self, id: &str) -> Machine {
        self.machines().into_iter().find(|machine| machine.id == id).unwrap()
    }

    /// One request to the EC2 API; the body of its answer.
    pub(crate) fn ec2(&self, action: &str, params: &[(&str, &str)]) -> String {
        let status = self.status();
        let word = |key: &str| status[key].as_str().unwrap().to_owned();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30", "--aws-sigv4", "aws:amz:local-1:ec2", "--user"]);
        curl.arg(format!("{}:{}", word("access_key"), word("secret_key")));
        curl.arg("--data-urlencode").arg(format!("Action={action}"));
        for (name, value) in params {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let output = curl.arg(word("ec2_endpoint") + "/").output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let body = String::from_utf8(output.stdout).unwrap();
        assert!(!body.contains("<Error>"), "{action}: {body}");
        body
    }

    /// Launches machines that run `script` at their first boot, and waits until all of them run.
    pub(crate) fn launch(&self, count: usize, script: &str) -> Vec<Machine> {
        let before: Vec<String> = self.machines().into_iter().map(|machine| machine.id).collect();
        let (count_text, user_data) = (count.to_string(), STANDARD.encode(script));
        let params = [
            ("ImageId", "ami-00000000000000001"),
            ("MinCount", count_text.as_str()),
            ("MaxCount", count_text.as_str()),
            ("UserData", user_data.as_str()),
            ("InstanceInitiatedShutdownBehavior", "terminate"),
            ("IamInstanceProfile.Name", "ec2mpi-node"),
        ];
        self.ec2("RunInstances", &params);
        let new = || self.machines().into_iter().filter(|machine| !before.contains(&machine.id)).collect::<Vec<_>>();
        until("all machines run", || new().iter().filter(|machine| machine.state == "running").count() == count);
        new()
    }

    pub(crate) fn console(&self, id: &str) -> String {
        std::fs::read_to_string(self.path(&format!("instances/{id}/console.log"))).unwrap_or_default()
    }

    pub(crate) fn until_console(&self, id: &str, wanted: &str) {
        until(&format!("the console of {id} says {wanted}"), || self.console(id).contains(wanted));
    }

    pub(crate) fn until_state(&self, id: &str, wanted: &str) -> Machine {
        until(&format!("{id} is {wanted}"), || self.machine(id).state == wanted);
        self.machine(id)
    }

    pub(crate) fn keeper(&self, id: &str) -> Value {
        let bytes = std::fs::read(self.path(&format!("instances/{id}/keeper.json"))).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// What of this cloud is on the host, one line each: links, namespaces, mounts, processes.
    pub(crate) fn traces(&self) -> Vec<String> {
        let dir = self.dir.path().to_str().unwrap().to_owned();
        let listed = |args: &[&str]| text(&Command::new("ip").args(args).output().unwrap());
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let lines = [listed(&["-o", "link"]), listed(&["netns"]), mounts].join("\n");
        let named = |line: &&str| line.contains(&dir) || line.contains(&self.tag);
        let mut found: Vec<String> = lines.lines().filter(named).map(str::to_owned).collect();
        for entry in std::fs::read_dir("/proc").unwrap() {
            let command = std::fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&dir) {
                found.push(command);
            }
        }
        found
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.cloud(&["stop"]);
    }
}

fn tag(dir: &Path) -> String {
    use sha2::{Digest, Sha256};
    let path = dir.canonicalize().unwrap();
    hex::encode(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..3])
}

/// The example `cloud`, which cargo builds beside the tests.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).map(|release| release.join("examples/cloud")).unwrap();
    assert!(program.exists(), "{} is missing: build the examples too", program.display());
    program
}

/// Waits for a condition; fails when it takes too long.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {} s: {what}", LIMIT.as_secs());
        std::thread::sleep(PAUSE);
    }
}

pub(crate) fn kill(pid: u64) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
