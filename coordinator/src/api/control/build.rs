//! Which build this is.

use std::io;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// Version, for people.
pub fn build_name() -> &'static str {
    concat!("ec2mpi ", env!("CARGO_PKG_VERSION"))
}

/// SHA-256 of the executable that this process was started from, hexadecimal; still so when the file was replaced.
pub fn build_id() -> io::Result<String> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id.clone());
    }
    let mut hasher = Sha256::new();
    io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut hasher)?;
    Ok(ID.get_or_init(|| hex::encode(hasher.finalize())).clone())
}
