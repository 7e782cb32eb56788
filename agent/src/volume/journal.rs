//! The one typed log of what S3 does not have yet.
//!
//! Every change is a [`Record`] before it is acknowledged. An operation begins ([`Record::Begin`]), perhaps replacing
//! older ones that had not started, and ends ([`Record::Done`], [`Record::Failed`]). A file that is being written has an
//! [`Record::Open`] from before its first byte is acknowledged: replay uploads what its cache file holds.
//!
//! On disk: a header, then frames of length, checksum and JSON ([`file`]). `append` reaches the page cache, which
//! survives the process; [`Journal::sync`] reaches the disk, many callers sharing one `fdatasync`. Cache files are in the
//! page cache too until a [`Record::Synced`] names their operations: see [`left`] for what another boot makes of that.

pub mod file;
pub mod left;
pub mod op;
mod sync;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::file::JournalFile;
pub use self::left::{Unfinished, unfinished};
pub use self::op::{Base, Op, Outcome};
use self::sync::Syncer;
use super::attr::{Attr, Extra};
use super::failpoint;
use super::spill::Run;

/// Position of an operation in the order of all operations of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// What follows was written in this boot of the machine, whose page cache has it.
    Boot {
        /// The kernel's name for it.
        id: String,
    },
    /// An operation is acknowledged and is to be done.
    Begin {
        /// Its position.
        seq: Seq,
        /// What to do.
        op: Op,
        /// Older operations, none of them started, that need not be done any more.
        supersedes: Vec<Seq>,
        /// Its bytes were on disk before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        on_disk: bool,
    },
    /// A file is being written; to be uploaded like a `Begin` if the process ends before it is closed.
    Open {
        /// Its position.
        seq: Seq,
        /// The upload that would be.
        op: Op,
        /// The `Open` of the same file under its old name or old cache file.
        supersedes: Vec<Seq>,
    },
    /// The bytes that unfinished operations need are on disk; of an `Open` those that were written by now.
    Synced {
        /// The operations.
        seqs: Vec<Seq>,
    },
    /// The attributes that an unfinished operation writes have changed.
    Amend {
        /// The operation.
        seq: Seq,
        /// The new attributes.
        attr: Attr,
        /// The new other headers, if they have changed too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        extra: Option<Extra>,
    },
    /// Parts of a file that is being written are in S3, and may be gone from its cache file.
    Spill {
        /// The file's `Open`.
        seq: Seq,
        /// The parts.
        run: Run,
    },
    /// Parts of a file that is being written are in its cache file only, again.
    Unspill {
        /// The file's `Open`.
        seq: Seq,
        /// The first part.
        first: u64,
        /// How many.
        count: u64,
    },
    /// An operation began a multipart upload: to be given up if the process ends before it is done.
    Upload {
        /// The operation.
        seq: Seq,
        /// The upload.
        upload: OpenUpload,
    },
    /// S3 has it, or it is not wanted any more.
    Done {
        /// The operation.
        seq: Seq,
        /// What S3 has now.
        outcome: Outcome,
    },
    /// It cannot be done; the data is in lost+found.
    Failed {
        /// The operation.
        seq: Seq,
        /// Why.
        error: String,
    },
}

/// A multipart upload that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenUpload {
    /// The key it is for.
    pub key: String,
    /// S3's name for it.
    pub id: String,
}

/// The journal of one volume, open for appending.
#[derive(Debug)]
pub struct Journal {
    boot: String,
    file: Mutex<JournalFile>,
    syncer: Syncer,
}

impl Journal {
    /// Opens the journal in `dir` and says what is left to do. What is done is dropped from the file; a torn end is set
    /// aside as `journal.torn`.
    pub fn open(dir: &Path) -> io::Result<(Self, BTreeMap<Seq, Unfinished>)> {
        Self::open_in(dir, boot_id()?)
    }

    /// [`Journal::open`] in the boot `boot` of the machine.
    pub(crate) fn open_in(dir: &Path, boot: String) -> io::Result<(Self, BTreeMap<Seq, Unfinished>)> {
        let path = dir.join("journal");
        let left = unfinished(file::read(&path)?, Some(&boot));
        let file = match JournalFile::rewrite(&path, records(&boot, &left)) {
            // The old one is as good, and has space set aside.
            Err(error) if super::limits::is_full(&error) && path.exists() => {
                let mut file = JournalFile::resume(&path)?;
                file.append(&Record::Boot { id: boot.clone() })?;
                file
            }
            result => result?,
        };
        let syncer = Syncer::start(file.handle()?)?;
        Ok((Self { boot, file: Mutex::new(file), syncer }, left))
    }

    /// Appends a record to the page cache; returns what to give to [`Journal::sync`].
    pub fn append(&self, record: &Record) -> io::Result<Position> {
        let position = self.file.lock().append(record)?;
        failpoint::hit(failpoint::JOURNAL_APPENDED);
        Ok(position)
    }

    /// Returns when everything up to `position` is on disk.
    pub async fn sync(&self, position: Position) -> io::Result<()> {
        self.syncer.sync(position).await?;
        failpoint::hit(failpoint::JOURNAL_SYNCED);
        Ok(())
    }

    /// Returns when everything that was appended before is on disk.
    pub async fn sync_all(&self) -> io::Result<()> {
        self.syncer.sync(self.position()).await
    }

    /// How much was appended so far.
    pub(crate) fn position(&self) -> Position {
        self.file.lock().position()
    }

    /// Whether everything up to `position` is known to be on disk.
    pub(crate) fn has_synced(&self, position: Position) -> bool {
        self.syncer.has_synced(position)
    }

    /// Whether the disk was too full for the space that is set aside.
    pub fn is_short(&self) -> bool {
        self.file.lock().is_short()
    }

    /// Sets space aside again.
    pub fn reserve(&self) {
        self.file.lock().reserve();
    }

    /// Whether it is worth compacting: it has grown since it was last rewritten.
    pub fn is_long(&self) -> bool {
        self.file.lock().is_long()
    }

    /// Replaces the file, durably, by one of just what is left to do. The caller keeps others from appending.
    pub fn compact(&self, left: &BTreeMap<Seq, Unfinished>) -> io::Result<()> {
        let mut file = self.file.lock();
        file.replace(records(&self.boot, left))?;
        self.syncer.replace(file.handle()?);
        Ok(())
    }
}

/// A journal of just `left`.
fn records(boot: &str, left: &BTreeMap<Seq, Unfinished>) -> impl Iterator<Item = Record> {
    let boot = Record::Boot { id: boot.to_owned() };
    std::iter::once(boot).chain(left.iter().flat_map(|(seq, entry)| entry.records(*seq)))
}

/// The kernel's name for the time since the machine was started: the page cache lives as long.
fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// How much of the journal there was after an append, over all rewritings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(pub(crate) u64);

#[cfg(test)]
mod tests;
