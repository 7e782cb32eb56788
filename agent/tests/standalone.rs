//! The volume by itself, as a user has it: the program, mount(8), a bucket served over HTTP, no cluster. Needs root and
//! /dev/fuse, and fails without them.

#![allow(clippy::unwrap_used)]

#[path = "support/bucket.rs"]
mod bucket;
#[path = "standalone/s3fs.rs"]
mod s3fs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bucket::{BUCKET, Bucket};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ec2mpi-agent");

/// Runs a command to its end.
fn run(command: &mut Command) -> Output {
    command.env("AWS_EC2_METADATA_DISABLED", "true").output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A mount point; what is mounted there goes with it.
struct Point {
    dir: PathBuf,
}

impl Point {
    fn new(bucket: &Bucket, name: &str) -> Self {
        let dir = bucket.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn agent(&self, words: &[&str]) -> Output {
        run(Command::new(PROGRAM).args(words).arg(&self.dir))
    }

    fn status(&self) -> Value {
        let output = self.agent(&["status", "--json"]);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.dir.to_str())
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        if self.is_mounted() {
            self.agent(&["umount", "--timeout", "1"]);
            run(Command::new("umount").arg("-i").arg("-l").arg(&self.dir));
        }
    }
}

/// `mount BUCKET/PREFIX DIR` with the keys of the bucket and further words.
fn mount(bucket: &Bucket, prefix: &str, dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("mount").arg(format!("{BUCKET}/{prefix}")).arg(dir).args(["--endpoint", &bucket.endpoint]);
    command.arg("--cache-dir").arg(dir.with_extension("cache"));
    run(command.arg("--passwd-file").arg(bucket.passwd_file()).args(words))
}

#[test]
fn from_mount_to_umount() {
    let bucket = Bucket::start();
    let point = Point::new(&bucket, "m");
    let sizes = ["--cache-size", "64M", "--dirty-limit", "32M", "--attr-ttl", "500ms"];
    let mounted = mount(&bucket, "some/where", &point.dir, &sizes);
    assert!(mounted.status.success() && mounted.stderr.is_empty(), "{}", said(&mounted));
    fs::write(point.path("a.txt"), b"hello").unwrap();
    let drained = point.agent(&["drain"]);
    assert!(drained.status.success(), "{}", said(&drained));
    let (info, body) = bucket.object("some/where/a.txt");
    assert_eq!((body.as_slice(), info.headers.metadata["mode"].as_str()), (&b"hello"[..], "33188"));
    let status = point.status();
    assert_eq!((status["dirty_files"].as_u64(), status["cached_bytes"].as_u64()), (Some(0), Some(5)));
    assert_eq!(status["source"], "bucket/some/where");
    let pid = status["pid"].as_u64().unwrap();
    assert!(fs::read_link(format!("/proc/{pid}/exe")).is_ok(), "the process that serves it is told");
    let words = String::from_utf8(point.agent(&["status"]).stdout).unwrap();
    assert!(words.starts_with(&format!("bucket/some/where mounted at {} by process {pid}\n", point.dir.display())));
    fs::write(point.path("late"), b"not drained").unwrap();
    let gone = point.agent(&["umount"]);
    assert!(gone.status.success() && !point.is_mounted(), "{}", said(&gone));
    assert_eq!(bucket.object("some/where/late").1, b"not drained");
    let log = fs::read_to_string(point.dir.with_extension("cache").join("log")).unwrap();
    assert!(log.contains("mounted"), "{log}");
    let again = mount(&bucket, "some/where", &point.dir, &[]);
    assert!(again.status.success(), "the same cache directory at once: {}", said(&again));
    assert_eq!(fs::read(point.path("late")).unwrap(), b"not drained");
}

#[test]
fn what_is_wrong_is_said_at_once() {
    let bucket = Bucket::start();
    let point = Point::new(&bucket, "m");
    let table: [(&str, &[&str]); 4] = [
        ("-o sigv2 is not possible", &["-o", "sigv2"]),
        ("-o frobnicate is not known", &["-o", "frobnicate"]),
        ("is not a size", &["--cache-size", "lots"]),
        ("either --passwd-file or --profile", &["--profile", "p"]),
    ];
    for (text, words) in table {
        let refused = mount(&bucket, "", &point.dir, words);
        assert!(!refused.status.success() && said(&refused).contains(text), "{text}: {}", said(&refused));
    }
    let nowhere = mount(&bucket, "", &point.dir.join("none"), &[]);
    assert!(!nowhere.status.success() && said(&nowhere).contains("the mount point"), "{}", said(&nowhere));
    let mut command = Command::new(PROGRAM);
    command.args(["mount", "no-such-bucket"]).arg(&point.dir).args(["--endpoint", &bucket.endpoint]);
    let missing = run(command.arg("--passwd-file").arg(bucket.passwd_file()));
    assert!(!missing.status.success() && said(&missing).contains("no-such-bucket"), "{}", said(&missing));
    fs::write(bucket.passwd_file(), "ACCESS:WRONG").unwrap();
    let denied = mount(&bucket, "", &point.dir, &[]);
    assert!(!denied.status.success() && said(&denied).contains("denied"), "{}", said(&denied));
    assert!(!point.is_mounted());
    fs::write(bucket.passwd_file(), "ACCESS:SECRET").unwrap();
    assert!(mount(&bucket, "", &point.dir, &["-o", "retries=9"]).stderr.starts_with(b"warning: -o retries is ignored"));
    let twice = mount(&bucket, "", &point.dir, &[]);
    assert!(!twice.status.success() && said(&twice).contains("mounted already"), "{}", said(&twice));
    fs::write(point.path("f"), b"still served").unwrap();
    assert_eq!(point.status()["dirty_files"].as_u64().map(|files| files < 2), Some(true));
}

#[test]
fn read_only_is_read_only() {
    let bucket = Bucket::start();
    let point = Point::new(&bucket, "m");
    assert!(mount(&bucket, "", &point.dir, &[]).status.success());
    fs::write(point.path("f"), b"1").unwrap();
    assert!(point.agent(&["umount"]).status.success());
    assert!(mount(&bucket, "", &point.dir, &["--read-only"]).status.success());
    assert_eq!(fs::read(point.path("f")).unwrap(), b"1");
    let error = fs::write(point.path("f"), b"2").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(30), "EROFS: {error}");
}

/// In a mount namespace of its own, with the helpers in /usr/sbin and a line in an fstab: mount(8) and umount(8).
const BY_FSTAB: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs none "$2/helpers"
mkdir "$2/helpers/up" "$2/helpers/work"
mount -t overlay none -o "lowerdir=/usr/sbin,upperdir=$2/helpers/up,workdir=$2/helpers/work" /usr/sbin
ln -s "$1" /usr/sbin/mount.fuse.ec2mpi
ln -s "$1" /usr/sbin/umount.fuse.ec2mpi
mount -T "$2/fstab" "$2/m"
grep -q "^bucket/by-fstab $2/m fuse.ec2mpi " /proc/mounts
echo from-fstab > "$2/m/f"
umount "$2/m"
if grep -q " $2/m " /proc/mounts; then exit 9; fi
mount -t fuse.ec2mpi bucket/by-fstab "$2/m" -o "$3,ro"
cat "$2/m/f"
umount "$2/m"
"#;

#[test]
fn fstab_and_mount_know_it() {
    let bucket = Bucket::start();
    let point = Point::new(&bucket, "m");
    fs::create_dir(bucket.dir.path().join("helpers")).unwrap();
    let (dir, endpoint) = (bucket.dir.path().display(), &bucket.endpoint);
    let options = format!("_netdev,allow_other,url={endpoint},passwd_file={dir}/passwd,use_cache={dir}/cache");
    fs::write(bucket.dir.path().join("fstab"), format!("bucket/by-fstab {dir}/m fuse.ec2mpi {options} 0 0\n")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", BY_FSTAB, "sh", PROGRAM]).arg(bucket.dir.path()).arg(&options);
    let output = run(&mut command);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"from-fstab\n");
    assert_eq!(bucket.object("by-fstab/f").1, b"from-fstab\n", "umount(8) drains by its helper");
    assert!(!point.is_mounted());
}
