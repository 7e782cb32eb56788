//! Assembles a volume, mounts it, and takes it apart again.
//!
//! Start: lock the cache directory, clear a dead mount away, replay the journal, mount, answer. End: (drain,) unmount,
//! stop write-back; what is not in S3 stays in the journal.

mod background;
mod helper;
mod plan;
mod remount;
mod s3fs;
mod session;
mod units;

pub use self::helper::arguments;
pub(super) use self::plan::bucket_settings;
pub use self::session::{MountedVolume, mount_with};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use self::plan::Plan;
use self::units::{parse_size, parse_time};
use super::attr::{self, Extra, Owner};
use super::store::retry::{RetryPolicy, Retrying};
use super::store::s3::{S3_KEYS, S3Store};
use super::store::{ObjectKey, ObjectStore, StoreError};
use super::{Close, Excl, RootMarker};
use crate::telemetry;

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
    /// Bytes of files kept in the cache directory that S3 has too (4G, 512M).
    #[arg(long, value_parser = parse_size)]
    pub cache_size: Option<u64>,
    /// Bytes written and not in S3 yet at which writers wait.
    #[arg(long, value_parser = parse_size)]
    pub dirty_limit: Option<u64>,
    /// Bytes of file data in memory on their way between the kernel, the disk and S3.
    #[arg(long, value_parser = parse_size)]
    pub memory_limit: Option<u64>,
    /// Whom O_EXCL excludes: everybody on this node, or in the cluster (then a create waits for S3).
    #[arg(long, value_enum)]
    pub excl: Option<Excl>,
    /// What closing a file waits for: nothing that the end of this process could undo, the local disk, or S3.
    #[arg(long, value_enum)]
    pub close: Option<Close>,
    /// How long attributes and names are trusted without asking S3 (1s, 250ms); 0 asks at every open.
    #[arg(long, value_parser = parse_time)]
    pub attr_ttl: Option<Duration>,
    /// The kernel does not read complete files from the cache directory by itself.
    #[arg(long)]
    pub no_passthrough: bool,
    /// No attribute records of directories are read or written.
    #[arg(long)]
    pub no_attr_records: bool,
    /// Nothing can be changed through this mount.
    #[arg(long)]
    pub read_only: bool,
    /// Stay in the foreground, log to stderr.
    #[arg(long)]
    pub foreground: bool,
    /// Where the log of a mount in the background goes.
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// Options of s3fs and of mount(8), with commas between them; the flags above too, with underscores.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    pub options: Vec<String>,
    /// s3fs's file of keys, [BUCKET:]ACCESS:SECRET a line.
    #[arg(long)]
    pub passwd_file: Option<PathBuf>,
    /// Profile of the AWS configuration files.
    #[arg(long)]
    pub profile: Option<String>,
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
    #[arg(skip)]
    no_exec: bool,
    #[arg(skip)]
    compat_dir: bool,
    #[arg(skip)]
    inodes: Option<usize>,
    #[arg(skip)]
    root_mode: Option<u32>,
    #[arg(skip)]
    log_level: Option<String>,
    #[arg(skip)]
    anonymous: bool,
    #[arg(skip)]
    requester_pays: bool,
    #[arg(skip)]
    storage_class: Option<String>,
    #[arg(skip)]
    encryption: Option<String>,
    #[arg(skip)]
    acl: Option<String>,
}

/// How long a signal leaves for uploads.
pub const SIGNAL_DRAIN: Duration = Duration::from_secs(60);

/// Mounts. In the foreground it returns after the unmount, otherwise once the mount answers.
///
/// SIGTERM and SIGINT drain (for at most [`SIGNAL_DRAIN`]) and unmount. Whatever could not be uploaded by then stays in
/// the journal for the next mount. In the background it forks: no thread may have been started before.
pub fn run(mut args: MountArgs) -> anyhow::Result<()> {
    if remount::is_asked(&args) {
        return remount::run(&args);
    }
    let told = s3fs::take(&mut args)?;
    told.iter().for_each(|line| eprintln!("warning: {line}"));
    let plan = Plan::new(&args)?;
    if !args.foreground {
        return background::run(plan);
    }
    telemetry::start_at(args.log_level.as_deref());
    // A thread of its own: the volume's runtime must not be inside another.
    let work = move || serve(plan, None);
    let thread = std::thread::Builder::new().name("volume".to_owned()).spawn(work)?;
    thread.join().map_err(|_| anyhow::anyhow!("the volume panicked"))?
}

/// Mounts, calls `ready` once the mount answers, and returns after the unmount. Somebody who waits for the mount learns
/// at once that the bucket is wrong; a node in a cluster goes on trying.
fn serve(mut plan: Plan, ready: Option<Box<dyn FnOnce() + '_>>) -> anyhow::Result<()> {
    let runtime = session::runtime()?;
    let (dir, source) = (plan.options.dir.clone(), plan.options.source.clone());
    let has_prefix = !plan.settings.prefix.is_empty();
    let store = runtime.block_on(S3Store::connect(plan.settings)).context("setting up the S3 client")?;
    if ready.is_some() {
        runtime.block_on(look(&store, &source))?;
    }
    if has_prefix {
        plan.options.root = runtime.block_on(look_at_root(&store, plan.options.owner))?;
    }
    let store = Arc::new(Retrying::new(store, RetryPolicy::default()));
    let volume = session::mount_on(runtime, store, plan.options)?;
    tracing::info!(dir = %dir.display(), source, "mounted");
    if let Some(ready) = ready {
        ready();
    }
    volume.serve(SIGNAL_DRAIN)
}

/// The attributes of the root, as s3fs keeps them for `BUCKET:/PREFIX`.
async fn look_at_root(store: &S3Store, owner: Owner) -> anyhow::Result<RootMarker> {
    match store.head(&ObjectKey::new("")).await {
        Ok(info) if info.headers.metadata.contains_key("mode") => {
            Ok(RootMarker::There(attr::from_object(&info, true, owner), Extra::from(&info.headers)))
        }
        Ok(_) | Err(StoreError::NotFound(_)) => Ok(RootMarker::Missing),
        Err(error) => {
            tracing::warn!(%error, "the attributes of the root are not known");
            Ok(RootMarker::Missing)
        }
    }
}

/// An S3 that does not answer is no reason not to mount: what the journal has waits for it.
async fn look(store: &S3Store, source: &str) -> anyhow::Result<()> {
    match store.list("", None, None, 1).await {
        Ok(_) => Ok(()),
        Err(StoreError::NotFound(_)) => bail!("the bucket of {source} does not exist"),
        Err(error @ StoreError::Transient(..)) => {
            tracing::warn!(source, %error, "s3 does not answer yet");
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("looking into {source}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Parsed {
        #[command(flatten)]
        args: MountArgs,
    }

    /// The arguments of `mount ARGUMENTS bucket /dir`.
    pub(super) fn parsed(arguments: &[&str]) -> MountArgs {
        Parsed::parse_from(["mount"].iter().chain(arguments).chain(&["bucket", "/dir"])).args
    }

    #[test]
    fn sizes_times_and_choices_are_parsed() {
        let args =
            parsed(&["--cache-size", "1G", "--dirty-limit=64M", "--close=s3", "--attr-ttl", "250ms", "-o", "a,b"]);
        assert_eq!((args.cache_size, args.dirty_limit), (Some(1 << 30), Some(64 << 20)));
        assert_eq!((args.close, args.attr_ttl), (Some(Close::S3), Some(Duration::from_millis(250))));
        assert_eq!(args.options, ["a", "b"]);
        assert!(Parsed::try_parse_from(["mount", "--cache-size", "lots", "b", "/d"]).is_err());
    }
}
