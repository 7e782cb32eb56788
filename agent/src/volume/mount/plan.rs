//! From arguments to a plan that cannot be wrong in itself: what is to be mounted, from where, and where its log goes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::MountArgs;
use crate::volume::attr::Owner;
use crate::volume::store::s3::{Keys, S3Settings, Uploads};
use crate::volume::{Close, Options, limits};

/// Everything decided, every path absolute.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) options: Options,
    pub(super) settings: S3Settings,
    pub(super) log: PathBuf,
    pub(super) log_level: Option<String>,
}

impl Plan {
    pub(super) fn new(args: &MountArgs) -> anyhow::Result<Self> {
        let options = options(args)?;
        let log = args.log.clone().unwrap_or_else(|| options.cache_dir.join("log"));
        Ok(Self { settings: settings(args)?, log: absolute(&log)?, log_level: args.log_level.clone(), options })
    }
}

fn settings(args: &MountArgs) -> anyhow::Result<S3Settings> {
    let (bucket, prefix) = parse_bucket(&args.bucket)?;
    let keys = match (&args.passwd_file, &args.profile) {
        _ if args.anonymous => Keys::None,
        (Some(_), Some(_)) => bail!("either --passwd-file or --profile"),
        (Some(path), None) => Keys::PasswdFile { path: absolute(path)?, bucket: bucket.clone() },
        (None, profile) => Keys::Chain { profile: profile.clone() },
    };
    let uploads = Uploads {
        storage_class: args.storage_class.clone(),
        encryption: args.encryption.clone(),
        acl: args.acl.clone().filter(|acl| acl != "private"),
    };
    let (region, endpoint) = (args.region.clone(), args.endpoint.clone());
    Ok(S3Settings { bucket, prefix, region, endpoint, keys, uploads, requester_pays: args.requester_pays })
}

/// The client's settings for a bucket as users name it, with the keys of the SDK's chain.
pub(in crate::volume) fn bucket_settings(
    bucket: &str,
    region: Option<String>,
    endpoint: Option<String>,
) -> anyhow::Result<S3Settings> {
    let (bucket, prefix) = parse_bucket(bucket)?;
    Ok(S3Settings { bucket, prefix, region, endpoint, ..S3Settings::default() })
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
    let dir = absolute(&args.dir)?;
    let cache_dir = match &args.cache_dir {
        Some(cache_dir) => absolute(cache_dir)?,
        None => default_cache(&args.bucket, &dir)?,
    };
    let mut options = Options::new(dir, cache_dir);
    options.source.clone_from(&args.bucket);
    if let Some(control) = &args.control {
        options.control = absolute(control)?;
    }
    options.owner = Owner { uid: args.uid.unwrap_or(options.owner.uid), gid: args.gid.unwrap_or(options.owner.gid) };
    options.root_mode = args.root_mode.unwrap_or(options.root_mode);
    options.node_name = args.node_name.clone().unwrap_or_else(host_name);
    options.attr_ttl = args.attr_ttl.unwrap_or(options.attr_ttl);
    options.close = args.close.unwrap_or(Close::Local);
    options.excl = args.excl.unwrap_or(options.excl);
    options.passthrough = !args.no_passthrough;
    options.attr_records = !args.no_attr_records;
    options.read_only = args.read_only;
    options.no_exec = args.no_exec;
    options.compat_dir = args.compat_dir;
    options.bounds = bounds(args, options.bounds);
    Ok(options)
}

fn bounds(args: &MountArgs, default: limits::Bounds) -> limits::Bounds {
    limits::Bounds {
        inodes: args.inodes.unwrap_or(default.inodes),
        dirty_bytes: args.dirty_limit.unwrap_or(default.dirty_bytes),
        cache_bytes: args.cache_size.unwrap_or(default.cache_bytes),
        memory_bytes: args.memory_limit.unwrap_or(default.memory_bytes),
        ..default
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("the path {}", path.display()))
}

/// One directory a bucket and mount point, so that the next mount finds the journal of the last.
fn default_cache(bucket: &str, dir: &Path) -> anyhow::Result<PathBuf> {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{bucket}\0{}", dir.display()));
    Ok(cache_home()?.join(hex::encode(&digest[..8])))
}

fn cache_home() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/cache/ec2mpi"));
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set: name a --cache-dir")?.join("ec2mpi"))
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "node".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::parsed;
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

    #[test]
    fn what_is_not_said_has_a_default() {
        let plan = Plan::new(&parsed(&["--cache-dir", "/c", "--read-only", "--close", "s3"])).unwrap();
        assert_eq!((plan.log.as_path(), plan.options.source.as_str()), (Path::new("/c/log"), "bucket"));
        assert_eq!((plan.options.read_only, plan.options.close), (true, Close::S3));
        assert_eq!(plan.settings.keys, Keys::Chain { profile: None });
        assert_eq!(plan.options.bounds.cache_bytes, limits::Bounds::default().cache_bytes);
        let both = parsed(&["--passwd-file", "f", "--profile", "p"]);
        assert!(Plan::new(&both).is_err());
    }
}
