//! Several nodes want the same name: one gets it, and nobody's bytes are lost.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::time::Duration;

use ec2mpi_agent::volume::Excl;
use ec2mpi_tests::lab::Faults;

use crate::place::{Mount, Place};
use crate::soak;

fn rewrite(mount: &Mount, name: &str, bytes: &[u8]) {
    let file = OpenOptions::new().read(true).write(true).open(mount.path(name)).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

#[test]
fn of_two_writers_one_wins_and_the_other_is_kept_every_time() {
    let place = Place::new("race");
    // Lost replies must not look like a lost race.
    place.lab.set(Faults { latency_ms: 2, lost: 0.02, throttled: 0.02, ..Faults::default() });
    let rounds = soak(25, 200);
    let (a, b) = (place.mount("a", |_| {}), place.mount("b", |_| {}));
    for round in 0..rounds {
        std::fs::write(a.path(&format!("f{round}")), b"the base of both").unwrap();
    }
    a.drain();
    b.epoch();
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        for (mount, letter) in [(&a, b'A'), (&b, b'B')] {
            let barrier = &barrier;
            scope.spawn(move || {
                for round in 0..rounds {
                    let name = format!("f{round}");
                    let file = OpenOptions::new().read(true).write(true).open(mount.path(&name)).unwrap();
                    barrier.wait();
                    file.write_all_at(&[letter; 16], 0).unwrap();
                    drop(file);
                }
            });
        }
    });
    a.drain();
    b.drain();
    let keys = place.keys();
    let mut detected = 0;
    for round in 0..rounds {
        let name = format!("f{round}");
        let copies: Vec<&String> = keys.iter().filter(|key| key.starts_with(&format!("{name}.conflict-"))).collect();
        assert_eq!(copies.len(), 1, "{name}: {copies:?}");
        let (winner, loser) = (place.object(&name).unwrap(), place.object(copies[0]).unwrap());
        let node = if loser[0] == b'A' { "a" } else { "b" };
        assert!(copies[0].starts_with(&format!("{name}.conflict-{node}-")), "{copies:?}");
        let mut both = [winner, loser];
        both.sort();
        assert_eq!(both, [vec![b'A'; 16], vec![b'B'; 16]], "{name}");
        detected += 1;
    }
    let counted = a.conflicts() + b.conflicts();
    println!("rounds {rounds}, detected {detected}, counted {counted}, keys {}", keys.len());
    assert_eq!((detected, counted, keys.len()), (rounds, rounds, 2 * rounds as usize));
    // One writer after the other is no race.
    a.epoch();
    rewrite(&a, "f0", b"from a, later on");
    a.drain();
    b.epoch();
    rewrite(&b, "f0", b"from b, after it");
    b.drain();
    assert_eq!(a.conflicts() + b.conflicts(), rounds);
    assert_eq!(place.object("f0").unwrap(), b"from b, after it");
}

/// How many of the mounts create `name` with O_EXCL at the same moment.
fn winners(mounts: &[Mount], name: &str) -> usize {
    let barrier = Barrier::new(mounts.len());
    let create = |number: usize, mount: &Mount| {
        barrier.wait();
        match File::create_new(mount.path(name)) {
            Ok(mut file) => {
                write!(file, "{number}").unwrap();
                true
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => panic!("{name}: {error}"),
        }
    };
    std::thread::scope(|scope| {
        let create = &create;
        let running: Vec<_> =
            mounts.iter().enumerate().map(|(number, mount)| scope.spawn(move || create(number, mount))).collect();
        running.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
    })
}

fn eight(place: &Place, excl: Excl) -> Vec<Mount> {
    (0..8).map(|node| place.mount(&format!("n{node}"), |options| options.excl = excl)).collect()
}

#[test]
fn o_excl_of_the_cluster_has_one_winner() {
    let place = Place::new("excl");
    place.lab.set(Faults { latency_ms: 1, lost: 0.01, throttled: 0.01, ..Faults::default() });
    let mounts = eight(&place, Excl::Cluster);
    let rounds = soak(12, 100);
    for round in 0..rounds {
        assert_eq!(winners(&mounts, &format!("f{round}")), 1, "round {round}");
    }
    mounts.iter().for_each(Mount::drain);
    println!("rounds {rounds}, one winner in each of them");
    assert_eq!(mounts.iter().map(Mount::conflicts).sum::<u64>(), 0);
    assert_eq!(place.keys().len(), rounds);
    for round in 0..rounds {
        assert_eq!(place.object(&format!("f{round}")).unwrap().len(), 1);
    }
}

#[test]
fn o_excl_of_the_node_finds_the_losers_at_the_upload() {
    let place = Place::new("excl-node");
    place.lab.set(Faults { latency_ms: 5, ..Faults::default() });
    let mounts = eight(&place, Excl::Node);
    let rounds = soak(8, 100);
    let winners: usize = (0..rounds).map(|round| winners(&mounts, &format!("f{round}"))).sum();
    mounts.iter().for_each(Mount::drain);
    let conflicts = mounts.iter().map(Mount::conflicts).sum::<u64>();
    println!("rounds {rounds}, winners {winners}, found at the upload {conflicts}");
    assert_eq!(conflicts as usize, winners - rounds);
    assert_eq!(place.keys().len(), winners, "every winner's file is there, under its name or beside it");
}

#[test]
fn o_excl_of_the_cluster_needs_s3() {
    let place = Place::new("excl-away");
    let mount = place.mount("a", |options| options.excl = Excl::Cluster);
    assert_eq!(std::fs::read_dir(&mount.root).unwrap().count(), 0);
    place.lab.set(Faults { outage: Some(ec2mpi_tests::lab::Outage::Reset), ..Faults::default() });
    let begun = std::time::Instant::now();
    let error = File::create_new(mount.path("f")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(begun.elapsed() < Duration::from_secs(30));
    place.lab.set(Faults::default());
    let mut file = loop {
        match File::create_new(mount.path("f")) {
            Ok(file) => break file,
            Err(_) => assert!(begun.elapsed() < Duration::from_secs(60)),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    file.write_all(b"mine").unwrap();
    drop(file);
    mount.drain();
    assert_eq!((place.object("f").unwrap(), mount.conflicts()), (b"mine".to_vec(), 0));
}
