//! Attribute records: one object for a directory of many files, with what HEAD says of each, so that who lists the
//! directory in a mount that knows nothing needs one GET and not a HEAD for every file.
//!
//! A record is only a help. An entry is believed where the listing shows the version that it is about, and that version
//! was seen when it was at least [`RACY`] old: whatever changes an object later shows in its ETag, size or time. A record
//! that is lost, torn, foreign, or older than that of another node is a miss. [`format`] is what it looks like, [`read`] who
//! believes it, [`write`] who makes it.

mod format;
mod read;
mod write;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::tree::{Ino, join};

/// Where in the volume's prefix the records are, and what each is called there; the name is not shown and cannot be used.
pub(crate) const DIRECTORY: &str = ".ec2mpi-attrs";
/// S3's clock has seconds: an object changed again within this leaves no trace in a listing.
pub(crate) const RACY: Duration = Duration::from_secs(2);
/// For fewer files the HEADs are as quick.
const LEAST: usize = 32;
/// A directory of more files has no record.
const MOST: usize = 10_000;
/// A longer one is not read, and not written.
const MOST_BYTES: u64 = 8 << 20;
/// Two records of one directory are at least so far apart.
const PAUSE: Duration = Duration::from_secs(60);
/// Directories that wait for their record; more have none.
const WAITING: usize = 4096;
/// S3's limit for a key, with room for the volume's own prefix.
const MAX_KEY_BYTES: usize = 1024;

/// The key of the record of the directory at `path`; none where it would be too long.
pub(crate) fn key(path: &str) -> Option<String> {
    let key = join(&join(DIRECTORY, path), DIRECTORY);
    (key.len() < MAX_KEY_BYTES).then_some(key)
}

/// The directory that a record is about.
pub(crate) fn directory_of(key: &str) -> Option<&str> {
    let rest = key.strip_prefix(DIRECTORY)?.strip_prefix('/')?.strip_suffix(DIRECTORY)?;
    Some(rest.strip_suffix('/').unwrap_or(rest))
}

/// Directories about whose files more is known than their record says.
#[derive(Debug, Default)]
pub(crate) struct Records(Mutex<HashMap<Ino, Due>>);

/// When something of a directory became known, and when its record was last written.
#[derive(Debug, Default, Clone, Copy)]
struct Due {
    changed: Option<Instant>,
    written: Option<Instant>,
}

impl Due {
    fn is_over(self, now: Instant) -> bool {
        self.changed.is_none() && self.written.is_none_or(|written| now.saturating_duration_since(written) >= PAUSE)
    }

    fn is_due(self, now: Instant, quiet: Duration) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        self.changed.is_some_and(|changed| since(changed) >= quiet)
            && self.written.is_none_or(|written| since(written) >= PAUSE)
    }
}

impl Records {
    /// Something of a directory is known that its record does not say.
    pub(crate) fn note(&self, dir: Ino) {
        let now = Instant::now();
        let mut all = self.0.lock();
        if all.len() >= WAITING {
            all.retain(|_, due| !due.is_over(now));
        }
        if all.len() < WAITING || all.contains_key(&dir) {
            all.entry(dir).or_default().changed = Some(now);
        }
    }

    /// The directories of which nothing became known for `quiet`: their records are to be written now.
    fn take(&self, quiet: Duration) -> Vec<Ino> {
        let now = Instant::now();
        let mut all = self.0.lock();
        all.retain(|_, due| !due.is_over(now));
        let due = all.iter_mut().filter(|(_, due)| due.is_due(now, quiet));
        due.map(|(dir, due)| {
            due.changed = None;
            *dir
        })
        .collect()
    }

    /// The record of a directory is looked at, and perhaps written.
    fn note_written(&self, dir: Ino) {
        self.0.lock().entry(dir).or_default().written = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_their_directory() {
        for path in ["", "a", "a/b c/d"] {
            assert_eq!(directory_of(&key(path).unwrap()), Some(path));
        }
        assert_eq!(key("").unwrap(), ".ec2mpi-attrs/.ec2mpi-attrs");
        assert_eq!(key(&"x".repeat(1000)), None);
        assert_eq!((directory_of("a/.ec2mpi-attrs"), directory_of(".ec2mpi-attrs/a/b")), (None, None));
    }

    #[test]
    fn a_record_comes_after_a_quiet_moment_and_not_too_often() {
        let records = Records::default();
        records.note(Ino(7));
        assert!(records.take(Duration::from_secs(1)).is_empty());
        assert_eq!(records.take(Duration::ZERO), [Ino(7)]);
        records.note(Ino(7));
        assert_eq!(records.take(Duration::ZERO), [Ino(7)]);
        records.note_written(Ino(7));
        records.note(Ino(7));
        assert!(records.take(Duration::ZERO).is_empty());
        (0..2 * WAITING as u64).for_each(|ino| records.note(Ino(ino)));
        assert_eq!(records.0.lock().len(), WAITING);
    }
}
