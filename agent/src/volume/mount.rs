//! Assembles a volume, mounts it, and takes it apart again.
//!
//! Start: lock the cache directory, clear a dead mount away, replay the journal, mount, answer. End: (drain,) unmount,
//! stop write-back; what is not in S3 stays in the journal.

mod background;
mod session;

pub use self::session::{MountedVolume, mount_with};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::attr::Owner;
use super::store::retry::{RetryPolicy, Retrying};
use super::store::s3::{S3Settings, S3Store};
use super::writeback::FIRST_BACKOFF;
use super::{Excl, Options, control, limits};

/// `mount BUCKET[/PREFIX] DIR`.
#[derive(Debug, Clone, clap::Args)]
pub struct MountArgs {
    /// The bucket, with a prefix if only a part of it is to be mounted.
    pub bucket: String,
    /// The mount point; must exist.
    pub dir: PathBuf,
    /// URL of the S3 server, for one that is not AWS.
    #[arg(long)]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long)]
    pub region: Option<String>,
    /// Where file data and the journal are kept; one volume at a time.
    #[arg(long)]
    pub cache_dir: Option<PathBuf>,
    /// Where the control socket is made.
    #[arg(long)]
    pub control: Option<PathBuf>,
    /// Owner of the root and of objects without metadata.
    #[arg(long)]
    pub uid: Option<u32>,
    /// Group of the root and of objects without metadata.
    #[arg(long)]
    pub gid: Option<u32>,
    /// Name of this node in conflict copies.
    #[arg(long)]
    pub node_name: Option<String>,
    /// Seconds for which attributes and names are trusted without asking S3; 0 asks at every open.
    #[arg(long, default_value_t = 1.0)]
    pub attr_ttl: f64,
    /// Whom O_EXCL excludes: everybody on this node, or in the cluster (then a create waits for S3).
    #[arg(long, value_enum, default_value = "node")]
    pub excl: Excl,
    /// Bytes of file data kept on the local disk.
    #[arg(long)]
    pub cache_size: Option<u64>,
    /// Bytes written that may wait for S3.
    #[arg(long)]
    pub dirty_limit: Option<u64>,
    /// Bytes of file data in memory on their way.
    #[arg(long)]
    pub memory_limit: Option<u64>,
    /// Stay in the foreground.
    #[arg(long)]
    pub foreground: bool,
}

/// Mounts. In the foreground it returns after the unmount, otherwise once the mount answers.
///
/// SIGTERM and SIGINT drain (for at most [`SIGNAL_DRAIN`]) and unmount. Whatever could not be uploaded by then stays in
/// the journal for the next mount. Works inside and outside of a runtime: it makes its own, on its own thread.
pub fn run(args: MountArgs) -> anyhow::Result<()> {
    if !args.foreground {
        return background::run(&args);
    }
    let work = move || foreground(&args);
    let thread = std::thread::Builder::new().name("volume".to_owned()).spawn(work)?;
    thread.join().map_err(|_| anyhow::anyhow!("the volume panicked"))?
}

/// How long a signal leaves for uploads.
pub const SIGNAL_DRAIN: Duration = Duration::from_secs(60);

fn foreground(args: &MountArgs) -> anyhow::Result<()> {
    let options = options(args)?;
    let settings = settings(args)?;
    let runtime = session::runtime()?;
    let store = runtime.block_on(S3Store::connect(settings)).context("setting up the S3 client")?;
    let store = Arc::new(Retrying::new(store, RetryPolicy::default()));
    let volume = session::mount_on(runtime, store, options)?;
    tracing::info!(dir = %args.dir.display(), bucket = args.bucket, "mounted");
    volume.serve(SIGNAL_DRAIN)
}

fn settings(args: &MountArgs) -> anyhow::Result<S3Settings> {
    bucket_settings(&args.bucket, args.region.clone(), args.endpoint.clone())
}

/// The S3 client's settings for a bucket as users name it.
pub(super) fn bucket_settings(
    bucket: &str,
    region: Option<String>,
    endpoint: Option<String>,
) -> anyhow::Result<S3Settings> {
    let (bucket, prefix) = parse_bucket(bucket)?;
    Ok(S3Settings { bucket, prefix, region, endpoint })
}

/// `BUCKET` or `BUCKET/PREFIX` (s3fs's `BUCKET:/PREFIX` too): bucket and prefix, the prefix empty or ending in a slash.
fn parse_bucket(text: &str) -> anyhow::Result<(String, String)> {
    let text = text.strip_prefix("s3://").unwrap_or(text);
    let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
    let bucket = bucket.strip_suffix(':').unwrap_or(bucket);
    let prefix = prefix.trim_matches('/');
    if bucket.is_empty() || prefix.contains("//") {
        bail!("{text:?} is not BUCKET or BUCKET/PREFIX");
    }
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    Ok((bucket.to_owned(), prefix))
}

fn options(args: &MountArgs) -> anyhow::Result<Options> {
    if !(0.0..=86_400.0).contains(&args.attr_ttl) {
        bail!("--attr-ttl must be 0 to 86400 seconds, not {}", args.attr_ttl);
    }
    let dir = std::path::absolute(&args.dir).with_context(|| format!("the mount point {}", args.dir.display()))?;
    let cache_dir = args.cache_dir.clone().unwrap_or_else(|| default_cache(args));
    Ok(Options {
        source: format!("ec2mpi:{}", args.bucket),
        control: args.control.clone().unwrap_or_else(|| control::default_socket(&dir)),
        dir,
        cache_dir,
        owner: Owner {
            uid: args.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
            gid: args.gid.unwrap_or_else(|| nix::unistd::getegid().as_raw()),
        },
        node_name: args.node_name.clone().unwrap_or_else(host_name),
        attr_ttl: Duration::from_secs_f64(args.attr_ttl),
        excl: args.excl,
        bounds: bounds(args, limits::Bounds::default()),
        first_pause: FIRST_BACKOFF,
    })
}

fn bounds(args: &MountArgs, default: limits::Bounds) -> limits::Bounds {
    limits::Bounds {
        dirty_bytes: args.dirty_limit.unwrap_or(default.dirty_bytes),
        cache_bytes: args.cache_size.unwrap_or(default.cache_bytes),
        memory_bytes: args.memory_limit.unwrap_or(default.memory_bytes),
        ..default
    }
}

/// One directory a bucket and mount point.
fn default_cache(args: &MountArgs) -> PathBuf {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{}\0{}", args.bucket, args.dir.display()));
    Path::new("/var/cache/ec2mpi").join(hex::encode(&digest[..8]))
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "node".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_prefixes() {
        let table = [
            ("b", ("b", "")),
            ("b/", ("b", "")),
            ("b/p", ("b", "p/")),
            ("b/p/q/", ("b", "p/q/")),
            ("s3://b/p", ("b", "p/")),
            ("b:/p", ("b", "p/")),
        ];
        for (text, (bucket, prefix)) in table {
            assert_eq!(parse_bucket(text).unwrap(), (bucket.to_owned(), prefix.to_owned()), "{text}");
        }
        assert!(parse_bucket("").is_err() && parse_bucket("/p").is_err() && parse_bucket("b/p//q").is_err());
    }
}
