//! Several nodes on one bucket.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use ec2mpi_agent::volume::control::Request;

use crate::lab::{Lab, Mount, eventually, pattern};

fn conflicts(mount: &Mount) -> u64 {
    mount.ask(&Request::Status).status.conflicts
}

#[test]
fn the_loser_of_a_race_is_kept_beside_the_winner() {
    let lab = Lab::new();
    lab.insert("f", b"base");
    let (a, b) = (lab.mount_as("a"), lab.mount_as("b"));
    let open = |mount: &Mount| OpenOptions::new().read(true).write(true).open(mount.path("f")).unwrap();
    let (one, two) = (open(&a), open(&b));
    one.write_all_at(b"AAAA", 0).unwrap();
    two.write_all_at(b"BBBB", 0).unwrap();
    drop(one);
    a.drain();
    drop(two);
    b.drain();
    assert_eq!(lab.body("f"), b"AAAA");
    assert_eq!((conflicts(&a), conflicts(&b)), (0, 1));
    let copy = lab.store.keys().into_iter().find(|key| key.starts_with("f.conflict-b-")).unwrap();
    assert_eq!(lab.body(&copy), b"BBBB");
    b.epoch();
    assert_eq!(b.read("f"), b"AAAA");
    assert_eq!(b.read(&copy), b"BBBB");
    a.epoch();
    assert_eq!(a.names(""), ["f".to_owned(), copy]);
}

#[test]
fn a_file_that_both_create_is_never_lost() {
    let lab = Lab::new();
    let (a, b) = (lab.mount_as("a"), lab.mount_as("b"));
    for round in 0..10 {
        let name = format!("f{round}");
        let (one, two) = (File::create(a.path(&name)).unwrap(), File::create(b.path(&name)).unwrap());
        (&one).write_all(b"from a").unwrap();
        (&two).write_all(b"from b").unwrap();
        drop((one, two));
    }
    a.drain();
    b.drain();
    assert_eq!(conflicts(&a) + conflicts(&b), 10);
    for round in 0..10 {
        let mut bodies: Vec<_> = lab
            .store
            .keys()
            .into_iter()
            .filter(|key| *key == format!("f{round}") || key.starts_with(&format!("f{round}.conflict")))
            .map(|key| lab.body(&key))
            .collect();
        bodies.sort();
        assert_eq!(bodies, [b"from a", b"from b"]);
    }
}

#[test]
fn after_a_barrier_everybody_sees_everything() {
    let lab = Lab::new();
    let mut options = lab.options("b");
    options.attr_ttl = Duration::from_secs(600);
    let (a, b) = (lab.mount_as("a"), lab.mount_options(options));
    a.write("f", b"one");
    a.write("gone", b"gone");
    fs::create_dir(a.path("d")).unwrap();
    a.drain();
    assert_eq!(b.names(""), ["d", "f", "gone"]);
    assert_eq!(b.read("f"), b"one");
    assert!(!b.path("later").exists());
    for round in 0..5_u8 {
        let bytes = [round; 3];
        a.write("f", &bytes);
        a.write("later", &bytes);
        a.write("d/new", &bytes);
        let _ = fs::remove_file(a.path("gone"));
        a.drain();
        b.epoch();
        assert_eq!(b.read("f"), bytes);
        assert_eq!(b.read("later"), bytes);
        assert_eq!(b.read("d/new"), bytes);
        assert!(!b.path("gone").exists());
        assert_eq!(b.names(""), ["d", "f", "later"]);
        assert_eq!(b.path("later").metadata().unwrap().len(), 3);
    }
}

#[test]
fn without_a_barrier_within_the_attribute_time() {
    let lab = Lab::new();
    let mut strict = lab.options("b");
    strict.attr_ttl = Duration::ZERO;
    let (a, b, c) = (lab.mount_as("a"), lab.mount_options(strict), lab.mount_as("c"));
    for round in 0..4_u8 {
        a.write("f", &[round; 10]);
        a.drain();
        assert_eq!(b.read("f"), [round; 10], "strict close-to-open");
        eventually("the change is seen after the attribute time", || c.read("f") == [round; 10]);
    }
}

#[test]
fn an_open_file_reads_one_version() {
    let lab = Lab::new();
    lab.insert("f", &pattern(100_000, 1));
    let mount = lab.mount();
    let mut old = File::open(mount.path("f")).unwrap();
    let mut head = vec![0; 1000];
    old.read_exact(&mut head).unwrap();
    let old_inode = old.metadata().unwrap().ino();
    lab.insert("f", &pattern(100_000, 2));
    mount.epoch();
    assert!(mount.read("f") == pattern(100_000, 2));
    assert_ne!(mount.path("f").metadata().unwrap().ino(), old_inode, "a version is an inode");
    let mut rest = Vec::new();
    old.read_to_end(&mut rest).unwrap();
    head.extend(rest);
    assert!(head == pattern(100_000, 1), "bytes of two versions were mixed");
}

#[test]
fn bytes_of_a_replaced_version_that_were_never_fetched_are_an_error() {
    let lab = Lab::new();
    // More than what is fetched whole as soon as somebody reads it.
    lab.insert("f", &pattern(80 << 20, 1));
    let mount = lab.mount();
    let old = File::open(mount.path("f")).unwrap();
    let mut head = vec![0; 1000];
    old.read_exact_at(&mut head, 0).unwrap();
    lab.insert("f", &pattern(80 << 20, 2));
    let error = old.read_exact_at(&mut head, 75 << 20).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ESTALE | libc::EIO)), "{error}");
}

#[test]
fn the_mode_that_somebody_else_changed_is_seen() {
    let lab = Lab::new();
    let (a, b) = (lab.mount_as("a"), lab.mount_as("b"));
    a.write("f", b"x");
    a.drain();
    assert_eq!(b.path("f").metadata().unwrap().mode() & 0o777, 0o644);
    fs::set_permissions(a.path("f"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    a.drain();
    b.epoch();
    assert_eq!(b.path("f").metadata().unwrap().mode() & 0o777, 0o600);
}

#[test]
fn what_somebody_else_wrote_is_not_deleted_with_the_old_version() {
    let lab = Lab::new();
    lab.insert("f", b"old");
    let mount = lab.mount();
    assert_eq!(mount.read("f"), b"old");
    lab.store.set_latency(Duration::from_millis(200));
    fs::remove_file(mount.path("f")).unwrap();
    lab.insert("f", b"new, by somebody else");
    lab.store.set_latency(Duration::ZERO);
    mount.drain();
    assert_eq!(lab.body("f"), b"new, by somebody else");
    mount.epoch();
    assert_eq!(mount.read("f"), b"new, by somebody else");
}
