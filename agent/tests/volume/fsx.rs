//! fsx on a store that does not fail.

use crate::fsx_program::{self, LENGTH};
use crate::lab::{Lab, soak};

fn run(seed: u32, operations: u32) {
    let lab = Lab::new();
    let mut options = lab.options("a");
    options.bounds.cache_bytes = 2 * LENGTH;
    let mount = lab.mount_options(options);
    fsx_program::run(&mount.path("f"), lab.dir.path(), seed, operations);
    let bytes = mount.read("f");
    mount.drain();
    assert!(lab.body("f") == bytes, "seed {seed}: S3 has something else");
    mount.unmount();
    let empty = lab.elsewhere();
    assert!(empty.read("f") == bytes, "seed {seed}: another node reads something else");
    assert_eq!(lab.store.keys(), ["f"], "no conflict was invented");
    println!("fsx: seed {seed}, {operations} operations, {} bytes in the end, no mismatch", bytes.len());
}

#[test]
fn fsx_finds_nothing() {
    let (seeds, operations) = if soak() { (1..=5, 20_000) } else { (1..=2, 1_500) };
    seeds.for_each(|seed| run(seed, operations));
}
