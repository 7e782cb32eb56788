//! The file in the cache directory that tells this volume's objects from another's, and whether there may be any.
//!
//! Its space is taken when it is made: the first part is often spilled because the disk is full.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};
use uuid::Uuid;

/// More than the id takes.
const SPACE: i64 = 64;

/// The file, open.
#[derive(Debug)]
pub(super) struct Mark {
    /// The objects' own directory.
    pub(super) id: Uuid,
    file: File,
    /// An earlier process may have left objects.
    old: bool,
    set: AtomicBool,
}

impl Mark {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // One that was torn was never used: it is on disk before the first object is made.
        let known = text.trim().parse::<Uuid>().ok();
        if known.is_none() {
            // Where the file system has no such thing, there is no promise to spill onto a full disk either.
            let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, SPACE);
            file.sync_all()?;
            crate::durable::sync_dir(path.parent().unwrap_or(path))?;
        }
        let old = known.is_some();
        Ok(Self { id: known.unwrap_or_else(Uuid::new_v4), file, old, set: AtomicBool::new(old) })
    }

    /// From now on there may be objects.
    pub(super) fn set(&self) -> io::Result<()> {
        if !self.set.load(Ordering::SeqCst) {
            self.file.write_all_at(self.id.simple().to_string().as_bytes(), 0)?;
            self.file.sync_all()?;
            self.set.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Whether an earlier process may have left objects.
    pub(super) fn was_set(&self) -> bool {
        self.old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_kept_once_it_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spills");
        let (first, second) = (Mark::open(&path).unwrap(), Mark::open(&path).unwrap());
        assert!(first.id != second.id && !second.was_set());
        second.set().unwrap();
        let third = Mark::open(&path).unwrap();
        assert_eq!((third.id, third.was_set()), (second.id, true));
        std::fs::write(&path, b"0123").unwrap();
        assert!(!Mark::open(&path).unwrap().was_set());
    }
}
