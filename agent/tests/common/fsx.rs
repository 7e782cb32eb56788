//! fsx: random reads, writes, maps, cuts and holes of one file, each read compared with what must be there.

use std::path::Path;
use std::process::Command;

/// Bytes of the file at most.
pub(crate) const LENGTH: u64 = 512 << 10;

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

/// `operations` on `file`; `dir` is for its own files.
pub(crate) fn run(file: &Path, dir: &Path, seed: u32, operations: u32) {
    let program = ec2mpi_tests::place::executables().join("../tools/bin/fsx");
    assert!(program.exists(), "{} is missing: run `make setup`", program.display());
    let configuration = dir.join("fsx.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    let mut command = Command::new(program);
    command.arg("-f").arg(&configuration).args(["-S", &seed.to_string(), "-N", &operations.to_string()]);
    let output = command.arg("-P").arg(dir).arg(file).output().unwrap();
    assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
}
