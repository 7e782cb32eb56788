//! Where things are on the machine that runs the tests.

use std::path::{Path, PathBuf};

/// The prefix of every site's directory. Its length matters: a Unix socket lies below it.
pub const SITE_PREFIX: &str = "ec2mpi-site-";

/// The directory of the executables under test: where cargo put this one, without `deps`.
pub fn executables() -> PathBuf {
    let own = std::env::current_exe().expect("the running executable has a path");
    let folder = own.parent().expect("an executable lies in a directory");
    if folder.ends_with("deps") { folder.parent().expect("deps has a parent").into() } else { folder.into() }
}

/// One executable under test.
///
/// # Panics
/// When it has not been built.
pub fn executable(name: &str) -> PathBuf {
    let path = executables().join(name);
    assert!(path.is_file(), "{} is missing: build it with `cargo build --release --workspace --bins`", path.display());
    path
}

/// The Python of the tests, with boto3 and grpcio; `make setup` makes it beside the `release` directory.
///
/// # Panics
/// When it has not been made.
pub fn python() -> PathBuf {
    let path = executables().join("../venv/bin/python");
    assert!(path.exists(), "{} is missing: run `make setup`", path.display());
    path
}

/// The aws command line of the tests.
///
/// # Panics
/// When it has not been made.
pub fn aws() -> PathBuf {
    let path = executables().join("../awscli/bin/aws");
    assert!(path.exists(), "{} is missing: run `make setup`", path.display());
    path
}

/// A file of `tests/programs`.
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// The directory of the protocol files.
pub fn protocol() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/src")
}
