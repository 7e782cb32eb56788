//! The bytes of objects: immutable files named by a UUID, shared by all objects and parts that contain them.
//!
//! A blob is kept while it has users: entries of the index that name it, and [`Pin`]s (uploads not yet committed,
//! replies not yet sent). The file of a blob without users is removed; one left by a killed process is removed at the
//! next start.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A piece of a blob. Objects are sequences of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    pub(super) blob: Uuid,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The pieces that make up `range` of the bytes that `extents` make up.
pub(super) fn slice(extents: &[Extent], range: Range<u64>) -> Vec<Extent> {
    let mut pieces = Vec::new();
    let mut position = 0;
    for extent in extents {
        let start = range.start.clamp(position, position + extent.length);
        let end = range.end.clamp(position, position + extent.length);
        if start < end {
            let offset = extent.offset + (start - position);
            pieces.push(Extent { blob: extent.blob, offset, length: end - start });
        }
        position += extent.length;
    }
    pieces
}

/// The directory of blobs.
#[derive(Debug)]
pub(super) struct Blobs {
    directory: PathBuf,
    users: Mutex<HashMap<Uuid, usize>>,
}

impl Blobs {
    /// Opens the directory (made when absent) with one user for every item of `live`; other files are removed.
    pub(super) fn open(directory: &Path, live: impl Iterator<Item = Uuid>) -> io::Result<Arc<Self>> {
        for shard in 0..=u8::MAX {
            fs::create_dir_all(directory.join(format!("{shard:02x}")))?;
        }
        let mut users = HashMap::new();
        for id in live {
            *users.entry(id).or_default() += 1;
        }
        sweep(directory, &users)?;
        Ok(Arc::new(Self { directory: directory.to_owned(), users: Mutex::new(users) }))
    }

    /// A new, empty blob, kept by the pin alone.
    pub(super) fn create(self: &Arc<Self>) -> io::Result<(Pin, Uuid, File)> {
        let id = Uuid::new_v4();
        let file = OpenOptions::new().write(true).create_new(true).open(self.path(id))?;
        Ok((self.pin([id]), id, file))
    }

    /// The file of a blob, for reading.
    pub(super) fn read(&self, id: Uuid) -> io::Result<File> {
        File::open(self.path(id))
    }

    /// Keeps blobs for as long as the pin lives. They must have a user now.
    pub(super) fn pin(self: &Arc<Self>, ids: impl IntoIterator<Item = Uuid>) -> Pin {
        let ids: Vec<Uuid> = ids.into_iter().collect();
        self.retain(&ids);
        Pin { blobs: Arc::clone(self), ids }
    }

    /// One more user of each.
    pub(super) fn retain(&self, ids: &[Uuid]) {
        let mut users = self.users.lock();
        for id in ids {
            *users.entry(*id).or_default() += 1;
        }
    }

    /// One user less of each; the files of those without users are removed.
    pub(super) fn release(&self, ids: &[Uuid]) {
        let unused = self.forget(ids);
        for id in unused {
            if let Err(error) = fs::remove_file(self.path(id)) {
                tracing::warn!(blob = %id, %error, "an unused blob was not removed");
            }
        }
    }

    fn forget(&self, ids: &[Uuid]) -> Vec<Uuid> {
        let mut users = self.users.lock();
        let mut unused = Vec::new();
        for id in ids {
            let left = users.get(id).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                users.remove(id);
                unused.push(*id);
            } else {
                users.insert(*id, left);
            }
        }
        unused
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.directory.join(shard(id)).join(id.simple().to_string())
    }
}

/// Keeps blobs alive.
#[derive(Debug)]
pub(super) struct Pin {
    blobs: Arc<Blobs>,
    ids: Vec<Uuid>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.blobs.release(&self.ids);
    }
}

fn shard(id: Uuid) -> String {
    format!("{:02x}", id.as_bytes()[0])
}

/// Removes every file that is no blob of `users`, and says which blobs have no file.
fn sweep(directory: &Path, users: &HashMap<Uuid, usize>) -> io::Result<()> {
    let mut found = 0;
    for shard in fs::read_dir(directory)? {
        for entry in fs::read_dir(shard?.path())? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| Uuid::try_parse(name).ok());
            if id.is_some_and(|id| users.contains_key(&id)) {
                found += 1;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    if found != users.len() {
        tracing::error!(wanted = users.len(), found, "blobs are missing: their objects cannot be read");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().map(|shard| fs::read_dir(shard.unwrap().path()).unwrap().count()).sum()
    }

    #[test]
    fn slices_cross_extents() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let whole = [Extent { blob: a, offset: 10, length: 5 }, Extent { blob: b, offset: 0, length: 5 }];
        let middle = [Extent { blob: a, offset: 13, length: 2 }, Extent { blob: b, offset: 0, length: 1 }];
        assert_eq!(slice(&whole, 3..6), middle);
        assert_eq!(slice(&whole, 0..10), whole);
        assert_eq!(slice(&whole, 5..7), [Extent { blob: b, offset: 0, length: 2 }]);
        assert_eq!(slice(&whole, 4..4), []);
    }

    #[test]
    fn a_blob_lives_as_long_as_it_has_users() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(directory.path(), std::iter::empty()).unwrap();
        let (pin, id, _file) = blobs.create().unwrap();
        blobs.retain(&[id]);
        drop(pin);
        assert_eq!(files(directory.path()), 1);
        let reader = blobs.pin([id]);
        blobs.release(&[id]);
        assert_eq!(files(directory.path()), 1);
        drop(reader);
        assert_eq!(files(directory.path()), 0);
    }

    #[test]
    fn leftovers_of_a_killed_process_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(directory.path(), std::iter::empty()).unwrap();
        let (kept, id, _file) = blobs.create().unwrap();
        std::mem::forget((kept, blobs.create().unwrap()));
        fs::write(directory.path().join("00").join("junk"), "x").unwrap();
        Blobs::open(directory.path(), [id].into_iter()).unwrap();
        assert_eq!(files(directory.path()), 1);
    }
}
