//! The machine loses its power: what was on the local disk goes up, and what was perhaps not there is never taken for
//! what was written. The disk is not asked to forget anything; the journal is made to look as if it were another boot's.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use ec2mpi_agent::volume::Close;
use ec2mpi_agent::volume::control::Request;
use ec2mpi_agent::volume::journal::file::{JournalFile, look};
use ec2mpi_agent::volume::journal::{Op, Record};

use crate::lab::{Lab, Mount, eventually, pattern};

fn journal(lab: &Lab) -> PathBuf {
    lab.dir.path().join("cache-a/journal")
}

fn records(lab: &Lab) -> Vec<Record> {
    look(&journal(lab)).unwrap().0
}

/// The machine starts again. `keep`: what the disk has of the journal.
fn next_boot(lab: &Lab, keep: impl Fn(&Record) -> bool) {
    let other = |record| match record {
        Record::Boot { .. } => Record::Boot { id: "another boot".to_owned() },
        record => record,
    };
    let records = records(lab).into_iter().filter(keep).map(other);
    JournalFile::rewrite(&journal(lab), records).unwrap();
}

/// Whether the journal says that the bytes of `path` are on disk.
fn is_on_disk(lab: &Lab, path: &str) -> bool {
    let records = records(lab);
    let is_of = |op: &Op| matches!(op, Op::Put { path: of, .. } if of == path);
    records.iter().any(|record| match record {
        Record::Begin { op, on_disk: true, .. } => is_of(op),
        Record::Begin { seq, op, .. } | Record::Open { seq, op, .. } if is_of(op) => {
            records.iter().any(|record| matches!(record, Record::Synced { seqs } if seqs.contains(seq)))
        }
        _ => false,
    })
}

fn lost(lab: &Lab) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(lab.dir.path().join("cache-a/lost+found")).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_none_or(|end| end != "json"))
        .map(|path| fs::read(path).unwrap())
        .collect()
}

fn mounted(lab: &Lab, close: Close) -> Mount {
    let mut options = lab.options("a");
    options.close = close;
    let mount = lab.mount_options(options);
    // What is not there is known, should S3 be away then.
    assert!(mount.names("").len() <= 20);
    mount
}

/// The power is gone.
fn crash(mount: Mount) {
    mount.crash();
    // Threads that were at work have seen it by now: they must not find an S3 that is there again.
    std::thread::sleep(Duration::from_millis(500));
}

#[test]
fn a_closed_file_is_on_disk_about_a_second_later() {
    let lab = Lab::new();
    let mount = lab.mount();
    assert!(mount.names("").is_empty());
    lab.store.set_outage(true);
    mount.write("f", &pattern(100_000, 1));
    mount.write("large", &pattern(20 << 20, 2));
    eventually("both are on disk", || is_on_disk(&lab, "f") && is_on_disk(&lab, "large"));
    crash(mount);
    next_boot(&lab, |_| true);
    lab.store.set_outage(false);
    let mount = lab.mount();
    mount.drain();
    assert!(lab.body("f") == pattern(100_000, 1) && lab.body("large") == pattern(20 << 20, 2));
}

#[test]
fn what_was_perhaps_not_on_disk_is_set_aside_and_said() {
    let lab = Lab::new();
    lab.insert("edited", b"as it was");
    lab.insert("final", b"the old one");
    let mount = lab.mount();
    assert_eq!(mount.read("edited"), b"as it was");
    assert_eq!(mount.names("").len(), 2);
    lab.store.set_outage(true);
    mount.write("kept", b"kept");
    let mut open = File::create(mount.path("open")).unwrap();
    open.write_all(b"never closed").unwrap();
    let edited = File::options().write(true).open(mount.path("edited")).unwrap();
    edited.write_all_at(b"IS", 3).unwrap();
    drop(edited);
    mount.write("new", b"new");
    mount.write("tmp", b"the new one");
    fs::rename(mount.path("tmp"), mount.path("final")).unwrap();
    crash(mount);
    drop(open);
    // The group that came to the disk had only one of them.
    let records = records(&lab);
    let seq = records.iter().find_map(|record| match record {
        Record::Begin { seq, op, .. } if op.subject() == "kept" => Some(*seq),
        _ => None,
    });
    next_boot(&lab, |record| !matches!(record, Record::Synced { .. }));
    let synced = Record::Synced { seqs: vec![seq.unwrap()] };
    JournalFile::resume(&journal(&lab)).unwrap().append(&synced).unwrap();
    lab.store.set_outage(false);

    let mount = lab.mount();
    let answer = mount.ask(&Request::Drain { timeout_seconds: 30 });
    assert!(!answer.ok, "{answer:?}");
    let mut failed: Vec<&str> = answer.status.failures.iter().map(|failure| failure.path.as_str()).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["edited", "new", "open", "tmp"], "S3 has {:?}", lab.store.keys());
    assert!(answer.status.failures.iter().all(|failure| failure.error.contains("the machine went down")));
    let mut set_aside = lost(&lab);
    set_aside.sort();
    assert_eq!(set_aside, [&b"as IS was"[..], b"never closed", b"new", b"the new one"].map(<[u8]>::to_vec).to_vec());
    assert_eq!((lab.body("kept"), lab.body("edited")), (b"kept".to_vec(), b"as it was".to_vec()));
    // A move of what is lost moves nothing, least of all something older.
    assert_eq!(lab.body("final"), b"the old one");
    assert_eq!(lab.store.keys(), ["edited", "final", "kept"]);
    assert_eq!((answer.status.dirty_files, answer.status.conflicts), (0, 0));
    eventually("the names show what S3 has", || {
        mount.epoch();
        mount.names("") == ["edited", "final", "kept"]
    });
    assert_eq!((mount.read("edited"), mount.read("final")), (b"as it was".to_vec(), b"the old one".to_vec()));
    mount.unmount();
    assert_eq!(lost(&lab).len(), 4);
}

/// The upload was done, and the disk knows neither that nor that the bytes were there.
#[test]
fn what_s3_has_all_the_same_is_not_lost() {
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("f", b"uploaded");
    mount.drain();
    crash(mount);
    next_boot(&lab, |record| !matches!(record, Record::Synced { .. } | Record::Done { .. }));
    assert!(records(&lab).iter().any(|record| matches!(record, Record::Begin { .. })));
    let mount = lab.mount();
    mount.drain();
    assert_eq!((mount.read("f"), lost(&lab).len()), (b"uploaded".to_vec(), 0));
}

#[test]
fn a_stop_in_good_order_leaves_everything_on_disk() {
    let lab = Lab::new();
    let mount = lab.mount();
    assert!(mount.names("").is_empty());
    lab.store.set_outage(true);
    mount.write("f", b"closed a moment ago");
    mount.unmount();
    assert!(is_on_disk(&lab, "f"));
    next_boot(&lab, |_| true);
    lab.store.set_outage(false);
    let mount = lab.mount();
    mount.drain();
    assert_eq!(lab.body("f"), b"closed a moment ago");
}

/// Which of the ways to close has a file on disk when close returns, twenty times.
#[test]
fn close_to_disk_has_it_on_disk_at_once() {
    for (close, at_once) in [(Close::Disk, true), (Close::Local, false)] {
        let lab = Lab::new();
        let mount = mounted(&lab, close);
        lab.store.set_outage(true);
        let names: Vec<String> = (0..20).map(|number| format!("f{number}")).collect();
        let found = names.iter().filter(|name| {
            mount.write(name, name.as_bytes());
            is_on_disk(&lab, name)
        });
        let found = found.count();
        // Without it a group may have come along, but not for each.
        assert!(if at_once { found == 20 } else { found < 20 }, "{close:?}: {found}");
        if !at_once {
            continue;
        }
        crash(mount);
        next_boot(&lab, |_| true);
        lab.store.set_outage(false);
        let mount = mounted(&lab, close);
        mount.drain();
        assert!(names.iter().all(|name| lab.body(name) == name.as_bytes()));
    }
}

/// Another descriptor is closed while the file stays open: with `--close=disk` that much is on disk.
#[test]
fn close_to_disk_of_one_of_two() {
    let lab = Lab::new();
    let mount = mounted(&lab, Close::Disk);
    lab.store.set_outage(true);
    let mut open = File::create(mount.path("f")).unwrap();
    open.write_all(b"half").unwrap();
    drop(open.try_clone().unwrap());
    assert!(is_on_disk(&lab, "f"));
    fs::rename(mount.path("f"), mount.path("g")).unwrap();
    assert!(is_on_disk(&lab, "g"), "under its new name too");
    crash(mount);
    drop(open);
    next_boot(&lab, |_| true);
    lab.store.set_outage(false);
    let mount = mounted(&lab, Close::Disk);
    mount.drain();
    assert_eq!((lab.body("g"), lab.store.keys()), (b"half".to_vec(), vec!["g".to_owned()]));
}

/// fsync does not wait for the local disk, nor does what it promises depend on it.
#[test]
fn what_was_synced_is_in_s3_whatever_the_disk_has() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut file = File::create(mount.path("f")).unwrap();
    for round in 0..5_u8 {
        file.write_all(&[round; 1000]).unwrap();
        file.sync_all().unwrap();
    }
    crash(mount);
    drop(file);
    fs::remove_file(journal(&lab)).unwrap();
    let mount = lab.mount();
    mount.drain();
    assert_eq!((lab.body("f").len(), lost(&lab).len()), (5000, 0));
    assert_eq!(mount.read("f").len(), 5000);
}
