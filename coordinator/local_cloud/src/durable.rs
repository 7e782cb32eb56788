//! Files that are either the old or the new version, never a torn one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Which deaths a write must outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlive {
    /// Of this process.
    Process,
    /// Of the machine as well: synced to disk.
    Host,
}

/// Replaces `path` by `bytes`, readable by the owner only.
pub(crate) fn replace(path: &Path, bytes: &[u8], outlive: Outlive) -> io::Result<()> {
    let next = sibling(path)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(bytes)?;
    if outlive == Outlive::Host {
        file.sync_all()?;
    }
    std::fs::rename(&next, path)?;
    match (outlive, path.parent()) {
        (Outlive::Host, Some(parent)) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// `replace` with `value` as JSON.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T, outlive: Outlive) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    replace(path, &bytes, outlive)
}

/// What `save` wrote; none where there is no such file.
///
/// Fails with `InvalidData`, naming the file, when it holds something else.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

/// Removes a file that may be gone already.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory with all it holds; it may be gone already.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A name beside `path` that no other process or thread writes to.
fn sibling(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut next = name.to_os_string();
    next.push(format!(".{}.next", uuid::Uuid::new_v4().simple()));
    Ok(path.with_file_name(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        save(&path, &vec![1, 2, 3], Outlive::Host).unwrap();
        save(&path, &vec![4], Outlive::Process).unwrap();
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), Some(vec![4]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn names_the_file_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken.json");
        assert!(load::<u32>(&path).unwrap().is_none());
        std::fs::write(&path, b"{").unwrap();
        let error = load::<u32>(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("broken.json"), "{error}");
    }
}
