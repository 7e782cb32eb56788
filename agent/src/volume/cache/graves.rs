//! Data files that nobody owns any more, and that the journal as it is on disk may still name: after a power loss it
//! would look for them. They are removed when the disk has what the journal says now.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// Their places.
#[derive(Debug, Default)]
pub(crate) struct Graves(Mutex<Vec<PathBuf>>);

impl Graves {
    pub(super) fn add(&self, path: PathBuf) {
        self.0.lock().push(path);
    }

    /// Those that are there now.
    pub(super) fn take(&self) -> Self {
        Self(Mutex::new(std::mem::take(&mut *self.0.lock())))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// The journal was synced since.
    pub(crate) fn bury(self) {
        self.0.into_inner().iter().for_each(|path| remove(path));
    }
}

pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove a cache file");
    }
}
