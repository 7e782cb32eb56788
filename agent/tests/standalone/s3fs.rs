//! s3fs and ours on one bucket: what one writes the other shows.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::bucket::{BUCKET, Bucket};
use crate::{Point, mount, run, said};

/// A tree with everything that s3fs keeps: modes, owners, times in whole seconds (s3fs before 1.92 has no more),
/// symbolic links, empty directories, extended attributes, odd names, a file in parts. Times come last, the inside first.
const PLANT: &str = r#"
import os, sys, zlib
root = sys.argv[1]
at = lambda *names: os.path.join(root, *names)
def file(name, size, mode, uid, gid):
    with open(at(name), "wb") as f:
        f.write(bytes((i * 7 + len(name)) % 251 for i in range(min(size, 65521))) * (size // 65521 or 1) if size else b"")
    os.chown(at(name), uid, gid)
    os.chmod(at(name), mode)
for name, mode in [("empty", 0o755), ("deep", 0o2750), ("deep/er", 0o700), ("sticky", 0o1777), ("a dir+%", 0o711)]:
    os.mkdir(at(name))
    os.chmod(at(name), mode)
os.chown(at("deep"), 1000, 12)
file("plain.txt", 5000, 0o644, 0, 0)
file("zero", 0, 0o600, 65534, 65534)
file("deep/run.sh", 100, 0o755, 1000, 1001)
file("deep/er/secret", 1, 0o400, 7, 7)
file("sticky/set-uid", 10, 0o4755, 0, 0)
file("large", 200 * 65521, 0o640, 1, 2)
for odd in ["with space", "plus+percent%20", "caf\u00e9 \u20ac \U0001f600", "a&b=c?d#e;f", "quote'\"<>", "-n", ".hidden", "tilde~"]:
    file("a dir+%/" + odd, len(odd), 0o644, 0, 0)
os.symlink("deep/run.sh", at("relative"))
os.symlink("/nowhere/at/all", at("dangling"))
os.symlink("../plain.txt", at("deep/up"))
for link in ["relative", "dangling", "deep/up"]:
    os.lchown(at(link), 3, 4)
os.setxattr(at("plain.txt"), "user.colour", b"blue")
os.setxattr(at("plain.txt"), "user.bytes", bytes(range(1, 40)))
os.setxattr(at("deep"), "user.dir", b"yes")
for here, dirs, files in os.walk(root, topdown=False):
    for name in files + [d for d in dirs if os.path.islink(os.path.join(here, d))] + ["."]:
        path = os.path.normpath(os.path.join(here, name))
        seconds = 1000000000 + zlib.crc32(os.path.relpath(path, root).encode()) % 500000000
        os.utime(path, (seconds, seconds), follow_symlinks=False)
"#;

fn plant(root: &Path) {
    let output = run(Command::new("python3").args(["-c", PLANT]).arg(root));
    assert!(output.status.success(), "{}", said(&output));
}

/// A mount by s3fs.
fn mount_s3fs(bucket: &Bucket, name: &str) -> Point {
    let point = Point::new(bucket, name);
    let options = format!(
        "url={},passwd_file={},use_path_request_style,use_xattr,use_wtf8,allow_other,retries=2",
        bucket.endpoint,
        bucket.passwd_file().display()
    );
    let output = run(Command::new("s3fs").arg(BUCKET).arg(&point.dir).args(["-o", &options]));
    assert!(output.status.success() && point.is_mounted(), "{}", said(&output));
    point
}

fn mount_ours(bucket: &Bucket, name: &str) -> Point {
    let point = Point::new(bucket, name);
    let output = mount(bucket, "", &point.dir, &[]);
    assert!(output.status.success(), "{}", said(&output));
    point
}

/// What rsync would have to change to make `to` equal `from`: attributes, times, links, xattrs, and every byte.
fn differences(from: &Path, to: &Path) -> String {
    let mut rsync = Command::new("rsync");
    rsync.args(["-naicX", "--checksum", "--delete", "--numeric-ids", "--omit-dir-times"]);
    let output = run(rsync.arg(format!("{}/", from.display())).arg(format!("{}/", to.display())));
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The times of directories, which rsync compares for the root too.
fn directory_times(root: &Path) -> String {
    let output = run(Command::new("find")
        .arg(".")
        .args(["-mindepth", "1", "-type", "d", "-printf", "%p %T@\n"])
        .current_dir(root));
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines.join("\n")
}

fn expect_equal(expected: &Path, shown: &Path, who: &str) {
    let there = differences(expected, shown);
    assert!(there.is_empty(), "{who}:\n{there}");
    assert_eq!(directory_times(expected), directory_times(shown), "{who}");
}

fn unmount_s3fs(point: &Point) {
    let output = run(Command::new("umount").arg(&point.dir));
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn what_s3fs_wrote_is_ours() {
    let bucket = Bucket::start();
    let local = bucket.dir.path().join("local");
    fs::create_dir(&local).unwrap();
    plant(&local);
    let theirs = mount_s3fs(&bucket, "theirs");
    fs::create_dir(theirs.path("tree")).unwrap();
    plant(&theirs.path("tree"));
    unmount_s3fs(&theirs);
    let ours = mount_ours(&bucket, "ours");
    expect_equal(&local, &ours.path("tree"), "written by s3fs, shown by ours");
}

#[test]
fn what_we_wrote_is_s3fs_s() {
    let bucket = Bucket::start();
    let local = bucket.dir.path().join("local");
    fs::create_dir(&local).unwrap();
    plant(&local);
    let ours = mount_ours(&bucket, "ours");
    fs::create_dir(ours.path("tree")).unwrap();
    plant(&ours.path("tree"));
    let gone = ours.agent(&["umount"]);
    assert!(gone.status.success(), "{}", said(&gone));
    let theirs = mount_s3fs(&bucket, "theirs");
    expect_equal(&local, &theirs.path("tree"), "written by ours, shown by s3fs");
    fs::rename(theirs.path("tree/deep"), theirs.path("tree/renamed")).unwrap();
    fs::remove_file(theirs.path("tree/a dir+%/-n")).unwrap();
    fs::write(theirs.path("tree/renamed/run.sh"), b"changed by s3fs").unwrap();
    std::os::unix::fs::chown(theirs.path("tree"), Some(1000), None).unwrap();
    fs::set_permissions(theirs.path("tree"), fs::Permissions::from_mode(0o2751)).unwrap();
    unmount_s3fs(&theirs);
    let again = mount_ours(&bucket, "again");
    assert_eq!(fs::read(again.path("tree/renamed/run.sh")).unwrap(), b"changed by s3fs");
    assert!(!again.path("tree/deep").exists() && !again.path("tree/a dir+%/-n").exists());
    assert!(again.agent(&["umount"]).status.success());
    let sub = Point::new(&bucket, "sub");
    assert!(mount(&bucket, "tree", &sub.dir, &[]).status.success());
    let root = sub.dir.metadata().unwrap();
    assert_eq!(
        (root.mode() & 0o7777, root.uid()),
        (0o2751, 1000),
        "the root of a prefix has the attributes of its marker"
    );
    fs::set_permissions(&sub.dir, fs::Permissions::from_mode(0o705)).unwrap();
    assert!(sub.agent(&["umount"]).status.success());
    assert_eq!(bucket.object("tree/").0.headers.metadata["mode"], (0o040_705).to_string());
    let again = mount_ours(&bucket, "once-more");
    assert_eq!(again.path("tree").metadata().unwrap().mode() & 0o7777, 0o705);
    fs::rename(again.path("tree/renamed"), again.path("tree/deep")).unwrap();
    assert_eq!(fs::read_link(again.path("tree/deep/up")).unwrap().to_str(), Some("../plain.txt"));
}
