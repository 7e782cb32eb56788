//! Bytes and attributes on one node.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use crate::lab::{Lab, errno, pattern};

#[test]
fn a_file_is_an_object_with_s3fs_headers() {
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("a.txt", b"hello");
    assert_eq!(mount.read("a.txt"), b"hello");
    mount.drain();
    assert_eq!(lab.body("a.txt"), b"hello");
    assert_eq!(lab.metadata("a.txt", "mode"), (libc::S_IFREG | 0o644).to_string());
    assert_eq!(lab.metadata("a.txt", "uid"), "0");
    assert_eq!(lab.store.object("a.txt").unwrap().0.headers.content_type.as_deref(), Some("text/plain"));
    let other = lab.elsewhere();
    assert_eq!(other.read("a.txt"), b"hello");
    let (here, there) = (mount.path("a.txt").metadata().unwrap(), other.path("a.txt").metadata().unwrap());
    assert_eq!((here.mode(), here.mtime(), here.mtime_nsec()), (there.mode(), there.mtime(), there.mtime_nsec()));
}

#[test]
fn objects_of_other_tools_have_sane_attributes() {
    let lab = Lab::new();
    lab.insert("plain", b"12345");
    lab.insert("d/e/deep", b"x");
    let mount = lab.mount();
    let plain = mount.path("plain").metadata().unwrap();
    assert_eq!((plain.mode(), plain.uid(), plain.gid(), plain.len()), (0o100_640, 1234, 1235, 5));
    let implicit = mount.path("d/e").metadata().unwrap();
    assert_eq!((implicit.mode(), implicit.uid(), implicit.gid()), (0o040_750, 1234, 1235));
    let root = mount.root.metadata().unwrap();
    assert_eq!((root.mode(), root.uid(), root.gid()), (0o040_775, 1234, 1235));
    assert_eq!(mount.read("d/e/deep"), b"x");
}

#[test]
fn writes_at_any_offset() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut expected = pattern(300_000, 1);
    mount.write("f", &expected);
    mount.drain();
    let file = OpenOptions::new().read(true).write(true).open(mount.path("f")).unwrap();
    for (index, offset) in [0, 7, 4095, 131_071, 299_990, 400_000].into_iter().enumerate() {
        let bytes = pattern(33, index as u8);
        file.write_all_at(&bytes, offset).unwrap();
        let (offset, end) = (offset as usize, offset as usize + 33);
        expected.resize(expected.len().max(end), 0);
        expected[offset..end].copy_from_slice(&bytes);
    }
    assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
    drop(file);
    assert!(mount.read("f") == expected);
    mount.drain();
    assert!(lab.body("f") == expected);
}

#[test]
fn a_remote_file_is_changed_in_the_middle_without_losing_the_rest() {
    let lab = Lab::new();
    let mut expected = pattern(9 << 20, 3);
    lab.insert("big", &expected);
    let mount = lab.mount();
    let file = OpenOptions::new().write(true).open(mount.path("big")).unwrap();
    file.write_all_at(b"changed", 5 << 20).unwrap();
    drop(file);
    expected[5 << 20..(5 << 20) + 7].copy_from_slice(b"changed");
    mount.drain();
    assert!(lab.body("big") == expected);
}

#[test]
fn appends_of_two_handles_do_not_overwrite_each_other() {
    let lab = Lab::new();
    let mount = lab.mount();
    let open = || OpenOptions::new().append(true).create(true).open(mount.path("log")).unwrap();
    let (mut one, mut two) = (open(), open());
    for round in 0..50 {
        writeln!(one, "one {round}").unwrap();
        writeln!(two, "two {round}").unwrap();
    }
    drop((one, two));
    let text = String::from_utf8(mount.read("log")).unwrap();
    assert_eq!(text.lines().count(), 100);
    assert_eq!(text.lines().nth(99), Some("two 49"));
    mount.drain();
    assert_eq!(lab.body("log"), text.as_bytes());
}

#[test]
fn truncation_cuts_and_extends_with_zeros() {
    let lab = Lab::new();
    lab.insert("r", b"0123456789");
    let mount = lab.mount();
    let file = OpenOptions::new().write(true).open(mount.path("r")).unwrap();
    file.set_len(4).unwrap();
    file.set_len(8).unwrap();
    drop(file);
    assert_eq!(mount.read("r"), b"0123\0\0\0\0");
    let path = std::ffi::CString::new(mount.path("r").to_str().unwrap()).unwrap();
    // SAFETY: a valid C string.
    assert_eq!(unsafe { libc::truncate(path.as_ptr(), 2) }, 0);
    mount.drain();
    assert_eq!(lab.body("r"), b"01");
    File::create(mount.path("r")).unwrap();
    mount.drain();
    assert_eq!(lab.body("r"), b"");
}

#[test]
fn overwriting_does_not_fetch_what_is_cut_off() {
    use ec2mpi_agent::volume::store::memory::Operation;
    let lab = Lab::new();
    lab.insert("big", &pattern(1 << 20, 1));
    let mount = lab.mount();
    mount.write("big", b"new");
    mount.drain();
    assert_eq!(lab.body("big"), b"new");
    assert_eq!(lab.store.calls(Operation::GetRange), 0);
}

#[test]
fn exclusive_creation_and_several_handles() {
    let lab = Lab::new();
    let mount = lab.mount();
    let create = || OpenOptions::new().write(true).create_new(true).open(mount.path("x"));
    let mut first = create().unwrap();
    assert_eq!(errno(create()), libc::EEXIST);
    first.write_all(b"abc").unwrap();
    let mut second = OpenOptions::new().read(true).write(true).open(mount.path("x")).unwrap();
    second.seek(SeekFrom::End(0)).unwrap();
    second.write_all(b"def").unwrap();
    let mut text = String::new();
    second.seek(SeekFrom::Start(0)).unwrap();
    second.read_to_string(&mut text).unwrap();
    assert_eq!(text, "abcdef");
    let reader = File::open(mount.path("x")).unwrap();
    assert_eq!(errno((&reader).write(b"no")), libc::EBADF);
}

#[test]
fn an_unlinked_open_file_lives_until_it_is_closed() {
    let lab = Lab::new();
    lab.insert("remote", b"remote bytes");
    let mount = lab.mount();
    mount.write("local", b"local bytes");
    let mut local = OpenOptions::new().read(true).write(true).open(mount.path("local")).unwrap();
    let mut remote = File::open(mount.path("remote")).unwrap();
    std::fs::remove_file(mount.path("local")).unwrap();
    std::fs::remove_file(mount.path("remote")).unwrap();
    assert!(mount.names("").is_empty());
    mount.drain();
    assert!(lab.store.keys().is_empty());
    let mut text = String::new();
    remote.read_to_string(&mut text).unwrap();
    assert_eq!(text, "remote bytes");
    local.write_all(b"LOCAL").unwrap();
    local.seek(SeekFrom::Start(0)).unwrap();
    text.clear();
    local.read_to_string(&mut text).unwrap();
    assert_eq!(text, "LOCAL bytes");
    assert_eq!(local.metadata().unwrap().nlink(), 0);
    drop((local, remote));
    mount.drain();
    assert!(lab.store.keys().is_empty());
}

#[test]
fn attributes_reach_s3_and_other_nodes() {
    let lab = Lab::new();
    lab.insert("remote", b"r");
    let mount = lab.mount();
    mount.write("fresh", b"f");
    std::fs::create_dir(mount.path("dir")).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 123_456_789);
    for (name, mode) in [("remote", 0o751), ("fresh", 0o600), ("dir", 0o2770)] {
        let path = mount.path(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let file = File::open(&path).unwrap();
        file.set_times(std::fs::FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
    }
    mount.drain();
    assert_eq!(lab.body("remote"), b"r");
    assert_eq!(lab.metadata("dir/", "mode"), (libc::S_IFDIR | 0o2770).to_string());
    let other = lab.elsewhere();
    for (name, mode) in [("remote", 0o100_751), ("fresh", 0o100_600), ("dir", 0o042_770)] {
        for mount in [&mount, &other] {
            let metadata = mount.path(name).metadata().unwrap();
            assert_eq!((metadata.mode(), metadata.uid(), metadata.gid()), (mode, 7, 8), "{name}");
            assert_eq!(metadata.modified().unwrap(), time, "{name}");
        }
    }
    assert_eq!(lab.metadata("remote", "mtime"), "1500000000.123456789");
}

#[test]
fn foreign_headers_survive_a_change_of_mode() {
    use ec2mpi_agent::volume::store::Headers;
    let lab = Lab::new();
    let mut headers = Headers { content_type: Some("text/x-mine".into()), ..Headers::default() };
    headers.metadata.insert("colour".into(), "blue".into());
    headers.foreign.insert("cache-control".into(), "no-store".into());
    lab.store.insert("f", b"1".to_vec(), headers);
    let mount = lab.mount();
    std::fs::set_permissions(mount.path("f"), std::fs::Permissions::from_mode(0o600)).unwrap();
    mount.drain();
    let now = lab.store.object("f").unwrap().0.headers;
    assert_eq!(now.metadata["colour"], "blue");
    assert_eq!(now.metadata["mode"], (libc::S_IFREG | 0o600).to_string());
    assert_eq!(now.foreign["cache-control"], "no-store");
    assert_eq!(now.content_type.as_deref(), Some("text/x-mine"));
    std::fs::rename(mount.path("f"), mount.path("g")).unwrap();
    std::fs::OpenOptions::new().append(true).open(mount.path("g")).unwrap().write_all(b"2").unwrap();
    mount.drain();
    let now = lab.store.object("g").unwrap().0.headers;
    assert_eq!((now.metadata["colour"].as_str(), now.foreign["cache-control"].as_str()), ("blue", "no-store"));
}

#[test]
fn permissions_are_the_kernels_for_everybody() {
    use std::os::unix::process::CommandExt;
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("secret", b"s");
    std::fs::set_permissions(mount.path("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    mount.write("open", b"o");
    let cat = |name: &str| {
        let mut command = std::process::Command::new("cat");
        command.arg(mount.path(name)).uid(65534).gid(65534).output().unwrap()
    };
    assert_eq!(cat("open").stdout, b"o");
    let denied = cat("secret");
    assert!(!denied.status.success() && String::from_utf8_lossy(&denied.stderr).contains("Permission denied"));
}

#[test]
fn what_s3_cannot_hold_is_refused_cleanly() {
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("f", b"1");
    assert_eq!(errno(std::fs::hard_link(mount.path("f"), mount.path("g"))), libc::EPERM);
    assert_eq!(errno(File::create(mount.path(&"n".repeat(256)))), libc::ENAMETOOLONG);
    mount.write(&"n".repeat(255), b"");
    let space = nix::sys::statvfs::statvfs(&mount.root).unwrap();
    assert!(space.blocks_available() > 1 << 20 && space.name_max() == 255);
}

#[test]
fn direct_files_skip_the_page_cache() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT).open(mount.path("d")).unwrap();
    let layout = std::alloc::Layout::from_size_align(8192, 4096).unwrap();
    // SAFETY: a layout of some size, and the memory is freed below with the same.
    let memory = unsafe { std::alloc::alloc_zeroed(layout) };
    assert!(!memory.is_null());
    // SAFETY: 8,192 bytes that nobody else has.
    let block = unsafe { std::slice::from_raw_parts_mut(memory, 8192) };
    block.copy_from_slice(&pattern(8192, 5));
    file.write_all_at(block, 4096).unwrap();
    block.fill(0);
    file.read_exact_at(block, 4096).unwrap();
    assert!(block == pattern(8192, 5));
    drop(file);
    // SAFETY: allocated above.
    unsafe { std::alloc::dealloc(memory, layout) };
    mount.drain();
    assert!(lab.body("d") == [vec![0; 4096], pattern(8192, 5)].concat());
}

#[test]
fn closing_waits_for_s3_when_told_so() {
    let lab = Lab::new();
    let mut options = lab.options("a");
    options.close = ec2mpi_agent::volume::Close::S3;
    let mount = lab.mount_options(options);
    lab.store.set_latency(Duration::from_millis(100));
    mount.write("f", b"there when close returns");
    assert_eq!(lab.body("f"), b"there when close returns");
    lab.store.set_latency(Duration::ZERO);
    let refused = ec2mpi_agent::volume::store::StoreError::Refused("f".into(), "EntityTooLarge (injected)".into());
    lab.store.fail_next_with(ec2mpi_agent::volume::store::memory::Operation::Put, 1, refused);
    let mut file = File::create(mount.path("g")).unwrap();
    file.write_all(b"never there").unwrap();
    assert_eq!(nix::unistd::close(file), Err(nix::Error::EIO));
}

#[test]
fn direct_and_synchronous_files_work() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut options = OpenOptions::new();
    options.write(true).create(true).custom_flags(libc::O_SYNC);
    let mut file = options.open(mount.path("s")).unwrap();
    file.write_all(b"synchronous").unwrap();
    assert_eq!(lab.body("s"), b"synchronous", "O_SYNC: in S3 when write returns");
    drop(file);
    assert_eq!(mount.read("s"), b"synchronous");
}
