//! What the tree is made of: inodes, where they are, and what a directory knows of its names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::misses::Misses;
use super::{Ino, Stamp};
use crate::volume::attr::{self, Attr, Extra};
use crate::volume::content::Content;
use crate::volume::error::{Result, VolumeError};
use crate::volume::journal::{Base, Seq};
use crate::volume::store::{Etag, ObjectInfo};

/// The object behind an inode.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    /// Its path; not the inode's own path while a move is on its way.
    pub(crate) path: String,
    /// The version that the inode shows.
    pub(crate) etag: Etag,
    pub(crate) size: u64,
    /// None after our own upload, whose answer does not tell.
    pub(crate) last_modified: Option<SystemTime>,
    /// How much of its attributes is its own.
    pub(crate) told: Told,
    /// It was so young when we looked that a change within the same second would not show in a listing.
    pub(crate) racy: bool,
}

/// How much the metadata of an object says of its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// All of them.
    All,
    /// None: they are the mount's and its time of change.
    Nothing,
    Some,
}

impl Told {
    pub(crate) fn by(info: &ObjectInfo) -> Self {
        match attr::told(&info.headers) {
            Some(true) => Self::All,
            Some(false) => Self::Nothing,
            None => Self::Some,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Kind {
    Dir(Dir),
    File(Arc<Content>),
    /// The target, once known.
    Symlink(Option<String>),
    /// A FIFO, socket or device.
    Special,
}

/// Where an inode is in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Root,
    At {
        parent: Ino,
        name: String,
    },
    /// Unlinked here.
    Gone,
    /// Somebody else replaced or removed the object that had this name.
    Replaced {
        parent: Ino,
        name: String,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Listed {
    File { etag: Etag, size: u64, last_modified: SystemTime },
    Dir,
}

/// When a name was changed here: by the tree's clock, and to forget it again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changed {
    pub(super) clock: u64,
    pub(super) at: Instant,
}

#[derive(Debug, Clone)]
pub(crate) enum Child {
    Node(Ino),
    /// Removed here; S3 may have it until the operation is done.
    Gone(Seq),
    /// S3 does not have it.
    Absent(Stamp),
    /// In a listing, and not looked at.
    Listed(Listed),
}

/// What a directory that was made or moved here waits for before S3 is asked about its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opaque {
    /// Made: until it is done; till then all that is in it is ours.
    UntilDone(Seq),
    /// Moved: until the move begins; from then on keys appear under the new path.
    UntilStarted(Seq),
}

/// Held by the one who lists a directory in place of questions about single names.
pub(crate) type Turn = Arc<tokio::sync::Mutex<()>>;

#[derive(Debug, Default)]
pub(crate) struct Dir {
    pub(crate) children: BTreeMap<String, Child>,
    /// How many of them are directories that were looked at.
    pub(crate) subdirectories: u32,
    /// When the children were all that S3 has.
    pub(crate) listed: Option<Stamp>,
    /// Whether it has a marker object, or will have.
    pub(crate) marker: bool,
    /// It was made here where nothing was: there is no marker of another form.
    pub(crate) plain: bool,
    /// Until when what S3 has under its path is not this directory's.
    pub(crate) opaque: Option<Opaque>,
    /// Prefixes where its content may still be until the operation is done.
    pub(crate) moved_from: Vec<(Seq, String)>,
    /// The last local changes and commits of names; kept longer than any question is on its way.
    pub(crate) recent: HashMap<String, Changed>,
    pub(crate) misses: Misses,
    pub(crate) listing: Turn,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attr: Attr,
    /// Headers that are not in `attr`: extended attributes, and what other tools put there.
    pub(crate) extra: Extra,
    pub(crate) size: u64,
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    /// References the kernel holds.
    pub(crate) lookups: u64,
    /// Open handles.
    pub(crate) opens: u32,
    /// Those of them that may write.
    pub(crate) writers: u32,
    pub(crate) checked: Option<Stamp>,
    /// The last operation on it.
    pub(crate) pending: Option<Seq>,
    /// Has bytes that are in no operation yet.
    pub(crate) dirty: bool,
    /// What the next upload replaces.
    pub(crate) base: Base,
    pub(crate) remote: Option<Remote>,
    /// The last operation that brought its bytes to S3.
    pub(crate) uploaded: Option<Seq>,
    /// A write-back that failed for good and was not reported yet.
    pub(crate) error: Option<String>,
}

impl Node {
    pub(crate) fn new(attr: Attr, kind: Kind, place: Place) -> Self {
        Self {
            attr,
            extra: Extra::default(),
            size: 0,
            kind,
            place,
            lookups: 0,
            opens: 0,
            writers: 0,
            checked: None,
            pending: None,
            dirty: false,
            base: Base::Absent,
            remote: None,
            uploaded: None,
            error: None,
        }
    }

    pub(crate) fn dir(&self) -> Result<&Dir> {
        match &self.kind {
            Kind::Dir(dir) => Ok(dir),
            Kind::File(_) | Kind::Symlink(_) | Kind::Special => Err(VolumeError::NotDirectory),
        }
    }

    pub(crate) fn dir_mut(&mut self) -> Result<&mut Dir> {
        match &mut self.kind {
            Kind::Dir(dir) => Ok(dir),
            Kind::File(_) | Kind::Symlink(_) | Kind::Special => Err(VolumeError::NotDirectory),
        }
    }

    pub(crate) fn content(&self) -> Result<Arc<Content>> {
        match &self.kind {
            Kind::File(content) => Ok(content.clone()),
            Kind::Dir(_) => Err(VolumeError::IsDirectory),
            Kind::Symlink(_) | Kind::Special => Err(VolumeError::Invalid("not a regular file")),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir(_))
    }
}
