//! What is more than files, directories and bytes: special files, extended attributes, odd names, holes, locks.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Whence, lseek};

use crate::lab::{Lab, Mount, errno, pattern};

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn checked(result: isize) -> std::io::Result<usize> {
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error())
}

fn set(path: &Path, name: &str, value: &[u8], flags: i32) -> std::io::Result<usize> {
    let name = CString::new(name).unwrap();
    // SAFETY: valid C strings, and a value of the length that is said.
    let result = unsafe { libc::lsetxattr(c(path).as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    checked(result as isize)
}

fn get(path: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let (name, mut value) = (CString::new(name).unwrap(), vec![0; 4096]);
    // SAFETY: valid C strings, and a buffer of the length that is said.
    let result = unsafe { libc::lgetxattr(c(path).as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(checked(result)?);
    Ok(value)
}

fn list(path: &Path) -> Vec<String> {
    let mut names = vec![0; 4096];
    // SAFETY: a valid C string, and a buffer of the length that is said.
    let result = unsafe { libc::llistxattr(c(path).as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(checked(result).unwrap());
    let mut names: Vec<String> = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect();
    names.sort();
    names
}

fn copy_range(from: &File, to: &File, length: usize) -> usize {
    let (none, other) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: open descriptors, and no offsets.
    checked(unsafe { libc::copy_file_range(from.as_raw_fd(), none, to.as_raw_fd(), other, length, 0) }).unwrap()
}

fn exchange(mount: &Mount, one: &str, two: &str) -> nix::Result<()> {
    let (one, two) = (mount.path(one), mount.path(two));
    renameat2(nix::fcntl::AT_FDCWD, &one, nix::fcntl::AT_FDCWD, &two, RenameFlags::RENAME_EXCHANGE)
}

#[test]
fn devices_fifos_and_sockets_are_metadata() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mode = Mode::from_bits_truncate(0o640);
    mknod(&mount.path("fifo"), SFlag::S_IFIFO, mode, 0).unwrap();
    mknod(&mount.path("null"), SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
    mknod(&mount.path("disk"), SFlag::S_IFBLK, mode, makedev(259, 300)).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(mount.path("socket")).unwrap();
    fs::set_permissions(mount.path("null"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::rename(mount.path("disk"), mount.path("moved")).unwrap();
    std::os::unix::net::UnixStream::connect(mount.path("socket")).unwrap();
    assert_eq!(errno(File::open(mount.path("null"))), libc::EACCES, "devices cannot be opened");
    let writer = std::thread::spawn({
        let path = mount.path("fifo");
        move || fs::write(path, b"through the pipe").unwrap()
    });
    assert_eq!(mount.read("fifo"), b"through the pipe");
    writer.join().unwrap();
    drop(listener);
    mount.drain();
    assert_eq!(lab.store.keys(), ["fifo", "moved", "null", "socket"]);
    assert_eq!((lab.metadata("fifo", "mode"), lab.body("null").len()), ((libc::S_IFIFO | 0o640).to_string(), 0));
    for mount in [&mount, &lab.elsewhere()] {
        let kind = |name: &str| mount.path(name).symlink_metadata().unwrap().file_type();
        assert!(kind("fifo").is_fifo() && kind("socket").is_socket());
        assert!(kind("null").is_char_device() && kind("moved").is_block_device());
        let null = mount.path("null").metadata().unwrap();
        assert_eq!((null.rdev(), null.mode() & 0o777), (makedev(1, 3), 0o666));
        assert_eq!(mount.path("moved").metadata().unwrap().rdev(), makedev(259, 300));
    }
    fs::remove_file(mount.path("fifo")).unwrap();
    mount.drain();
    assert_eq!(lab.store.keys(), ["moved", "null", "socket"]);
}

#[test]
fn special_files_survive_a_crash() {
    let lab = Lab::new();
    let mount = lab.mount();
    assert!(mount.names("").is_empty());
    lab.store.set_outage(true);
    mknod(&mount.path("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 3)).unwrap();
    mount.write("f", b"1");
    set(&mount.path("f"), "user.a", b"kept", 0).unwrap();
    mount.crash();
    lab.store.set_outage(false);
    let mount = lab.mount();
    mount.drain();
    for mount in [&mount, &lab.elsewhere()] {
        assert_eq!(mount.path("null").metadata().unwrap().rdev(), makedev(1, 3));
        assert_eq!(get(&mount.path("f"), "user.a").unwrap(), b"kept");
    }
}

#[test]
fn extended_attributes_are_kept_as_s3fs_keeps_them() {
    let lab = Lab::new();
    lab.insert("remote", b"r");
    let mount = lab.mount();
    mount.write("fresh", b"f");
    fs::create_dir(mount.path("dir")).unwrap();
    for name in ["remote", "fresh", "dir"] {
        let path = mount.path(name);
        assert_eq!(errno(get(&path, "user.a")), libc::ENODATA);
        set(&path, "user.a", b"one", libc::XATTR_CREATE).unwrap();
        assert_eq!(errno(set(&path, "user.a", b"x", libc::XATTR_CREATE)), libc::EEXIST);
        assert_eq!(errno(set(&path, "user.b", b"x", libc::XATTR_REPLACE)), libc::ENODATA);
        set(&path, "user.a", b"two", libc::XATTR_REPLACE).unwrap();
        set(&path, "trusted.b", &[0, 255, 10], 0).unwrap();
        set(&path, "user.gone", b"", 0).unwrap();
        let gone = CString::new("user.gone").unwrap();
        // SAFETY: valid C strings.
        assert_eq!(unsafe { libc::lremovexattr(c(&path).as_ptr(), gone.as_ptr()) }, 0);
        assert_eq!(errno(set(&path, "user.large", &[0; 3000], 0)), libc::ENOSPC, "S3 takes 2 KiB");
        assert_eq!(errno(set(&path, "security.x", b"", 0)), libc::ENOTSUP);
    }
    fs::set_permissions(mount.path("fresh"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(mount.path("fresh"), mount.path("moved")).unwrap();
    mount.drain();
    assert_eq!(lab.metadata("remote", "xattr"), "%7B%22trusted.b%22%3A%22AP8K%22%2C%22user.a%22%3A%22dHdv%22%7D");
    mount.write("remote", b"written again");
    mount.drain();
    for mount in [&mount, &lab.elsewhere()] {
        for name in ["remote", "moved", "dir"] {
            assert_eq!(list(&mount.path(name)), ["trusted.b", "user.a"], "{name}");
            assert_eq!(get(&mount.path(name), "user.a").unwrap(), b"two", "{name}");
            assert_eq!(get(&mount.path(name), "trusted.b").unwrap(), [0, 255, 10], "{name}");
        }
    }
}

#[test]
fn names_of_any_bytes() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut names: Vec<OsString> = vec![
        OsString::from_vec((1..=255).filter(|byte| *byte != b'/').collect()),
        OsString::from_vec(b"caf\xe9".to_vec()),
        OsString::from_vec(vec![0xff; 255]),
        "caf\u{e0e9}".into(),
        " ".into(),
        "a b+c%20&=?#;:@\"'<>*|\\\n".into(),
        "...".into(),
        "\u{1f600}".into(),
        "-n".into(),
    ];
    names.sort();
    for (index, name) in names.iter().enumerate() {
        fs::write(mount.root.join(name), index.to_string()).unwrap();
    }
    std::os::unix::fs::symlink(&names[0], mount.path("link")).unwrap();
    mount.drain();
    assert_eq!(lab.body("caf\u{e0e9}").len(), 1, "as s3fs with use_wtf8 has it");
    for mount in [&mount, &lab.elsewhere()] {
        let mut there: Vec<OsString> =
            fs::read_dir(&mount.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        there.retain(|name| name != "link");
        there.sort();
        assert_eq!(there, names);
        for (index, name) in names.iter().enumerate() {
            assert_eq!(fs::read_to_string(mount.root.join(name)).unwrap(), index.to_string(), "{name:?}");
        }
        assert_eq!(fs::read_link(mount.path("link")).unwrap().as_os_str(), names[0]);
        assert_eq!(mount.path("link").symlink_metadata().unwrap().len(), names[0].len() as u64);
    }
    assert_eq!(errno(File::create(mount.root.join(OsString::from_vec(vec![0xff; 256])))), libc::ENAMETOOLONG);
    for name in &names {
        fs::remove_file(mount.root.join(name)).unwrap();
    }
    mount.drain();
    assert_eq!(lab.store.keys(), ["link"]);
}

#[test]
fn two_names_are_exchanged() {
    let lab = Lab::new();
    lab.insert("remote", b"remote");
    lab.insert("dir/deep/x", b"x");
    let mount = lab.mount();
    mount.write("closed", b"closed");
    let mut open = File::create(mount.path("open")).unwrap();
    open.write_all(b"open ").unwrap();
    exchange(&mount, "remote", "closed").unwrap();
    exchange(&mount, "open", "remote").unwrap();
    exchange(&mount, "dir", "closed").unwrap();
    assert_eq!(exchange(&mount, "open", "none"), Err(nix::Error::ENOENT));
    open.write_all(b"file").unwrap();
    drop(open);
    let check = |mount: &Mount| {
        assert_eq!(mount.names(""), ["closed", "dir", "open", "remote"]);
        assert_eq!((mount.read("remote"), mount.read("open")), (b"open file".to_vec(), b"closed".to_vec()));
        assert_eq!((mount.read("dir"), mount.read("closed/deep/x")), (b"remote".to_vec(), b"x".to_vec()));
    };
    check(&mount);
    mount.drain();
    check(&mount);
    check(&lab.elsewhere());
    let keys: Vec<String> = lab.store.keys().into_iter().filter(|key| !key.ends_with('/')).collect();
    assert_eq!(keys, ["closed/deep/x", "dir", "open", "remote"], "nothing is left aside");
    let keep = RenameFlags::RENAME_NOREPLACE;
    let refused = renameat2(nix::fcntl::AT_FDCWD, &mount.path("open"), nix::fcntl::AT_FDCWD, &mount.path("dir"), keep);
    assert_eq!(refused, Err(nix::Error::EEXIST));
}

#[test]
fn room_and_holes() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut expected = pattern(300_000, 1);
    mount.write("f", &expected);
    let file = OpenOptions::new().read(true).write(true).open(mount.path("f")).unwrap();
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 65_536, 131_072).unwrap();
    expected[65_536..196_608].fill(0);
    assert_eq!(lseek(&file, 70_000, Whence::SeekHole).unwrap(), 70_000);
    assert_eq!(lseek(&file, 70_000, Whence::SeekData).unwrap(), 196_608);
    fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 10, 5).unwrap();
    expected[10..15].fill(0);
    fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 300_000);
    fallocate(&file, FallocateFlags::empty(), 0, 400_000).unwrap();
    expected.resize(400_000, 0);
    let collapse = fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(nix::Error::EOPNOTSUPP));
    assert!(mount.read("f") == expected);
    assert_eq!(lseek(&file, 400_000, Whence::SeekData), Err(nix::Error::ENXIO));
    drop(file);
    mount.drain();
    assert!(lab.body("f") == expected);
    let other = lab.elsewhere();
    let file = File::open(other.path("f")).unwrap();
    assert_eq!(lseek(&file, 5, Whence::SeekData).unwrap(), 5, "what is not here is data");
    assert_eq!(lseek(&file, 5, Whence::SeekHole).unwrap(), 400_000);
}

#[test]
fn a_large_object_is_copied_by_s3() {
    use ec2mpi_agent::volume::store::memory::Operation;
    let lab = Lab::new();
    let bytes = pattern((9 << 20) + 123, 4);
    for name in ["big", "old", "lost"] {
        lab.insert(name, &bytes);
    }
    lab.insert("target", b"previous");
    let mount = lab.mount();
    let copy = |from: &str, to: &str| fs::copy(mount.path(from), mount.path(to)).unwrap();
    assert_eq!(copy("big", "copy"), bytes.len() as u64);
    assert_eq!(copy("old", "target"), bytes.len() as u64);
    lab.store.apply_then_fail(Operation::Copy);
    copy("lost", "found");
    mount.drain();
    assert_eq!((lab.store.calls(Operation::GetRange), lab.store.calls(Operation::Put)), (0, 0), "nothing was sent");
    OpenOptions::new().append(true).open(mount.path("copy")).unwrap().write_all(b"more").unwrap();
    lab.store.fail_next(Operation::Copy, 1);
    copy("big", "by-hand");
    mount.write("small", b"12345");
    copy("small", "small-copy");
    copy("by-hand", "from-the-cache");
    mount.drain();
    let status = mount.ask(&ec2mpi_agent::volume::control::Request::Status).status;
    assert_eq!((status.conflicts, status.failed_files), (0, 0));
    for mount in [&mount, &lab.elsewhere()] {
        for name in ["target", "found", "by-hand", "from-the-cache"] {
            assert!(mount.read(name) == bytes, "{name}");
        }
        assert!(mount.read("copy") == [&bytes[..], b"more"].concat());
        assert_eq!(mount.read("small-copy"), b"12345");
    }
}

#[test]
fn a_copy_by_s3_survives_a_crash() {
    let lab = Lab::new();
    let bytes = pattern(9 << 20, 4);
    lab.insert("big", &bytes);
    let mount = lab.mount();
    let (source, target) = (File::open(mount.path("big")).unwrap(), File::create(mount.path("copy")).unwrap());
    let length = bytes.len();
    assert_eq!(copy_range(&source, &target, length), length);
    mount.crash();
    drop((source, target));
    let mount = lab.mount();
    mount.drain();
    assert_eq!(lab.store.keys(), ["big", "copy"], "no conflict was invented");
    assert!(lab.body("copy") == bytes && mount.read("copy") == bytes);
}

#[test]
fn a_file_without_a_name_is_refused_cleanly() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true).write(true), libc::O_TMPFILE);
    assert_eq!(errno(options.open(&mount.root)), libc::EOPNOTSUPP, "programs take another way then");
    assert!(tempfile::tempfile_in(&mount.root).is_ok());
}

#[test]
fn locks_hold_between_the_processes_of_a_node() {
    let lab = Lab::new();
    let mount = lab.mount();
    let file = File::create(mount.path("f")).unwrap();
    let try_by = |words: &str| {
        let mut python = std::process::Command::new("python3");
        let script = format!("import fcntl; f = open({:?}, 'r+'); {words}", mount.path("f"));
        python.args(["-c", &script]).output().unwrap()
    };
    let flock = "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)";
    assert!(try_by(flock).status.success());
    file.lock().unwrap();
    let refused = try_by(flock);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("BlockingIOError"), "{refused:?}");
    file.unlock().unwrap();
    // SAFETY: all zeros is a flock.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    (range.l_type, range.l_start, range.l_len) = (libc::F_WRLCK as i16, 10, 10);
    // SAFETY: an open descriptor and a valid flock.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &range) }, 0);
    let lockf = |start: u32| try_by(&format!("fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, {start})"));
    assert!(lockf(20).status.success() && !lockf(12).status.success());
}

#[test]
fn rights_go_when_others_write() {
    use std::os::unix::process::CommandExt;
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("f", b"1");
    let mode = || mount.path("f").metadata().unwrap().mode() & 0o7777;
    let set = |mode| fs::set_permissions(mount.path("f"), fs::Permissions::from_mode(mode)).unwrap();
    set(0o6777);
    OpenOptions::new().append(true).open(mount.path("f")).unwrap().write_all(b"2").unwrap();
    assert_eq!(mode(), 0o6777, "root may");
    let mut other = std::process::Command::new("sh");
    other.args(["-c", "echo 3 >> \"$1\"", "sh"]).arg(mount.path("f")).uid(65534).gid(65534);
    assert!(other.status().unwrap().success());
    mount.epoch();
    assert_eq!(mode(), 0o777);
    set(0o6755);
    std::os::unix::fs::chown(mount.path("f"), Some(7), Some(7)).unwrap();
    assert_eq!(mode(), 0o755);
    mount.drain();
    assert_eq!(lab.metadata("f", "mode"), (libc::S_IFREG | 0o755).to_string());
}

/// Reads with the C library's own calls; prints how many names there are, and whether `seekdir` came back to them.
const SEEKER: &str = r#"
#include <dirent.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
  DIR *d = opendir(argv[1]);
  struct dirent *e;
  long count = 0, at = -1;
  char name[256] = {0};
  if (!d) return 1;
  while (1) {
    long here = telldir(d);
    if (!(e = readdir(d))) break;
    if (++count == 70001) { at = here; strcpy(name, e->d_name); }
  }
  seekdir(d, at);
  e = readdir(d);
  int same = e && !strcmp(e->d_name, name);
  rewinddir(d);
  long again = 0;
  while (readdir(d)) again++;
  printf("%ld %ld %d\n", count, again, same);
  return 0;
}
"#;

#[test]
fn a_hundred_thousand_entries() {
    let lab = Lab::new();
    for index in 0..100_000 {
        lab.insert(&format!("many/{index:06}"), b"");
    }
    fs::write(lab.dir.path().join("seek.c"), SEEKER).unwrap();
    let mut cc = std::process::Command::new("cc");
    assert!(cc.args(["-o", "seek", "seek.c"]).current_dir(lab.dir.path()).status().unwrap().success());
    let mount = lab.mount();
    let seek = || {
        let output = std::process::Command::new(lab.dir.path().join("seek")).arg(mount.path("many")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(seek(), "100002 100002 1\n");
    let mut reader = fs::read_dir(mount.path("many")).unwrap();
    let first: Vec<_> = reader.by_ref().take(10).map(|entry| entry.unwrap().file_name()).collect();
    for name in first.iter().chain([&OsString::from("050000")]) {
        fs::remove_file(mount.path("many").join(name)).unwrap();
    }
    mount.write("many/new", b"");
    let rest = reader.map(|entry| entry.unwrap().file_name()).filter(|name| name != "050000" && name != "new").count();
    assert_eq!(rest, 99_989, "every name that stays is read once");
    assert_eq!(seek(), "99992 99992 1\n");
}
