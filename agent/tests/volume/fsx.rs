//! fsx: random reads, writes, maps, cuts and holes of one file, each read compared with what must be there.

use std::process::Command;

use crate::lab::{Lab, soak, tool};

/// Bytes of the file at most.
const LENGTH: u64 = 512 << 10;

/// Every weight is above zero: with the defaults a file is never closed, and only the page cache would be tested.
const CONFIGURATION: &str = "
flen = 524288
[opsize]
max = 65536
[weights]
close_open = 2
invalidate = 2
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 5
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 2
punch_hole = 3
sendfile = 3
posix_fadvise = 2
copy_file_range = 3
";

fn run(seed: u32, operations: u32) {
    let lab = Lab::new();
    let mut options = lab.options("a");
    options.bounds.cache_bytes = 2 * LENGTH;
    let mount = lab.mount_options(options);
    let configuration = lab.dir.path().join("fsx.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    let mut command = Command::new(tool("fsx"));
    command.arg("-f").arg(&configuration).args(["-S", &seed.to_string(), "-N", &operations.to_string()]);
    command.arg("-P").arg(lab.dir.path()).arg(mount.path("f"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
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
