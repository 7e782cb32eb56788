//! A coordinator in the background: starting it, telling its build, replacing it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use ec2mpi_proto::v1::{GetInfoResponse, StopRequest};
use tokio::time::{Instant, sleep};

use super::connect::{self, Client, Found, told};
use crate::api::control::build_id;
use crate::config::{CloudKind, Settings};

/// A coordinator may have to start the local cloud first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A coordinator that ended at once may have left the place to another that is still starting.
const RIVAL_LIMIT: Duration = Duration::from_secs(10);
/// Streams end at once; an answer under way may take a moment.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// What is shown of the log when the start fails.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 15;

/// Starts a coordinator in a session of its own, says so, and waits until it answers.
pub(super) async fn start(settings: &Settings) -> anyhow::Result<Client> {
    needs_root(settings)?;
    settings.check_complete()?;
    let log = settings.state_dir.join("coordinator.log");
    let mut child = spawn(settings, &log)?;
    eprintln!("starting the coordinator: pid {}, log {}", child.id(), log.display());
    let begun = Instant::now();
    let mut ended = None;
    loop {
        if let Ok(Found::Running(client)) = connect::dial(&settings.socket).await {
            return Ok(client);
        }
        if ended.is_none() && child.try_wait()?.is_some() {
            ended = Some(Instant::now());
        }
        if ended.is_some_and(|at| at.elapsed() > RIVAL_LIMIT || lock_is_free(&settings.state_dir)) {
            bail!("the coordinator ended at once; the end of its log {}:\n{}", log.display(), tail(&log));
        }
        if begun.elapsed() > START_LIMIT {
            let limit = START_LIMIT.as_secs();
            bail!("the coordinator (pid {}) does not answer within {limit} s; its log:\n{}", child.id(), tail(&log));
        }
        sleep(PAUSE).await;
    }
}

/// Asks a coordinator to end and waits until its process is gone.
pub(super) async fn stop(client: &mut Client, pid: u32) -> anyhow::Result<()> {
    match client.stop(StopRequest {}).await {
        Ok(_) => {}
        // It may be gone before its answer is.
        Err(status) if connect::is_lost(&status) => {}
        Err(status) => return Err(told(status)),
    }
    let begun = Instant::now();
    while is_alive(pid) {
        if begun.elapsed() > STOP_LIMIT {
            bail!("the coordinator (pid {pid}) did not end within {} s: kill it and try again", STOP_LIMIT.as_secs());
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Whether this coordinator runs the executable that this process runs.
pub(super) fn is_this_build(info: &GetInfoResponse) -> bool {
    // The same file needs no reading.
    if let (Ok(theirs), Ok(ours)) = (executable(&info.pid.to_string()), executable("self"))
        && theirs == ours
    {
        return true;
    }
    build_id().is_ok_and(|id| id == info.build_id)
}

fn executable(pid: &str) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(format!("/proc/{pid}/exe"))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A zombie no longer holds anything.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

fn needs_root(settings: &Settings) -> anyhow::Result<()> {
    if settings.cloud == CloudKind::Local && !nix::unistd::geteuid().is_root() {
        bail!("the local cloud makes machines of namespaces, which takes root: run this with sudo");
    }
    Ok(())
}

fn spawn(settings: &Settings, log: &Path) -> anyhow::Result<Child> {
    let directory = &settings.state_dir;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make the coordinator's directory {}", directory.display()))?;
    let output = OpenOptions::new().create(true).append(true).mode(0o600).open(log);
    let output = output.with_context(|| format!("cannot open the coordinator's log {}", log.display()))?;
    let executable = std::env::current_exe().context("cannot find this executable")?;
    let mut command = Command::new(&executable);
    command
        .args(arguments(settings))
        .arg("serve")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(|_| ()).map_err(io::Error::from));
    }
    command.spawn().with_context(|| format!("cannot start {}", executable.display()))
}

/// The flags that give the coordinator these settings.
fn arguments(settings: &Settings) -> Vec<std::ffi::OsString> {
    let flag = |name: &str, value: &Path| [name.into(), value.as_os_str().to_owned()];
    let mut words: Vec<std::ffi::OsString> = Vec::new();
    words.extend(flag("--state-dir", &settings.state_dir));
    words.extend(flag("--socket", &settings.socket));
    words.extend(flag("--cloud-dir", &settings.cloud_dir));
    words.extend(flag("--agent", &settings.agent_binary));
    words.extend(["--cloud".into(), settings.cloud.name().into()]);
    words.extend(settings.aws.given().into_iter().map(|(name, value)| format!("--{name}={value}").into()));
    words
}

/// Whether no coordinator holds the state directory: then none is starting either.
fn lock_is_free(state_dir: &Path) -> bool {
    let Ok(file) = File::open(state_dir.join("lock")) else { return true };
    file.try_lock_shared().is_ok()
}

fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(cannot be read: {error})"));
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_of_this_build_and_alive() {
        let info = |pid, build_id: &str| GetInfoResponse { pid, build_id: build_id.into(), ..Default::default() };
        assert!(is_this_build(&info(std::process::id(), "")));
        assert!(is_this_build(&info(0, &build_id().unwrap())));
        assert!(!is_this_build(&info(1, "0000")));
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        std::fs::write(&log, (0..1000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let tail = tail(&log);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("  line 999\n"), "{tail}");
    }
}
