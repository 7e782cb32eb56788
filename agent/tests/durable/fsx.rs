//! fsx on a server that does as it is told, and on one that is busy, resets connections and loses answers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ec2mpi_tests::lab::Faults;

use crate::fsx_program::{self, LENGTH};
use crate::place::Place;
use crate::soak;

/// Seeds at a time: fsx waits for S3 most of the time.
const PARALLEL: usize = 4;

/// How many requests failed.
fn run(place: &Place, seed: u32, operations: u32, faults: &Faults) -> u64 {
    place.lab.set(*faults);
    let mount = place.mount("a", |options| options.bounds.cache_bytes = 2 * LENGTH);
    fsx_program::run(&mount.path("f"), place.dir.path(), seed, operations);
    let bytes = std::fs::read(mount.path("f")).unwrap();
    mount.drain();
    assert!(place.object("f").unwrap() == bytes, "seed {seed}: S3 has something else");
    let other = place.mount("b", |_| {});
    assert!(std::fs::read(other.path("f")).unwrap() == bytes, "seed {seed}: another node reads something else");
    assert_eq!(mount.conflicts() + other.conflicts(), 0, "seed {seed}: a conflict was invented");
    assert_eq!(place.keys(), ["f"], "seed {seed}");
    place.lab.counts().faults()
}

/// Runs all seeds; the fewest requests that failed in one of them.
fn run_all(seeds: std::ops::RangeInclusive<u32>, operations: u32, faults: &Faults) -> u64 {
    // All of them before there is a second thread.
    let places: Vec<(u32, Place)> = seeds.map(|seed| (seed, Place::new("fsx"))).collect();
    let (next, fewest) = (AtomicUsize::new(0), AtomicU64::new(u64::MAX));
    let work = || {
        while let Some((seed, place)) = places.get(next.fetch_add(1, Ordering::SeqCst)) {
            let faults = run(place, *seed, operations, faults);
            println!("fsx: seed {seed}, {operations} operations, {faults} faults, no mismatch, no conflict copy");
            fewest.fetch_min(faults, Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| (0..PARALLEL).for_each(|_| drop(scope.spawn(work))));
    fewest.into_inner()
}

#[test]
fn fsx_finds_nothing_on_a_server() {
    let (seeds, operations) = soak((1..=1, 1_500), (1..=5, 20_000));
    run_all(seeds, operations, &Faults::default());
}

#[test]
fn fsx_finds_nothing_when_s3_fails_now_and_then() {
    let (seeds, operations) = soak((1..=1, 1_500), (1..=20, 5_000));
    let faults = Faults { throttled: 0.05, reset: 0.02, lost: 0.01, ..Faults::default() };
    assert!(run_all(seeds, operations, &faults) > 0, "a seed met no fault");
}
