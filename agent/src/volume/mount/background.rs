//! `mount` without `--foreground`: the same program once more, in a session of its own, until it answers.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::MountArgs;
use crate::volume::control::{self, Request};

/// How long a mount may take; a replay reads the journal only.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub(super) fn run(args: &MountArgs) -> anyhow::Result<()> {
    let options = super::options(args)?;
    let mut child = start(args)?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            bail!("the volume ended at once ({status}); what it said is above");
        }
        if answers(&options.control, child.id()) {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
    child.kill().context("ending a volume that does not answer")?;
    child.wait()?;
    bail!("the volume did not answer in {} s", PATIENCE.as_secs())
}

/// Stderr stays the caller's, so that errors are seen; everything else is cut.
fn start(args: &MountArgs) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.arg("mount").args(arguments(args)).stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: setsid is async-signal-safe and touches nothing of the parent.
    unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
    command.spawn().context("starting the volume")
}

fn arguments(args: &MountArgs) -> Vec<std::ffi::OsString> {
    let mut all: Vec<std::ffi::OsString> = vec!["--foreground".into()];
    let mut option = |name: &str, value: Option<std::ffi::OsString>| {
        if let Some(value) = value {
            all.extend([name.into(), value]);
        }
    };
    option("--endpoint", args.endpoint.clone().map(Into::into));
    option("--region", args.region.clone().map(Into::into));
    option("--cache-dir", args.cache_dir.clone().map(Into::into));
    option("--control", args.control.clone().map(Into::into));
    option("--uid", args.uid.map(|uid| uid.to_string().into()));
    option("--gid", args.gid.map(|gid| gid.to_string().into()));
    option("--node-name", args.node_name.clone().map(Into::into));
    let excl = args.excl.to_possible_value().map(|value| value.get_name().to_owned());
    option("--excl", excl.map(Into::into));
    option("--cache-size", args.cache_size.map(|bytes| bytes.to_string().into()));
    option("--dirty-limit", args.dirty_limit.map(|bytes| bytes.to_string().into()));
    option("--memory-limit", args.memory_limit.map(|bytes| bytes.to_string().into()));
    option("--attr-ttl", Some(args.attr_ttl.to_string().into()));
    all.extend(["--".into(), args.bucket.clone().into(), args.dir.clone().into()]);
    all
}

/// The socket is made after the mount; one that an earlier process left does not answer.
fn answers(socket: &Path, _process: u32) -> bool {
    control::blocking_call(socket, &Request::Status, Duration::from_secs(1)).is_ok_and(|answer| answer.ok)
}
