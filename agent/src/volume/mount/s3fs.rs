//! `-o`: the options of s3fs, so that its line in fstab works here, and our own by the same syntax.
//!
//! Every option of s3fs is in one of these tables: taken, so already, ignored with a reason that is told, or refused
//! because leaving it out would do something else than was asked for.

use std::path::PathBuf;

use anyhow::{Context, bail};

use super::units::{parse_size, parse_time};
use super::{Close, Excl, MountArgs};

/// True of every volume, or for mount(8) only.
const SO_ALREADY: &[&str] = &[
    "_netdev",
    "allow_other",
    "async",
    "atime",
    "auto",
    "complement_stat",
    "default_permissions",
    "defaults",
    "del_cache",
    "ecs",
    "enable_noobj_cache",
    "exec",
    "hard_remove",
    "iam_role",
    "kernel_cache",
    "listobjectsv2",
    "negative_cache",
    "noatime",
    "noauto",
    "nodev",
    "nofail",
    "nonempty",
    "norelatime",
    "nosuid",
    "noua",
    "notsup_compat_dir",
    "nouser",
    "relatime",
    "rw",
    "sigv4",
    "strictatime",
    "tmpdir",
    "update_parent_dir_stat",
    "use_path_request_style",
    "use_session_token",
    "use_wtf8",
    "use_xattr",
    "user",
    "users",
];

/// Left out, and said so.
const IGNORED: &[(&str, &str)] = &[
    ("bucket_size", "df shows no limit"),
    ("check_cache_dir_exist", "the directory is made where it is missing"),
    ("connect_timeout", "every call has a deadline by what it does"),
    ("curldbg", "set EC2MPI_LOG"),
    ("dev", "a volume has no device nodes that can be opened"),
    ("disable_noobj_cache", "use attr_ttl"),
    ("ensure_diskfree", "use cache_size"),
    ("free_space_ratio", "use cache_size"),
    ("imdsv1only", "version 2 of the metadata service is used"),
    ("instance_name", "the log names the mount point"),
    ("ipresolve", "both versions of IP are used"),
    ("list_object_max_keys", "a page has 1,000 keys"),
    ("max_dirty_data", "use dirty_limit"),
    ("max_thread_count", "calls run side by side as needed"),
    ("mime", "the table of types is built in"),
    ("multipart_copy_size", "sizes of parts follow from the size of the file"),
    ("multipart_size", "sizes of parts follow from the size of the file"),
    ("multipart_threshold", "sizes of parts follow from the size of the file"),
    ("multireq_max", "calls run side by side as needed"),
    ("nomixupload", "parts are always uploaded"),
    ("nomultipart", "a large file goes up in parts"),
    ("norenameapi", "a move is always a copy on the server"),
    ("parallel_count", "calls run side by side as needed"),
    ("parallel_upload", "calls run side by side as needed"),
    ("readwrite_timeout", "every call has a deadline by what it does"),
    ("retries", "calls are repeated within their deadline"),
    ("set_check_cache_sigusr1", "the cache checks itself"),
    ("singlepart_copy_limit", "sizes of parts follow from the size of the file"),
    ("streamupload", "the upload starts when the file is closed"),
    ("suid", "set-user-id programs do not run from a volume"),
    ("umask", "objects without mode are 0640, directories 0750"),
];

/// What was asked for would not be done.
const REFUSED: &[(&str, &str)] = &[
    ("ahbe_conf", "extra headers cannot be sent"),
    ("credlib", "use the SDK's chain, credential_process in a profile for instance"),
    ("credlib_opts", "use the SDK's chain, credential_process in a profile for instance"),
    ("ibm_iam_auth", "use keys"),
    ("ibm_iam_endpoint", "use keys"),
    ("load_sse_c", "keys of the customer cannot be sent"),
    ("no_check_certificate", "certificates are always checked"),
    ("nocopyapi", "moves and changes of attributes need copies on the server"),
    ("proxy", "there is no proxy support"),
    ("proxy_cred_file", "there is no proxy support"),
    ("sigv2", "requests are signed by version 4"),
    ("ssl_client_cert", "there are no client certificates"),
    ("ssl_verify_hostname", "certificates are always checked"),
];

/// Takes the `-o` options into the arguments; flags of their own win. Returns what to tell the user.
pub(super) fn take(args: &mut MountArgs) -> anyhow::Result<Vec<String>> {
    let mut told = Vec::new();
    for option in std::mem::take(&mut args.options) {
        let option = option.trim();
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        if name.is_empty() || name.starts_with("x-") || name == "comment" {
            continue;
        }
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            bail!("-o {name} is not possible: {reason}");
        }
        if let Some((_, reason)) = IGNORED.iter().find(|(ignored, _)| *ignored == name) {
            told.push(format!("-o {name} is ignored: {reason}"));
        } else if !SO_ALREADY.contains(&name) {
            take_one(args, name, value)?;
        }
    }
    Ok(told)
}

fn take_one(args: &mut MountArgs, name: &str, value: Option<&str>) -> anyhow::Result<()> {
    let needed = || value.filter(|value| !value.is_empty()).with_context(|| format!("-o {name} needs a value"));
    match name {
        "ro" => args.read_only = true,
        "noexec" => args.no_exec = true,
        "no_passthrough" => args.no_passthrough = true,
        "no_attr_records" => args.no_attr_records = true,
        "compat_dir" => args.compat_dir = true,
        "url" | "host" => set(&mut args.endpoint, needed()?.trim_end_matches('/').to_owned()),
        "region" | "endpoint" => set(&mut args.region, needed()?.to_owned()),
        "use_cache" | "cache_dir" => set(&mut args.cache_dir, PathBuf::from(needed()?)),
        "cache_size" => set(&mut args.cache_size, size(name, needed()?)?),
        "memory_limit" => set(&mut args.memory_limit, size(name, needed()?)?),
        "dirty_limit" => set(&mut args.dirty_limit, size(name, needed()?)?),
        "attr_ttl" => set(&mut args.attr_ttl, parse_time(needed()?).map_err(anyhow::Error::msg)?),
        "stat_cache_expire" | "stat_cache_interval_expire" => {
            set(&mut args.attr_ttl, parse_time(needed()?).map_err(anyhow::Error::msg)?);
        }
        "max_stat_cache_size" => set(&mut args.inodes, number(name, needed()?)?),
        "excl" => set(&mut args.excl, excl(needed()?)?),
        "close" => set(&mut args.close, close(needed()?)?),
        "control" => set(&mut args.control, PathBuf::from(needed()?)),
        "logfile" => set(&mut args.log, PathBuf::from(needed()?)),
        "dbglevel" => set(&mut args.log_level, log_level(needed()?)?.to_owned()),
        "uid" => set(&mut args.uid, number(name, needed()?)?),
        "gid" => set(&mut args.gid, number(name, needed()?)?),
        "mp_umask" => set(&mut args.root_mode, 0o777 & !octal(name, needed()?)?),
        "node_name" => set(&mut args.node_name, needed()?.to_owned()),
        "passwd_file" => set(&mut args.passwd_file, PathBuf::from(needed()?)),
        "profile" => set(&mut args.profile, needed()?.to_owned()),
        "public_bucket" => args.anonymous = value.is_none_or(|value| value != "0"),
        "requester_pays" => args.requester_pays = true,
        "storage_class" => set(&mut args.storage_class, needed()?.to_ascii_uppercase()),
        "use_rrs" => set(&mut args.storage_class, "REDUCED_REDUNDANCY".to_owned()),
        "default_acl" => set(&mut args.acl, needed()?.to_owned()),
        "use_sse" => set(&mut args.encryption, encryption(value)?.to_owned()),
        _ => bail!("-o {name} is not known"),
    }
    Ok(())
}

/// What a flag says is not changed.
fn set<T>(place: &mut Option<T>, value: T) {
    place.get_or_insert(value);
}

fn size(name: &str, text: &str) -> anyhow::Result<u64> {
    parse_size(text).map_err(anyhow::Error::msg).with_context(|| format!("-o {name}"))
}

fn number<N: std::str::FromStr>(name: &str, text: &str) -> anyhow::Result<N> {
    text.parse().map_err(|_| anyhow::anyhow!("-o {name}={text} is not a number"))
}

fn octal(name: &str, text: &str) -> anyhow::Result<u32> {
    u32::from_str_radix(text, 8).map_err(|_| anyhow::anyhow!("-o {name}={text} is not an octal number"))
}

fn excl(text: &str) -> anyhow::Result<Excl> {
    match text {
        "node" => Ok(Excl::Node),
        "cluster" => Ok(Excl::Cluster),
        _ => bail!("-o excl={text}: node or cluster"),
    }
}

fn close(text: &str) -> anyhow::Result<Close> {
    match text {
        "local" => Ok(Close::Local),
        "disk" => Ok(Close::Disk),
        "s3" => Ok(Close::S3),
        _ => bail!("-o close={text}: local, disk or s3"),
    }
}

fn log_level(text: &str) -> anyhow::Result<&'static str> {
    Ok(match text {
        "silent" | "critical" | "crit" | "error" | "err" => "error",
        "warn" | "warning" => "warn",
        "info" | "inf" => "info",
        "debug" | "dbg" => "debug",
        _ => bail!("-o dbglevel={text}: critical, error, warn, info or debug"),
    })
}

/// `use_sse`, `use_sse=1`: keys of S3; `use_sse=kmsid:KEY`, `use_sse=k:KEY`: a key of KMS.
fn encryption(value: Option<&str>) -> anyhow::Result<&str> {
    match value {
        None | Some("1" | "true") => Ok(super::S3_KEYS),
        Some(value) => match value.split_once(':') {
            Some(("kmsid" | "k", key)) if !key.is_empty() => Ok(key),
            _ => bail!("-o use_sse={value} is not possible: keys of the customer cannot be sent"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::parsed;
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line_of_fstab_for_s3fs_is_understood() {
        let mut args = parsed(&[
            "-o",
            "_netdev,allow_other,url=http://127.0.0.1:9000/,endpoint=eu-west-1,use_path_request_style,uid=7,gid=8",
            "-o",
            "passwd_file=/etc/passwd-s3fs,use_cache=/var/cache/s3,stat_cache_expire=5,mp_umask=022,retries=9,ro,x-mount.mkdir",
            "-o",
            "storage_class=standard_ia,use_sse=kmsid:key,default_acl=private,dbglevel=dbg,close=s3,cache_size=2G",
        ]);
        let told = take(&mut args).unwrap();
        assert_eq!(told, ["-o retries is ignored: calls are repeated within their deadline"]);
        assert_eq!(args.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(args.region.as_deref(), Some("eu-west-1"));
        assert_eq!((args.uid, args.gid, args.root_mode), (Some(7), Some(8), Some(0o755)));
        assert_eq!(args.passwd_file.as_deref(), Some("/etc/passwd-s3fs".as_ref()));
        assert_eq!(args.cache_dir.as_deref(), Some("/var/cache/s3".as_ref()));
        assert_eq!((args.attr_ttl, args.close), (Some(Duration::from_secs(5)), Some(Close::S3)));
        assert_eq!((args.read_only, args.cache_size), (true, Some(2 << 30)));
        assert_eq!(args.storage_class.as_deref(), Some("STANDARD_IA"));
        assert_eq!((args.encryption.as_deref(), args.acl.as_deref()), (Some("key"), Some("private")));
        assert_eq!(args.log_level.as_deref(), Some("debug"));
    }

    #[test]
    fn a_flag_wins_and_nonsense_is_named() {
        let mut args = parsed(&["--region", "here", "-o", "region=there"]);
        take(&mut args).unwrap();
        assert_eq!(args.region.as_deref(), Some("here"));
        for (option, text) in [
            ("sigv2", "version 4"),
            ("no_check_certificate", "always checked"),
            ("use_sse=c:/key", "customer"),
            ("frobnicate", "not known"),
            ("uid=root", "not a number"),
            ("passwd_file", "needs a value"),
            ("cache_size=much", "not a size"),
        ] {
            let error = take(&mut parsed(&["-o", option])).unwrap_err();
            assert!(format!("{error:#}").contains(text), "{option}: {error:#}");
        }
    }

    #[test]
    fn an_option_is_in_one_table() {
        let mut names: Vec<&str> = SO_ALREADY.to_vec();
        names.extend(IGNORED.iter().chain(REFUSED).map(|(name, _)| *name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
