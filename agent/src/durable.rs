//! Crash-safe writes of small files.
//!
//! A file is replaced by writing a neighbour, syncing it, renaming it over the old one and syncing the directory: after
//! a crash at any instant there is the old content or the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces the content of `path` durably; the file has the permission bits `mode` from its first instant.
pub fn overwrite(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().ok_or_else(|| io::Error::other("a path without a file name"))?.to_owned();
    name.push(".new");
    let neighbour = path.with_file_name(name);
    match std::fs::remove_file(&neighbour) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&neighbour)?;
    file.write_all(content)?;
    file.sync_all()?;
    rename(&neighbour, path)
}

/// Renames durably within one directory.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    sync_directory_of(to)
}

/// Makes the name of `path` in its directory durable.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        overwrite(&path, b"one", 0o600).unwrap();
        std::fs::write(dir.path().join("f.new"), b"left by a crash").unwrap();
        overwrite(&path, b"two", 0o640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
