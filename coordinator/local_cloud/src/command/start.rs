//! `cloud start`: a process of its own that outlives the one that started it.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::info::{CloudInfo, InfoError};
use crate::layout::Layout;
use crate::serve::{StartError, require_root};
use crate::settings::Options;

/// Making a key, a bridge and reading an index take seconds at most; a busy machine gets more.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How much of the log an error shows.
const LOG_LINES: usize = 5;

pub(super) fn run(directory: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    match CloudInfo::load(directory) {
        Ok(info) => {
            return Err(StartError::AlreadyRunning { directory: info.directory, pid: Some(info.pid) }.into());
        }
        Err(InfoError::NotRunning(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let info = ensure_running(directory, options)?;
    println!(
        "cloud is running in {}: pid {}, EC2 at {}, S3 at {}",
        info.directory.display(),
        info.pid,
        info.ec2_endpoint,
        info.s3_endpoint
    );
    Ok(ExitCode::SUCCESS)
}

/// The running cloud of that directory; started in the background where there is none, which is said on stderr with
/// pid and log. Blocks for at most a minute.
pub fn ensure_running(directory: &Path, options: &Options) -> anyhow::Result<CloudInfo> {
    match CloudInfo::load(directory) {
        Err(InfoError::NotRunning(_)) => {}
        found => return Ok(found?),
    }
    require_root()?;
    let layout = Layout::create(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut child = spawn(&layout, options)?;
    eprintln!("starting the local cloud: pid {}, log {}", child.id(), layout.log().display());
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(info) = CloudInfo::load(directory).ok().filter(answers) {
            return Ok(info);
        }
        // A child that ended may have lost against another start: then that one answers in a moment.
        let ended = child.try_wait()?.is_some() && !crate::lock::is_held(&layout.lock())?;
        if ended || Instant::now() >= deadline {
            return Err(failed(&mut child, &layout));
        }
        std::thread::sleep(POLL);
    }
}

/// The cloud is this very program again.
fn spawn(layout: &Layout, options: &Options) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(layout.log())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("ec2mpi")
        .arg("--cloud-dir")
        .arg(layout.root())
        .args(["cloud", "serve"])
        .args(options.to_args())
        .current_dir("/")
        .stdin(File::open("/dev/null")?)
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: between fork and exec the child makes one system call.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    command.spawn()
}

fn answers(info: &CloudInfo) -> bool {
    let address = info.ec2_endpoint.strip_prefix("http://").and_then(|address| address.parse().ok());
    address.is_some_and(|address| TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok())
}

fn failed(child: &mut Child, layout: &Layout) -> anyhow::Error {
    // It has ended, or it has had its time.
    let _ = child.kill();
    let _ = child.wait();
    let log = std::fs::read_to_string(layout.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
    anyhow::anyhow!("the local cloud did not start; its log {} ends with:\n  {tail}", layout.log().display())
}
