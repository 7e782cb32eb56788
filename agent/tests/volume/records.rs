//! Attribute records: what they save, that nothing old is believed, and that they are in nobody's way.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use ec2mpi_agent::volume::Options;
use ec2mpi_agent::volume::store::Headers;
use ec2mpi_agent::volume::store::memory::Operation;

use crate::lab::{Lab, Mount, errno, eventually};

const FILES: usize = 60;
const RECORD: &str = ".ec2mpi-attrs/d/.ec2mpi-attrs";

fn quick(mut options: Options) -> Options {
    options.record_after = Duration::from_millis(300);
    options
}

/// Files of many kinds, and a record of their directory.
fn recorded() -> (Lab, Mount) {
    let lab = Lab::new();
    let mount = lab.mount_options(quick(lab.options("a")));
    fs::create_dir(mount.path("d")).unwrap();
    for index in 0..FILES {
        let name = format!("d/f{index:02}");
        mount.write(&name, format!("{index}").as_bytes());
        fs::set_permissions(mount.path(&name), fs::Permissions::from_mode(0o600 + (index as u32 % 64))).unwrap();
    }
    std::os::unix::fs::symlink("f00", mount.path("d/link")).unwrap();
    mount.drain();
    eventually("a record", || lab.store.object(RECORD).is_some());
    (lab, mount)
}

/// Names and attributes, by a listing and a look at each.
fn attributes(mount: &Mount) -> Vec<(String, u32, u32, u64, i64, i64)> {
    let entries = fs::read_dir(mount.path("d")).unwrap().map(Result::unwrap);
    let mut all: Vec<_> = entries
        .map(|entry| {
            let (name, stat) = (entry.file_name().into_string().unwrap(), entry.path().symlink_metadata().unwrap());
            (name, stat.mode(), stat.uid(), stat.len(), stat.mtime(), stat.mtime_nsec())
        })
        .collect();
    all.sort();
    all
}

/// What a mount shows that believes no records.
fn truth(lab: &Lab) -> Vec<(String, u32, u32, u64, i64, i64)> {
    let mut options = lab.options("truth");
    options.attr_records = false;
    let mount = lab.mount_options(options);
    let all = attributes(&mount);
    mount.unmount();
    all
}

fn heads(lab: &Lab) -> usize {
    lab.store.calls(Operation::Head)
}

#[test]
fn a_directory_with_a_record_is_listed_with_one_get() {
    let (lab, mount) = recorded();
    let truth = truth(&lab);
    assert_eq!((truth.len(), attributes(&mount) == truth), (FILES + 1, true));
    assert_eq!(mount.names(""), ["d"], "nothing of it is shown");
    assert_eq!(errno(fs::create_dir(mount.path("d/.ec2mpi-attrs"))), libc::EINVAL);
    mount.unmount();
    let elsewhere = lab.elsewhere();
    let (before, gets) = (heads(&lab), lab.store.calls(Operation::Get));
    assert_eq!(attributes(&elsewhere), truth);
    let (asked, got) = (heads(&lab) - before, lab.store.calls(Operation::Get) - gets);
    println!("{} files listed with {asked} HEADs and {got} GETs", FILES + 1);
    assert!(asked <= 4 && got == 1, "{asked} HEADs, {got} GETs");
    assert_eq!(fs::read_link(elsewhere.path("d/link")).unwrap().to_str(), Some("f00"));
    assert_eq!(elsewhere.read("d/f07"), b"7");
}

#[test]
fn what_changed_since_is_not_believed() {
    let (lab, mount) = recorded();
    mount.unmount();
    let changed = |key: &str, mode: u32| {
        let (info, bytes) = lab.store.object(key).unwrap();
        let mut headers = info.headers;
        headers.metadata.insert("mode".to_owned(), (libc::S_IFREG | mode).to_string());
        // As chmod by a COPY: the ETag stays.
        assert_eq!(lab.store.insert(key, bytes, headers), info.etag);
    };
    changed("d/f01", 0o751);
    lab.insert("d/f02", b"other");
    lab.store.remove("d/f03");
    lab.insert("d/new", b"new");
    let truth = truth(&lab);
    let elsewhere = lab.elsewhere();
    assert_eq!(attributes(&elsewhere), truth);
    assert_eq!(elsewhere.path("d/f01").metadata().unwrap().mode() & 0o7777, 0o751);
    // Nor is a record that is none, or of another place, or of the future.
    let record = lab.body(RECORD);
    let text = String::from_utf8(record.clone()).unwrap();
    for wrong in [
        record[..record.len() / 2].to_vec(),
        Vec::new(),
        vec![b'x'; 100],
        text.replace("\"directory\":\"d\"", "\"directory\":\"e\"").into_bytes(),
        text.replace("\"version\":1", "\"version\":9").into_bytes(),
    ] {
        lab.store.insert(RECORD, wrong, Headers::default());
        let elsewhere = lab.elsewhere();
        let before = heads(&lab);
        assert_eq!(attributes(&elsewhere), truth);
        assert!(heads(&lab) - before >= FILES);
    }
}

#[test]
fn what_is_too_young_is_in_no_record_until_it_is_older() {
    let lab = Lab::new();
    (0..FILES).for_each(|index| lab.insert(&format!("d/f{index:02}"), b"theirs"));
    let mount = lab.mount_options(quick(lab.options("a")));
    assert_eq!(attributes(&mount).len(), FILES);
    std::thread::sleep(Duration::from_millis(900));
    assert!(lab.store.object(RECORD).is_none(), "every one may be changed in the second of its last change");
    eventually("a record", || lab.store.object(RECORD).is_some());
    mount.unmount();
    // Objects without attributes have those of whoever mounts, record or not.
    let mut options = lab.options("b");
    options.owner.uid = 4321;
    let other = lab.mount_options(options);
    let before = heads(&lab);
    assert!(attributes(&other).iter().all(|(_, _, uid, ..)| *uid == 4321));
    assert!(heads(&lab) - before <= 4);
}

#[test]
fn records_go_with_their_directories_and_none_are_written_when_told_so() {
    let (lab, mount) = recorded();
    fs::rename(mount.path("d"), mount.path("e")).unwrap();
    mount.drain();
    assert!(lab.store.object(RECORD).is_none(), "moved");
    fs::rename(mount.path("e"), mount.path("d")).unwrap();
    mount.drain();
    lab.store.insert(RECORD, "{}", Headers::default());
    fs::remove_dir_all(mount.path("d")).unwrap();
    mount.drain();
    assert_eq!(lab.store.keys(), Vec::<String>::new(), "removed");
    mount.unmount();
    for (name, records, read_only) in [("b", false, false), ("c", true, true)] {
        let mut options = quick(lab.options(name));
        (options.attr_records, options.read_only) = (records, read_only);
        (0..FILES).for_each(|index| lab.insert(&format!("d/f{index:02}"), b"theirs"));
        std::thread::sleep(Duration::from_millis(2200));
        let mount = lab.mount_options(options);
        assert_eq!(attributes(&mount).len(), FILES);
        std::thread::sleep(Duration::from_millis(900));
        assert!(lab.store.object(RECORD).is_none(), "{name}");
    }
}
