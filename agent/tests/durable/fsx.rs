//! fsx on an S3 that is busy, resets connections and loses answers.

use ec2mpi_tests::lab::Faults;

use crate::fsx_program::{self, LENGTH};
use crate::place::Place;
use crate::soak;

fn run(seed: u32, operations: u32) -> u64 {
    let place = Place::new("fsx");
    place.lab.set(Faults { throttled: 0.05, reset: 0.02, lost: 0.01, ..Faults::default() });
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

#[test]
fn fsx_finds_nothing_when_s3_fails_now_and_then() {
    let (seeds, operations) = soak((1..=1, 1_500), (1..=20, 5_000));
    for seed in seeds {
        let faults = run(seed, operations);
        println!("fsx: seed {seed}, {operations} operations, {faults} faults, no mismatch, no conflict copy");
        assert!(faults > 0);
    }
}
