//! The control socket of a mounted volume: one JSON line in, one JSON line out.
//!
//! [`call`] is the client that the node and the subcommands use; [`server`] answers. The socket is open to its owner
//! only.

pub mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The longest answer a client reads.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// How long `umount` waits for the mount to go after the drain.
const UNMOUNT_GRACE: Duration = Duration::from_secs(30);

/// What can be asked of a mounted volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How much is not in S3 yet, and what went wrong.
    Status,
    /// Wait until everything written so far is in S3.
    Drain {
        /// Give up after this many seconds.
        timeout_seconds: u64,
    },
    /// Forget what is known of names, attributes and listings: the next look asks S3.
    Epoch,
    /// Unmount without waiting for uploads (the journal keeps them) and end the process.
    Umount,
}

/// A file that could not be uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Relative to the root of the volume.
    pub path: String,
    /// Why, and where the data is kept.
    pub error: String,
}

/// The state of a mounted volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where it is mounted.
    #[serde(default)]
    pub mount_point: String,
    /// Files with bytes or names that are not in S3 yet.
    #[serde(default)]
    pub dirty_files: u64,
    /// Bytes that are not in S3 yet.
    #[serde(default)]
    pub dirty_bytes: u64,
    /// Files that could not be uploaded and never will be by themselves.
    #[serde(default)]
    pub failed_files: u64,
    /// Files that somebody else changed first; ours is kept beside theirs.
    #[serde(default)]
    pub conflicts: u64,
    /// The failed files.
    #[serde(default)]
    pub failures: Vec<Failure>,
}

/// What a volume answers: `ok`, or `error` says why not. The state is always there when the volume could tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request was carried out.
    pub ok: bool,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The state after the request.
    #[serde(flatten)]
    pub status: Status,
}

impl Answer {
    /// Carried out.
    pub fn done(status: Status) -> Self {
        Self { ok: true, error: None, status }
    }

    /// Not carried out.
    pub fn failed(error: impl Into<String>, status: Status) -> Self {
        Self { ok: false, error: Some(error.into()), status }
    }
}

/// Asks the volume behind `socket`; the whole exchange ends by `deadline`.
///
/// An answer that says "not done" is an `Ok` with `ok == false`; an error means that there was no answer.
pub async fn call(socket: &Path, request: &Request, deadline: Duration) -> anyhow::Result<Answer> {
    tokio::time::timeout(deadline, exchange(socket, request))
        .await
        .with_context(|| format!("the volume at {} did not answer in {} s", socket.display(), deadline.as_secs()))?
}

async fn exchange(socket: &Path, request: &Request) -> anyhow::Result<Answer> {
    let mut stream =
        UnixStream::connect(socket).await.with_context(|| format!("no volume answers at {}", socket.display()))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await.context("asking the volume")?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut answer).await.context("waiting for the volume")?;
    if answer.is_empty() {
        bail!("the volume at {} ended before it answered", socket.display());
    }
    serde_json::from_str(&answer).context("the volume's answer")
}

/// `drain DIR`.
#[derive(Debug, Clone, clap::Args)]
pub struct DrainArgs {
    /// The mount point.
    pub dir: PathBuf,
    /// Seconds to wait.
    #[arg(long, default_value_t = 3600)]
    pub timeout: u64,
    /// The control socket, when it is not where `mount` puts it by default.
    #[arg(long)]
    pub control: Option<PathBuf>,
}

/// `status DIR`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// The mount point.
    pub dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The control socket, when it is not where `mount` puts it by default.
    #[arg(long)]
    pub control: Option<PathBuf>,
}

/// `umount DIR`.
#[derive(Debug, Clone, clap::Args)]
pub struct UmountArgs {
    /// The mount point.
    pub dir: PathBuf,
    /// Seconds to wait for uploads; what is left then stays in the journal for the next mount.
    #[arg(long, default_value_t = 3600)]
    pub timeout: u64,
    /// The control socket, when it is not where `mount` puts it by default.
    #[arg(long)]
    pub control: Option<PathBuf>,
}

/// Waits until all is in S3; an error names what could not be uploaded.
pub fn drain(args: DrainArgs) -> anyhow::Result<()> {
    let socket = socket_of(&args.dir, args.control);
    expect_ok(drain_call(&socket, args.timeout)?)
}

/// Prints the state on stdout.
pub fn status(args: StatusArgs) -> anyhow::Result<()> {
    let socket = socket_of(&args.dir, args.control);
    let answer = blocking_call(&socket, &Request::Status, Duration::from_secs(10))?;
    if args.json {
        println!("{}", serde_json::to_string(&answer)?);
    } else {
        print!("{}", describe(&answer.status));
    }
    expect_ok(answer)
}

/// Drains, then unmounts. Unmounts also when the drain failed, and says so by an error.
pub fn umount(args: UmountArgs) -> anyhow::Result<()> {
    let socket = socket_of(&args.dir, args.control);
    let drained = drain_call(&socket, args.timeout)?;
    expect_ok(blocking_call(&socket, &Request::Umount, UNMOUNT_GRACE)?)?;
    expect_ok(drained).context("unmounted, but not everything is in S3 (the journal keeps it for the next mount)")
}

fn drain_call(socket: &Path, timeout_seconds: u64) -> anyhow::Result<Answer> {
    let deadline = Duration::from_secs(timeout_seconds.saturating_add(10));
    blocking_call(socket, &Request::Drain { timeout_seconds }, deadline)
}

/// [`call`] for a thread without a runtime, or inside one: it brings its own.
pub(crate) fn blocking_call(socket: &Path, request: &Request, deadline: Duration) -> anyhow::Result<Answer> {
    std::thread::scope(|scope| {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(call(socket, request, deadline))
        };
        scope.spawn(work).join().map_err(|_| anyhow::anyhow!("the call to the volume panicked"))?
    })
}

fn expect_ok(answer: Answer) -> anyhow::Result<()> {
    if answer.ok {
        return Ok(());
    }
    bail!("{}", answer.error.unwrap_or_else(|| "the volume refused".to_owned()))
}

fn describe(status: &Status) -> String {
    let mut text = format!(
        "mounted at {}\ndirty: {} files, {} bytes\nfailed: {} files\nconflicts: {}\n",
        status.mount_point, status.dirty_files, status.dirty_bytes, status.failed_files, status.conflicts
    );
    for failure in &status.failures {
        text.push_str(&format!("  {}: {}\n", failure.path, failure.error));
    }
    text
}

fn socket_of(dir: &Path, given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| default_socket(dir))
}

/// Where the control socket of a volume mounted at `dir` is unless told otherwise: below `/run/ec2mpi` (root) or the
/// user's runtime directory. A pure function of the absolute path, so that it works while the mount hangs.
pub fn default_socket(dir: &Path) -> PathBuf {
    use sha2::{Digest, Sha256};
    use std::os::unix::ffi::OsStrExt;
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let normal: PathBuf = absolute.components().collect();
    let digest = Sha256::digest(normal.as_os_str().as_bytes());
    runtime_dir().join(format!("volume-{}.sock", hex::encode(&digest[..8])))
}

fn runtime_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/run/ec2mpi");
    }
    std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from).join("ec2mpi")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_is_what_the_contract_says() {
        let drain: Request = serde_json::from_str(r#"{"op":"drain","timeout_seconds":7}"#).unwrap();
        assert_eq!(drain, Request::Drain { timeout_seconds: 7 });
        for (text, request) in [("status", Request::Status), ("epoch", Request::Epoch), ("umount", Request::Umount)] {
            assert_eq!(serde_json::to_string(&request).unwrap(), format!(r#"{{"op":"{text}"}}"#));
        }
        assert!(serde_json::from_str::<Request>(r#"{"op":"format"}"#).is_err());
        let answer = Answer::done(Status { dirty_files: 2, mount_point: "/shared".into(), ..Status::default() });
        let json: serde_json::Value = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["ok"], true);
        assert_eq!(json["dirty_files"], 2);
        assert_eq!(json["mount_point"], "/shared");
        let short: Answer = serde_json::from_str(r#"{"ok":false,"error":"x"}"#).unwrap();
        assert_eq!(short.error.as_deref(), Some("x"));
    }

    #[test]
    fn one_directory_has_one_default_socket() {
        assert_eq!(default_socket(Path::new("/mnt/a/")), default_socket(Path::new("/mnt/./a")));
        assert_ne!(default_socket(Path::new("/mnt/a")), default_socket(Path::new("/mnt/b")));
    }
}
