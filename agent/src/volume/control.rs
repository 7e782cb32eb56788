//! The control socket of a mounted volume: one JSON line in, one JSON line out.
//!
//! [`call`] is the client that the node and the subcommands use; [`server`] answers. The socket is open to its owner
//! only.

pub mod server;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::store::Requests;

/// The environment variable with the directory of the control sockets.
pub const RUN_DIR: &str = "EC2MPI_RUN_DIR";

/// The longest answer a client reads.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// How long `umount` waits for the mount to go after the drain.
const UNMOUNT_GRACE: Duration = Duration::from_secs(30);

const RELEASE_POLL: Duration = Duration::from_millis(20);

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
    /// What is mounted.
    #[serde(default)]
    pub source: String,
    /// The process that serves the mount.
    #[serde(default)]
    pub pid: u32,
    /// Operations that S3 is being asked for now; the other dirty ones wait for their turn.
    #[serde(default)]
    pub running: u64,
    /// Whether S3 does not answer.
    #[serde(default)]
    pub s3_away: bool,
    /// Where journal, cache and `lost+found` are.
    #[serde(default)]
    pub cache_dir: PathBuf,
    /// Files in `lost+found`, of earlier mounts too.
    #[serde(default)]
    pub lost_found_files: u64,
    /// Files with bytes in the cache.
    #[serde(default)]
    pub cached_files: u64,
    /// Their bytes in the cache.
    #[serde(default)]
    pub cached_bytes: u64,
    /// Reads answered from the cache, and opens of files that the kernel then reads there by itself. Its page cache
    /// answers most reads before they get here.
    #[serde(default)]
    pub read_hits: u64,
    /// Reads for which S3 was asked.
    #[serde(default)]
    pub read_misses: u64,
    /// Requests sent to S3 since the mount.
    #[serde(default)]
    pub requests: Requests,
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

/// Drains, then unmounts, and returns when the volume has let its cache directory go. Unmounts also when the drain
/// failed, and says so by an error. A mount whose process is dead is taken away.
pub fn umount(args: UmountArgs) -> anyhow::Result<()> {
    let socket = socket_of(&args.dir, args.control);
    let drained = match drain_call(&socket, args.timeout) {
        Ok(drained) => drained,
        Err(error) => return detach_dead(&args.dir, error),
    };
    let last = blocking_call(&socket, &Request::Umount, UNMOUNT_GRACE)?;
    wait_for_release(&last.status.cache_dir)?;
    expect_ok(last)?;
    expect_ok(drained).context("unmounted, but not everything is in S3 (the journal keeps it for the next mount)")
}

fn detach_dead(dir: &Path, error: anyhow::Error) -> anyhow::Result<()> {
    use nix::errno::Errno;
    use nix::mount::{MntFlags, umount2};
    if !matches!(nix::sys::stat::stat(dir), Err(Errno::ENOTCONN | Errno::ECONNABORTED)) {
        return Err(error);
    }
    umount2(dir, MntFlags::MNT_DETACH).with_context(|| format!("detaching {}", dir.display()))?;
    eprintln!("the volume's process was dead; what it had not uploaded is in its journal for the next mount");
    Ok(())
}

/// The volume holds the lock of its cache directory until its end.
fn wait_for_release(cache_dir: &Path) -> anyhow::Result<()> {
    let path = cache_dir.join("lock");
    let deadline = Instant::now() + UNMOUNT_GRACE;
    while let Ok(file) = std::fs::File::open(&path) {
        if file.try_lock().is_ok() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the volume has not ended after {} s", UNMOUNT_GRACE.as_secs());
        }
        std::thread::sleep(RELEASE_POLL);
    }
    Ok(())
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
    let reads = status.read_hits + status.read_misses;
    let rate = status.read_hits.saturating_mul(100).checked_div(reads);
    let mut lines = vec![
        format!("{} mounted at {} by process {}", status.source, status.mount_point, status.pid),
        format!("dirty: {} files, {} bytes; {} on their way", status.dirty_files, status.dirty_bytes, status.running),
        format!("failed: {} files; conflicts: {}", status.failed_files, status.conflicts),
    ];
    lines.extend(status.failures.iter().map(|failure| format!("  {}: {}", failure.path, failure.error)));
    let lost_found = status.cache_dir.join("lost+found");
    lines.push(format!("lost+found: {} files in {}", status.lost_found_files, lost_found.display()));
    lines.push(format!("cache: {} files, {} bytes", status.cached_files, status.cached_bytes));
    let rate = rate.map_or_else(String::new, |rate| format!(", {rate} % from the cache"));
    lines.push(format!("reads: {reads}{rate}"));
    lines.push(format!("requests to S3: {}", status.requests));
    if status.s3_away {
        lines.push("S3 does not answer".to_owned());
    }
    lines.join("\n") + "\n"
}

fn socket_of(dir: &Path, given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| default_socket(dir))
}

/// Where the control socket of a volume mounted at `dir` is unless told otherwise: below `/run/ec2mpi` (root) or the
/// user's runtime directory, or what [`RUN_DIR`] names. A pure function of the absolute path, so that it works while the mount hangs.
pub fn default_socket(dir: &Path) -> PathBuf {
    use sha2::{Digest, Sha256};
    use std::os::unix::ffi::OsStrExt;
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let normal: PathBuf = absolute.components().collect();
    let digest = Sha256::digest(normal.as_os_str().as_bytes());
    runtime_dir().join(format!("volume-{}.sock", hex::encode(&digest[..8])))
}

fn runtime_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os(RUN_DIR) {
        return PathBuf::from(dir);
    }
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
    fn the_state_is_told_in_words() {
        let failures = vec![Failure { path: "f".into(), error: "too large".into() }];
        let status = Status {
            source: "b/p".into(),
            mount_point: "/m".into(),
            pid: 7,
            dirty_files: 2,
            dirty_bytes: 10,
            running: 1,
            failed_files: 1,
            failures,
            cache_dir: "/c".into(),
            lost_found_files: 3,
            read_hits: 9,
            read_misses: 1,
            requests: Requests { put: 5, list: 2, ..Requests::default() },
            s3_away: true,
            ..Status::default()
        };
        let expected = "b/p mounted at /m by process 7\ndirty: 2 files, 10 bytes; 1 on their way\n\
            failed: 1 files; conflicts: 0\n  f: too large\nlost+found: 3 files in /c/lost+found\n\
            cache: 0 files, 0 bytes\nreads: 10, 90 % from the cache\n\
            requests to S3: 5 PUT, 0 GET, 0 HEAD, 2 LIST, 0 COPY, 0 DELETE, 0 parts, 0 for uploads in parts\nS3 does not answer\n";
        assert_eq!(describe(&status), expected);
    }

    #[test]
    fn one_directory_has_one_default_socket() {
        assert_eq!(default_socket(Path::new("/mnt/a/")), default_socket(Path::new("/mnt/./a")));
        assert_ne!(default_socket(Path::new("/mnt/a")), default_socket(Path::new("/mnt/b")));
    }
}
