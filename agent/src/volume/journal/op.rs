//! The operations: what is to be done in S3.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::volume::attr::{Attr, Extra};
use crate::volume::cache::DataId;
use crate::volume::spill::{self, Run};
use crate::volume::store::Etag;

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
    /// Bytes of a `Put` that were perhaps not on disk when the machine went down: if S3 does not have them they are set
    /// aside, never uploaded.
    Salvage {
        /// The name the file was to have.
        path: String,
        /// Its bytes, or what became of them.
        data: DataId,
        /// Parts that S3 has in objects of this volume.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spilled: Vec<Run>,
        /// Its attributes.
        attr: Attr,
        /// Its other headers.
        extra: Extra,
        /// Names the upload that would have been, and perhaps was.
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
            | Self::Salvage { path, .. }
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

    /// Whether S3 may have it half done: then somebody must know that there is a rest.
    pub(crate) fn has_steps(&self) -> bool {
        matches!(self, Self::Rename { .. } | Self::RenameDir { .. })
    }

    /// The cache file it needs.
    pub fn data(&self) -> Option<DataId> {
        match self {
            Self::Put { data, .. } | Self::Salvage { data, .. } => Some(*data),
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
            Self::Salvage { .. } | Self::RenameDir { .. } | Self::Mkdir { .. } | Self::Rmdir { .. } => {}
        }
    }

    /// The spilled parts it needs.
    pub fn spilled(&self) -> &[Run] {
        match self {
            Self::Put { spilled, .. } | Self::Salvage { spilled, .. } => spilled,
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
            Self::Salvage { .. } | Self::Delete { .. } | Self::RenameDir { .. } | Self::Rmdir { .. } => {}
        }
    }
}

/// What S3 has under a path after an operation.
pub type Outcome = Vec<(String, Base)>;
