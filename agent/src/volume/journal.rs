//! The one typed log of what S3 does not have yet.
//!
//! Every change is a [`Record`] before it is acknowledged. An operation begins ([`Record::Begin`]), perhaps replacing
//! older ones that had not started, and ends ([`Record::Done`], [`Record::Failed`]). A file that is being written has an
//! [`Record::Open`] from before its first byte is acknowledged: replay uploads what its cache file holds.
//!
//! On disk: a header, then frames of length, checksum and JSON ([`file`]). `append` reaches the page cache, which
//! survives the process; [`Journal::sync`] reaches the disk, many callers sharing one `fdatasync`.

pub mod file;
mod sync;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::file::JournalFile;
use self::sync::Syncer;
use super::attr::{Attr, Extra};
use super::cache::DataId;
use super::failpoint;
use super::spill::{self, Run};
use super::store::Etag;

/// Position of an operation in the order of all operations of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What this node believes S3 has under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// Nothing.
    Absent,
    /// This version.
    Version(Etag),
    /// Not known: an earlier operation on the key has not ended yet, and will tell.
    Unknown,
}

/// One change to be made in S3. Paths are relative to the volume, without slashes at the ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Upload a cache file.
    Put {
        /// The name of the file.
        path: String,
        /// Its bytes, all that are not spilled.
        data: DataId,
        /// Parts that S3 has in objects of this volume.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spilled: Vec<Run>,
        /// Its attributes.
        attr: Attr,
        /// Its other headers.
        extra: Extra,
        /// What it replaces.
        base: Base,
        /// Names this upload in the object's metadata.
        write: Uuid,
    },
    /// Upload a symbolic link: its target is the body.
    Symlink {
        /// The name of the link.
        path: String,
        /// Where it points.
        target: String,
        /// Its attributes.
        attr: Attr,
        /// What it replaces.
        base: Base,
        /// Names this upload.
        write: Uuid,
    },
    /// Put an empty object for a device, FIFO or socket.
    Mknod {
        /// The name.
        path: String,
        /// Its attributes.
        attr: Attr,
        /// What it replaces.
        base: Base,
        /// Names this upload.
        write: Uuid,
    },
    /// Delete an object.
    Delete {
        /// The name.
        path: String,
        /// The version that was unlinked.
        base: Base,
    },
    /// Copy an object to its new name and delete the old one.
    Rename {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
        /// The version at the old name.
        source: Base,
        /// What the new name has.
        base: Base,
        /// Bytes.
        size: u64,
        /// Attributes.
        attr: Attr,
        /// Other headers.
        extra: Extra,
        /// Names this copy.
        write: Uuid,
    },
    /// Move everything below a prefix.
    RenameDir {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
        /// The directory's attributes, which move with its marker.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attr: Option<Attr>,
    },
    /// Change the attributes of an object, or of a directory's marker.
    SetAttr {
        /// The name.
        path: String,
        /// Whether the object is the directory marker.
        directory: bool,
        /// Bytes.
        size: u64,
        /// The new attributes.
        attr: Attr,
        /// Other headers.
        extra: Extra,
        /// The version to change.
        base: Base,
        /// Names this copy.
        write: Uuid,
    },
    /// Put a directory marker where there is none.
    Mkdir {
        /// The name.
        path: String,
        /// Attributes.
        attr: Attr,
        /// Names this upload.
        write: Uuid,
    },
    /// Delete a directory marker.
    Rmdir {
        /// The name.
        path: String,
    },
}

impl Op {
    /// Every path whose object the operation touches.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Self::Put { path, .. }
            | Self::Symlink { path, .. }
            | Self::Mknod { path, .. }
            | Self::Delete { path, .. }
            | Self::SetAttr { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Rmdir { path } => vec![path],
            Self::Rename { from, to, .. } | Self::RenameDir { from, to, .. } => vec![from, to],
        }
    }

    /// The name to show a user.
    pub fn subject(&self) -> &str {
        self.paths().last().copied().unwrap_or_default()
    }

    /// Whether it touches everything below its paths.
    pub fn is_subtree(&self) -> bool {
        matches!(self, Self::RenameDir { .. } | Self::Rmdir { .. })
    }

    /// The cache file it needs.
    pub fn data(&self) -> Option<DataId> {
        match self {
            Self::Put { data, .. } => Some(*data),
            _ => None,
        }
    }

    /// Tells the operation what S3 has under one of its paths.
    pub fn set_base(&mut self, at: &str, version: &Base) {
        match self {
            Self::Put { path, base, .. }
            | Self::Symlink { path, base, .. }
            | Self::Mknod { path, base, .. }
            | Self::Delete { path, base }
            | Self::SetAttr { path, base, .. } => {
                if path == at {
                    base.clone_from(version);
                }
            }
            Self::Rename { from, to, source, base, .. } => {
                if from == at {
                    source.clone_from(version);
                }
                if to == at {
                    base.clone_from(version);
                }
            }
            Self::RenameDir { .. } | Self::Mkdir { .. } | Self::Rmdir { .. } => {}
        }
    }

    /// The spilled parts it needs.
    pub fn spilled(&self) -> &[Run] {
        match self {
            Self::Put { spilled, .. } => spilled,
            _ => &[],
        }
    }

    /// Parts of the file are in an object now.
    pub fn add_spilled(&mut self, run: Run) {
        if let Self::Put { spilled, .. } = self {
            spill::add_run(spilled, run);
        }
    }

    /// `count` parts of the file from `first` on are in its cache file again.
    pub fn remove_spilled(&mut self, first: u64, count: u64) {
        if let Self::Put { spilled, .. } = self {
            spill::remove_runs(spilled, first, count);
        }
    }

    /// Whether it writes attributes, whatever it finds. A directory that is there already keeps its own.
    pub fn has_attr(&self) -> bool {
        self.has_extra() || matches!(self, Self::Symlink { .. } | Self::Mknod { .. })
    }

    /// Whether it writes other headers than the attributes.
    pub fn has_extra(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Rename { .. } | Self::SetAttr { .. })
    }

    /// Replaces the attributes it will write, and the other headers if it has them and new ones are given.
    pub fn set_attr(&mut self, new: Attr, new_extra: Option<&Extra>) {
        match self {
            Self::Put { attr, extra, .. } | Self::Rename { attr, extra, .. } | Self::SetAttr { attr, extra, .. } => {
                *attr = new;
                new_extra.into_iter().for_each(|new_extra| extra.clone_from(new_extra));
            }
            Self::Symlink { attr, .. } | Self::Mknod { attr, .. } | Self::Mkdir { attr, .. } => *attr = new,
            Self::Delete { .. } | Self::RenameDir { .. } | Self::Rmdir { .. } => {}
        }
    }
}

/// What S3 has under a path after an operation.
pub type Outcome = Vec<(String, Base)>;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// An operation is acknowledged and is to be done.
    Begin {
        /// Its position.
        seq: Seq,
        /// What to do.
        op: Op,
        /// Older operations, none of them started, that need not be done any more.
        supersedes: Vec<Seq>,
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

/// An operation that the journal says is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// What to do.
    pub op: Op,
    /// Whether it is the `Open` of a file that was never closed.
    pub open: bool,
    /// The multipart upload it was in.
    pub upload: Option<OpenUpload>,
}

/// What is left to do after all `records`.
pub fn unfinished(records: impl IntoIterator<Item = Record>) -> BTreeMap<Seq, Unfinished> {
    let mut left = BTreeMap::new();
    for record in records {
        apply(&mut left, record);
    }
    left
}

fn apply(left: &mut BTreeMap<Seq, Unfinished>, record: Record) {
    match record {
        Record::Begin { seq, op, supersedes } => {
            supersedes.iter().for_each(|old| drop(left.remove(old)));
            left.insert(seq, Unfinished { op, open: false, upload: None });
        }
        Record::Open { seq, op, supersedes } => {
            supersedes.iter().for_each(|old| drop(left.remove(old)));
            left.insert(seq, Unfinished { op, open: true, upload: None });
        }
        Record::Amend { seq, attr, extra } => {
            if let Some(entry) = left.get_mut(&seq) {
                entry.op.set_attr(attr, extra.as_ref());
            }
        }
        Record::Spill { seq, run } => {
            if let Some(entry) = left.get_mut(&seq) {
                entry.op.add_spilled(run);
            }
        }
        Record::Unspill { seq, first, count } => {
            if let Some(entry) = left.get_mut(&seq) {
                entry.op.remove_spilled(first, count);
            }
        }
        Record::Upload { seq, upload } => {
            if let Some(entry) = left.get_mut(&seq) {
                entry.upload = Some(upload);
            }
        }
        Record::Done { seq, outcome } => {
            left.remove(&seq);
            for (path, version) in &outcome {
                left.range_mut(seq..).for_each(|(_, later)| later.op.set_base(path, version));
            }
        }
        Record::Failed { seq, .. } => drop(left.remove(&seq)),
    }
}

/// The journal of one volume, open for appending.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<JournalFile>,
    syncer: Syncer,
}

impl Journal {
    /// Opens the journal in `dir` and says what is left to do. What is done is dropped from the file; a torn end is set
    /// aside as `journal.torn`.
    pub fn open(dir: &Path) -> io::Result<(Self, BTreeMap<Seq, Unfinished>)> {
        let path = dir.join("journal");
        let left = unfinished(file::read(&path)?);
        let rewritten = JournalFile::rewrite(&path, left.iter().flat_map(|(seq, entry)| as_records(*seq, entry)));
        let file = match rewritten {
            // The old one is as good, and has space set aside.
            Err(error) if super::limits::is_full(&error) && path.exists() => JournalFile::resume(&path)?,
            result => result?,
        };
        let syncer = Syncer::start(file.handle()?)?;
        Ok((Self { file: Mutex::new(file), syncer }, left))
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
        let position = self.file.lock().position();
        self.syncer.sync(position).await
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
        file.replace(left.iter().flat_map(|(seq, entry)| as_records(*seq, entry)))?;
        self.syncer.replace(file.handle()?);
        Ok(())
    }
}

fn as_records(seq: Seq, entry: &Unfinished) -> impl Iterator<Item = Record> {
    let op = entry.op.clone();
    let begin = match entry.open {
        true => Record::Open { seq, op, supersedes: Vec::new() },
        false => Record::Begin { seq, op, supersedes: Vec::new() },
    };
    std::iter::once(begin).chain(entry.upload.clone().map(|upload| Record::Upload { seq, upload }))
}

/// How much of the journal there was after an append, over all rewritings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(pub(crate) u64);

#[cfg(test)]
mod tests;
