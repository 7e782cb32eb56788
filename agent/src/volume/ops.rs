//! What each request of the kernel does. A child a family: names, moves, directories, data, attributes.
//!
//! Every operation first brings what it needs up to date (this may ask S3), then changes the tree and the journal in one
//! step under the tree's lock, checking again what may have changed meanwhile.

pub(crate) mod attributes;
pub(crate) mod copy;
pub(crate) mod data;
pub(crate) mod directory;
pub(crate) mod namespace;
pub(crate) mod rename;
pub(crate) mod seal;
pub(crate) mod space;
mod spill;
pub(crate) mod xattr;

use std::ffi::OsStr;
use std::time::Duration;

use super::Volume;
use super::attr::acl::{self, Acl};
use super::attr::xattr::Xattrs;
use super::attr::{Attr, Extra, Owner};
use super::error::{Result, VolumeError};
use super::name;
use super::tree::{Dir, Ino, Kind, Node, Place, Tree, join};
use super::version::RESERVED;

const MAX_NAME_BYTES: usize = 255;
const MAX_KEY_BYTES: usize = 1024;

/// What `stat` shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) ino: Ino,
    pub(crate) attr: Attr,
    pub(crate) size: u64,
    pub(crate) links: u32,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// What the mode of something new does not have, unless the directory has a default ACL.
    pub(crate) umask: u32,
}

/// A file name as S3 can hold it.
pub(crate) fn parse_name(name: &OsStr) -> Result<String> {
    if name.len() > MAX_NAME_BYTES {
        return Err(VolumeError::NameTooLong);
    }
    let name = name::of(name);
    if name.starts_with(".fuse_hidden") {
        return Err(VolumeError::Invalid("names of s3fs's deleted files"));
    }
    if RESERVED.contains(&name.as_str()) {
        return Err(VolumeError::Invalid("a name of the volume's own"));
    }
    Ok(name)
}

/// A name that an object is to get: its whole key must fit.
fn new_path(tree: &Tree, parent: Ino, name: &str) -> Result<String> {
    let path = join(&tree.path(parent).ok_or(VolumeError::NotFound)?, name);
    if path.len() + 1 > MAX_KEY_BYTES {
        return Err(VolumeError::NameTooLong);
    }
    Ok(path)
}

/// Owner and mode of something new: a set-group-id directory hands its group down, and to directories the bit as well;
/// a default ACL takes the place of the umask, and is handed down.
fn new_attr(parent: &Node, caller: Caller, mode: u32) -> (Attr, Extra) {
    let inherits = parent.attr.mode & libc::S_ISGID != 0;
    let gid = if inherits { parent.attr.gid } else { caller.gid };
    let directory = mode & libc::S_IFMT == libc::S_IFDIR;
    let mode = if inherits && directory { mode | libc::S_ISGID } else { mode };
    let default = parent.extra.xattrs().remove(acl::DEFAULT);
    let Some(default) = default.as_deref().and_then(Acl::parse) else {
        return (Attr::new(mode & !caller.umask, caller.uid, gid), Extra::default());
    };
    let access = default.inherited(mode);
    let mut xattrs = Xattrs::new();
    if directory {
        xattrs.insert(acl::DEFAULT.to_owned(), default.to_bytes());
    }
    if !access.is_a_mode() {
        xattrs.insert(acl::ACCESS.to_owned(), access.to_bytes());
    }
    let extra = Extra::default().with_xattrs(&xattrs).unwrap_or_default();
    (Attr::new(mode & !0o777 | access.mode(), caller.uid, gid), extra)
}

/// How long the kernel may keep attributes.
fn attr_ttl(volume: &Volume) -> Duration {
    volume.options.attr_ttl.min(Duration::from_secs(1))
}

fn stat_of(ino: Ino, node: &Node) -> Stat {
    let links = match (&node.place, &node.kind) {
        (Place::Gone, _) => 0,
        (Place::Root | Place::At { .. } | Place::Replaced { .. }, Kind::Dir(dir)) => 2 + dir.subdirectories,
        (Place::Root | Place::At { .. } | Place::Replaced { .. }, _) => 1,
    };
    let size = match &node.kind {
        Kind::Dir(_) => 4096,
        Kind::File(_) | Kind::Symlink(_) | Kind::Special => node.size,
    };
    Stat { ino, attr: node.attr, size, links }
}

impl Volume {
    /// How long the kernel may keep attributes; names it asks for every time.
    pub(crate) fn kernel_ttl(&self) -> Duration {
        attr_ttl(self)
    }

    /// What `stat` shows of an inode, as known.
    pub(crate) fn stat(&self, ino: Ino) -> Result<Stat> {
        Ok(stat_of(ino, self.tree().get(ino)?))
    }

    /// The same, and the kernel holds one more reference.
    pub(crate) fn entry(&self, ino: Ino) -> Result<Stat> {
        let mut tree = self.tree();
        let node = tree.get_mut(ino)?;
        node.lookups += 1;
        Ok(stat_of(ino, node))
    }

    /// The kernel gives references back.
    pub(crate) fn forget(&self, ino: Ino, references: u64) {
        if let Ok(node) = self.tree().get_mut(ino) {
            node.lookups = node.lookups.saturating_sub(references);
            if node.lookups > 0 {
                return;
            }
        }
        self.after_forget(ino);
    }

    /// The owner of what has none.
    pub(crate) fn owner(&self) -> Owner {
        self.options.owner
    }
}

/// A new directory's inode, empty in S3 until its operation starts.
fn new_directory(attr: Attr) -> Node {
    Node::new(attr, Kind::Dir(Dir { marker: true, ..Dir::default() }), Place::Gone)
}

/// A name in `parent` changes: its times do.
fn touch_parent(tree: &mut Tree, parent: Ino) {
    if let Ok(node) = tree.get_mut(parent) {
        node.attr.touch();
    }
}
