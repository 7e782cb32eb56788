//! What survives, and what is said of what does not.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ec2mpi_agent::volume::control::{Request, call};
use ec2mpi_agent::volume::mount::mount_with;
use ec2mpi_agent::volume::store::StoreError;
use ec2mpi_agent::volume::store::memory::{MemoryStore, Operation};

use crate::lab::{Lab, errno, pattern};

#[test]
fn closed_and_open_files_survive_a_crash() {
    let lab = Lab::new();
    lab.insert("deleted", b"d");
    lab.insert("from", b"moved");
    lab.insert("mode", b"m");
    lab.insert("tree/x", b"x");
    let mount = lab.mount();
    assert_eq!(mount.names("").len(), 4);
    lab.store.set_outage(true);
    mount.write("closed", &pattern(100_000, 1));
    let mut open = File::create(mount.path("open")).unwrap();
    open.write_all(b"not closed").unwrap();
    fs::remove_file(mount.path("deleted")).unwrap();
    fs::rename(mount.path("from"), mount.path("to")).unwrap();
    fs::set_permissions(mount.path("mode"), std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    std::os::unix::fs::symlink("to", mount.path("link")).unwrap();
    fs::rename(mount.path("tree"), mount.path("moved-tree")).unwrap();
    mount.write("dir/inside", b"inside");
    mount.crash();
    drop(open);
    lab.store.set_outage(false);
    let mount = lab.mount();
    let check = |mount: &crate::lab::Mount| {
        assert_eq!(mount.names(""), ["closed", "dir", "link", "mode", "moved-tree", "open", "to"]);
        assert!(mount.read("closed") == pattern(100_000, 1));
        assert_eq!(mount.read("open"), b"not closed");
        assert_eq!(mount.read("link"), b"moved");
        assert_eq!(mount.read("dir/inside"), b"inside");
        assert_eq!(mount.read("moved-tree/x"), b"x");
    };
    check(&mount);
    mount.drain();
    check(&mount);
    check(&lab.elsewhere());
    assert_eq!(lab.metadata("mode", "mode"), (libc::S_IFREG | 0o604).to_string());
    let expected = ["closed", "dir/", "dir/inside", "link", "mode", "moved-tree/", "moved-tree/x", "open", "to"];
    let keys: Vec<String> = lab.store.keys().into_iter().filter(|key| key != "moved-tree/").collect();
    assert_eq!(keys, expected.into_iter().filter(|key| *key != "moved-tree/").collect::<Vec<_>>());
}

#[test]
fn a_replayed_journal_is_not_replayed_twice() {
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("f", b"1");
    mount.drain();
    mount.crash();
    let mount = lab.mount();
    let answer = mount.ask(&Request::Status);
    assert_eq!(answer.status.dirty_files, 0);
    assert_eq!(fs::read_dir(lab.dir.path().join("cache-a/data")).unwrap().count(), 0);
    assert_eq!(mount.read("f"), b"1");
}

#[test]
fn an_upload_whose_answer_was_lost_in_a_crash_is_no_conflict() {
    let lab = Lab::new();
    let mount = lab.mount();
    lab.store.apply_then_fail(Operation::Put);
    mount.write("f", b"once");
    crate::lab::eventually("the object is there", || lab.store.object("f").is_some());
    mount.crash();
    let mount = lab.mount();
    mount.drain();
    assert_eq!(lab.store.keys(), ["f"]);
    assert_eq!(mount.ask(&Request::Status).status.conflicts, 0);
}

#[test]
fn fsync_returns_when_s3_has_it() {
    let lab = Lab::new();
    let mount = lab.mount();
    lab.store.set_latency(Duration::from_millis(50));
    let mut file = File::create(mount.path("f")).unwrap();
    for round in 0..3_u8 {
        file.write_all(&[round; 1000]).unwrap();
        file.sync_all().unwrap();
        assert_eq!(lab.body("f").len(), 1000 * (usize::from(round) + 1));
    }
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/x"), b"").unwrap();
    File::open(mount.path("d")).unwrap().sync_all().unwrap();
    let keys = lab.store.keys();
    assert!(keys.contains(&"d/".to_owned()), "{keys:?}");
}

#[test]
fn lost_replies_and_errors_change_nothing() {
    let lab = Lab::new();
    let mount = lab.mount();
    for round in 0..5_u8 {
        lab.store.apply_then_fail(Operation::Put);
        lab.store.fail_next(Operation::Head, 1);
        mount.write("f", &[round; 100]);
        mount.drain();
        lab.store.apply_then_fail(Operation::Copy);
        lab.store.apply_then_fail(Operation::Delete);
        fs::rename(mount.path("f"), mount.path("g")).unwrap();
        mount.drain();
        fs::rename(mount.path("g"), mount.path("f")).unwrap();
        mount.drain();
    }
    assert_eq!(lab.store.keys(), ["f"]);
    assert_eq!(lab.body("f"), [4; 100]);
    assert_eq!(mount.ask(&Request::Status).status.conflicts, 0);
}

#[test]
fn s3_away_for_a_while() {
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("cached", b"cached");
    mount.drain();
    assert_eq!(mount.read("cached"), b"cached");
    lab.store.set_outage(true);
    let started = Instant::now();
    mount.write("cached", b"changed");
    assert_eq!(mount.read("cached"), b"changed");
    let answer = mount.ask(&Request::Drain { timeout_seconds: 1 });
    assert!(!answer.ok && answer.status.dirty_files == 1, "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(30));
    lab.store.set_outage(false);
    mount.drain();
    assert_eq!(lab.body("cached"), b"changed");
}

#[test]
fn s3_away_is_eio_within_thirty_seconds_and_unmount_works() {
    let lab = Lab::new();
    lab.insert("never-read", b"x");
    let mount = lab.mount();
    lab.store.set_outage(true);
    let started = Instant::now();
    assert_eq!(errno(fs::read(mount.path("never-read"))), libc::EIO);
    assert!(started.elapsed() < Duration::from_secs(30));
    let started = Instant::now();
    mount.unmount();
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn an_unmount_without_s3_keeps_everything_for_the_next_mount() {
    let lab = Lab::new();
    let mount = lab.mount();
    assert!(mount.names("").is_empty());
    lab.store.set_outage(true);
    mount.write("late", b"late");
    let started = Instant::now();
    mount.unmount();
    assert!(started.elapsed() < Duration::from_secs(10));
    lab.store.set_outage(false);
    let mount = lab.mount();
    mount.drain();
    assert_eq!(lab.body("late"), b"late");
}

#[test]
fn what_cannot_be_uploaded_is_kept_shown_and_reported() {
    let lab = Lab::new();
    let mount = lab.mount();
    let refused = StoreError::Refused("f".into(), "EntityTooLarge (injected)".into());
    lab.store.fail_next_with(Operation::Put, 1, refused);
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"precious").unwrap();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    let answer = mount.ask(&Request::Drain { timeout_seconds: 5 });
    assert!(!answer.ok && answer.error.as_ref().unwrap().contains('f'), "{answer:?}");
    assert_eq!((answer.status.failed_files, answer.status.failures[0].path.as_str()), (1, "f"));
    let kept: Vec<_> = fs::read_dir(lab.dir.path().join("cache-a/lost+found")).unwrap().collect();
    assert_eq!(kept.len(), 2, "the data and what was to be done with them");
    let data = kept.into_iter().map(|entry| entry.unwrap().path()).find(|path| path.extension().is_none()).unwrap();
    assert_eq!(fs::read(data).unwrap(), b"precious");
    file.write_all(b" again").unwrap();
    file.sync_all().unwrap();
    assert_eq!(lab.body("f"), b"precious again");
}

#[test]
fn a_large_file_goes_up_in_parts_and_comes_back() {
    let lab = Lab::new();
    let mount = lab.mount();
    let bytes = pattern((70 << 20) + 12_345, 2);
    mount.write("large", &bytes);
    lab.store.fail_next(Operation::MultipartPut, 1);
    mount.drain();
    assert!(lab.store.calls(Operation::MultipartPut) >= 5);
    assert_eq!(lab.store.open_uploads(), 0);
    assert!(lab.body("large") == bytes);
    let other = lab.elsewhere();
    let mut tail = vec![0; 1000];
    std::os::unix::fs::FileExt::read_exact_at(
        &File::open(other.path("large")).unwrap(),
        &mut tail,
        bytes.len() as u64 - 1000,
    )
    .unwrap();
    assert!(tail == bytes[bytes.len() - 1000..]);
    assert!(other.read("large") == bytes);
}

#[test]
fn an_upload_is_a_snapshot() {
    let lab = Lab::new();
    let mount = lab.mount();
    lab.store.set_latency(Duration::from_millis(300));
    mount.write("f", &[1; 50_000]);
    let file = OpenOptions::new().write(true).open(mount.path("f")).unwrap();
    for offset in 0..50 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[2; 1000], offset * 1000).unwrap();
    }
    crate::lab::eventually("the first upload", || lab.store.object("f").is_some());
    let first = lab.body("f");
    assert!(first.iter().all(|byte| *byte == first[0]), "an upload is torn");
    drop(file);
    lab.store.set_latency(Duration::ZERO);
    mount.drain();
    assert!(lab.body("f") == [2; 50_000]);
}

#[test]
fn drain_takes_a_snapshot_of_open_files() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"one").unwrap();
    mount.drain();
    assert_eq!(lab.body("f"), b"one");
    file.write_all(b" two").unwrap();
    drop(file);
    mount.drain();
    assert_eq!(lab.body("f"), b"one two");
}

#[test]
fn one_cache_directory_one_volume() {
    let lab = Lab::new();
    let _mount = lab.mount();
    let mut options = lab.options("b");
    options.cache_dir = lab.dir.path().join("cache-a");
    let error = mount_with(Arc::new(lab.store.clone()), options).unwrap_err();
    assert!(error.to_string().contains("another volume"), "{error}");
}

#[test]
fn the_control_socket_answers_its_owner() {
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("f", b"1");
    let socket = lab.dir.path().join("a.sock");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&socket).unwrap()) & 0o777;
    assert_eq!(mode, 0o600);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |request| runtime.block_on(call(&socket, &request, Duration::from_secs(10))).unwrap();
    let drained = ask(Request::Drain { timeout_seconds: 10 });
    assert!(drained.ok && drained.status.mount_point == mount.root.display().to_string(), "{drained:?}");
    assert!(ask(Request::Epoch).ok && ask(Request::Status).ok);
    assert_eq!(lab.body("f"), b"1");
}

/// Where the child of [`a_killed_process_leaves_nothing_behind_that_the_next_cannot_mend`] finds its lab.
const CHILD: &str = "EC2MPI_TEST_VOLUME_CHILD";

#[test]
fn a_killed_process_leaves_nothing_behind_that_the_next_cannot_mend() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return be_killed(dir.into());
    }
    let lab = Lab::new();
    let options = lab.options("a");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durability::a_killed_process_leaves_nothing_behind_that_the_next_cannot_mend"])
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD, lab.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"WRITTEN") && output.read(&mut byte).unwrap() == 1 {
        seen.push(byte[0]);
    }
    assert!(seen.ends_with(b"WRITTEN"), "{}", String::from_utf8_lossy(&seen));
    // A process of its own: one that has a file open on a mount it serves itself cannot end.
    let script = "exec 3>open; printf 'written and never closed' >&3; echo; exec sleep 60";
    let mut writer =
        Command::new("sh").args(["-c", script]).current_dir(&options.dir).stdout(Stdio::piped()).spawn().unwrap();
    writer.stdout.take().unwrap().read_exact(&mut byte).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(errno(fs::read_dir(&options.dir)), libc::ENOTCONN, "the dead mount is still there");
    writer.kill().unwrap();
    writer.wait().unwrap();
    let mount = lab.mount_options(options);
    mount.drain();
    assert!(lab.body("closed") == pattern(300_000, 4));
    assert_eq!(lab.body("open"), b"written and never closed");
    assert_eq!(mount.read("closed").len(), 300_000);
    assert_eq!(mount.names(""), ["closed", "open"]);
}

/// Writes over a store that is away, says so, and waits for the end.
fn be_killed(dir: std::path::PathBuf) {
    let mut options = ec2mpi_agent::volume::Options::new(dir.join("a"), dir.join("cache-a"));
    options.control = dir.join("a.sock");
    let store = MemoryStore::new();
    let volume = mount_with(Arc::new(store.clone()), options).unwrap();
    assert_eq!(fs::read_dir(dir.join("a")).unwrap().count(), 0);
    store.fail_next(Operation::Put, 100_000);
    fs::write(dir.join("a/closed"), pattern(300_000, 4)).unwrap();
    println!("WRITTEN");
    std::io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(60));
    drop(volume);
}

#[test]
fn names_that_are_new_can_be_written_while_s3_is_away() {
    let lab = Lab::new();
    lab.insert("d/known", b"known");
    let mount = lab.mount();
    assert_eq!(mount.names("d"), ["known"]);
    assert_eq!(mount.read("d/known"), b"known");
    lab.store.set_outage(true);
    mount.epoch();
    let started = Instant::now();
    mount.write("d/new", b"new");
    assert!(started.elapsed() < Duration::from_secs(60), "one question may wait for S3, not every one");
    let started = Instant::now();
    mount.write("d/newer", b"newer");
    assert_eq!(mount.read("d/known"), b"known");
    assert_eq!(mount.names("d"), ["known", "new", "newer"]);
    assert!(started.elapsed() < Duration::from_secs(15));
    lab.store.set_outage(false);
    mount.drain();
    assert_eq!(lab.store.keys(), ["d/known", "d/new", "d/newer"]);
}
