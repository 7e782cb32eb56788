//! Merges what S3 says into the tree. Local changes win: those S3 does not have yet, and those made or committed after
//! the question was asked. So does the answer to a question that was asked later: it is recent enough for both.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;

use super::{Asked, Child, Dir, Ino, Kind, Listed, Node, Place, Question, Remote, Stamp, Told, Tree};
use crate::volume::attr::{self, Attr, Extra, Owner, Time};
use crate::volume::content::Content;
use crate::volume::error::Result;
use crate::volume::journal::Base;
use crate::volume::records::RACY;
use crate::volume::store::{Etag, ObjectInfo};

/// From this size on a directory is rid of the names it does not have, now and then.
const MANY_CHILDREN: usize = 4096;

/// What S3 has under a name.
#[derive(Debug)]
pub(crate) enum Found {
    File {
        path: String,
        info: ObjectInfo,
        /// All of it, where it came along.
        bytes: Option<Bytes>,
    },
    /// With its marker, when it has one.
    Dir { marker: Option<ObjectInfo> },
}

impl Found {
    /// A version and its bytes, where they came along.
    pub(crate) fn whole(&self) -> Option<(Etag, Bytes)> {
        match self {
            Self::File { info, bytes: Some(bytes), .. } => Some((info.etag.clone(), bytes.clone())),
            Self::File { bytes: None, .. } | Self::Dir { .. } => None,
        }
    }
}

impl Remote {
    pub(crate) fn new(path: &str, info: &ObjectInfo) -> Self {
        let age = SystemTime::now().duration_since(info.last_modified).unwrap_or_default();
        Self {
            path: path.to_owned(),
            etag: info.etag.clone(),
            size: info.size,
            last_modified: Some(info.last_modified),
            told: Told::by(info),
            racy: age < RACY,
        }
    }
}

impl Tree {
    /// Merges an answer about one name; returns the inode that the name has now.
    pub(crate) fn adopt(
        &mut self,
        parent: Ino,
        name: &str,
        question: &Question,
        found: Option<Found>,
        owner: Owner,
    ) -> Result<Option<Ino>> {
        let asked = question.asked;
        let dir = self.get(parent)?.dir()?;
        let changed_here = dir.changed_since(name, asked);
        let known = match dir.children.get(name) {
            Some(Child::Gone(seq)) if self.is_outstanding(Some(*seq)) => return Ok(None),
            Some(Child::Node(ino)) => Some(*ino),
            Some(_) | None => None,
        };
        let ours = |ino| self.get(ino).is_ok_and(|node| self.is_local(node) || node.is_known_since(asked.stamp));
        if changed_here || known.is_some_and(ours) {
            return Ok(known);
        }
        match (known, found) {
            (Some(ino), Some(found)) if self.is_same(ino, &found) => {
                self.refresh(ino, &found, owner, asked.stamp)?;
                Ok(Some(ino))
            }
            (Some(ino), None) if self.has_local_below(ino) => Ok(Some(ino)),
            (known, found) => self.replace((parent, name), known, found, owner, asked.stamp),
        }
    }

    fn is_same(&self, ino: Ino, found: &Found) -> bool {
        let Ok(node) = self.get(ino) else { return false };
        match (&node.kind, found) {
            (Kind::Dir(_), Found::Dir { .. }) => true,
            (Kind::Dir(_), Found::File { .. }) | (_, Found::Dir { .. }) => false,
            (_, Found::File { info, .. }) => {
                let kind = attr::from_object(info, false, Owner { uid: 0, gid: 0 }).kind();
                node.attr.kind() == kind && node.remote.as_ref().is_some_and(|remote| remote.etag == info.etag)
            }
        }
    }

    fn refresh(&mut self, ino: Ino, found: &Found, owner: Owner, now: Stamp) -> Result<()> {
        let node = self.get_mut(ino)?;
        node.checked = Some(now);
        match found {
            Found::File { path, info, .. } => {
                node.attr = attr::from_object(info, false, owner);
                node.extra = Extra::from(&info.headers);
                node.remote = Some(Remote::new(path, info));
            }
            Found::Dir { marker: Some(info) } => {
                let local = (node.attr.mtime, node.attr.ctime);
                node.attr = attr::from_object(info, true, owner);
                node.attr.mtime = node.attr.mtime.max(local.0);
                node.attr.ctime = node.attr.ctime.max(local.1);
                node.extra = Extra::from(&info.headers);
                node.remote = Some(Remote::new("", info));
                node.dir_mut()?.marker = true;
            }
            Found::Dir { marker: None } => {
                node.extra = Extra::default();
                node.remote = None;
                node.dir_mut()?.marker = false;
            }
        }
        Ok(())
    }

    fn replace(
        &mut self,
        (parent, name): (Ino, &str),
        known: Option<Ino>,
        found: Option<Found>,
        owner: Owner,
        asked: Stamp,
    ) -> Result<Option<Ino>> {
        if let Some(old) = known {
            self.detach(old, Place::Replaced { parent, name: name.to_owned() }, None);
        }
        let Some(found) = found else {
            self.get_mut(parent)?.dir_mut()?.note_absent(name, asked);
            return Ok(None);
        };
        let mut node = new_node(&found, owner);
        node.checked = Some(asked);
        self.insert(parent, name, node).map(Some)
    }

    /// Merges what is known of a version that a listing has, and that was not looked at; it is as old as the listing.
    pub(crate) fn adopt_listed(
        &mut self,
        parent: Ino,
        name: &str,
        found: Found,
        owner: Owner,
        listed: Stamp,
    ) -> Result<Option<Ino>> {
        self.replace((parent, name), None, Some(found), owner, listed)
    }

    /// Merges a whole listing of a directory.
    pub(crate) fn adopt_listing(&mut self, dir: Ino, entries: &BTreeMap<String, Listed>, asked: Asked) -> Result<()> {
        for (name, listed) in entries {
            if let Some(ino) = self.child(dir, name) {
                self.recheck(ino, listed, asked.stamp);
            } else if self.may_list(dir, name, asked)? {
                self.get_mut(dir)?.dir_mut()?.children.insert(name.clone(), Child::Listed(listed.clone()));
            }
        }
        for name in self.unlisted(dir, entries, asked)? {
            match self.child(dir, &name) {
                Some(ino) => self.detach(ino, Place::Replaced { parent: dir, name }, None),
                None => drop(self.get_mut(dir)?.dir_mut()?.children.remove(&name)),
            }
        }
        let dir = self.get_mut(dir)?.dir_mut()?;
        dir.listed = Some(asked.stamp);
        dir.misses.note_listed();
        Ok(())
    }

    /// A listed object that is the version we know needs no HEAD; any other is looked at before it is trusted again.
    fn recheck(&mut self, ino: Ino, listed: &Listed, now: Stamp) {
        let Ok(node) = self.get_mut(ino) else { return };
        let same = match listed {
            Listed::Dir => node.is_dir(),
            Listed::File { etag, size, last_modified, .. } => node.remote.as_ref().is_some_and(|remote| {
                remote.etag == *etag
                    && remote.size == *size
                    && remote.last_modified == Some(*last_modified)
                    && !remote.racy
            }),
        };
        if same {
            node.checked = Some(now);
        }
    }

    fn may_list(&self, dir: Ino, name: &str, asked: Asked) -> Result<bool> {
        let dir = self.get(dir)?.dir()?;
        if dir.changed_since(name, asked) {
            return Ok(false);
        }
        Ok(match dir.children.get(name) {
            Some(Child::Gone(seq)) => !self.is_outstanding(Some(*seq)),
            Some(Child::Node(_)) => false,
            Some(Child::Absent(_) | Child::Listed(_)) | None => true,
        })
    }

    /// Names we know that S3 did not list and that are not ours to say.
    fn unlisted(&self, dir: Ino, entries: &BTreeMap<String, Listed>, asked: Asked) -> Result<Vec<String>> {
        let dir = self.get(dir)?.dir()?;
        let gone = dir.children.iter().filter(|(name, child)| {
            let recent = dir.changed_since(name, asked);
            let ours = match child {
                Child::Node(ino) => self.get(*ino).is_ok_and(|node| self.is_local(node)) || self.has_local_below(*ino),
                Child::Gone(seq) => self.is_outstanding(Some(*seq)),
                Child::Absent(_) | Child::Listed(_) => false,
            };
            !entries.contains_key(*name) && !recent && !ours
        });
        Ok(gone.map(|(name, _)| name.clone()).collect())
    }
}

impl Node {
    /// Whether S3 was asked about it later than that.
    fn is_known_since(&self, asked: Stamp) -> bool {
        self.checked.is_some_and(|checked| checked.at > asked.at)
    }
}

impl Dir {
    fn changed_since(&self, name: &str, asked: Asked) -> bool {
        self.recent.get(name).is_some_and(|changed| changed.clock > asked.clock)
    }

    /// S3 does not have the name. Of many such names the older are forgotten.
    fn note_absent(&mut self, name: &str, asked: Stamp) {
        if self.children.len() >= MANY_CHILDREN && self.children.len().is_multiple_of(MANY_CHILDREN) {
            self.children.retain(|_, child| !matches!(child, Child::Absent(_)));
        }
        self.children.insert(name.to_owned(), Child::Absent(asked));
        self.misses.note();
    }
}

fn new_node(found: &Found, owner: Owner) -> Node {
    match found {
        Found::File { path, info, .. } => {
            let attr = attr::from_object(info, false, owner);
            let kind = match attr.kind() {
                libc::S_IFDIR => Kind::Dir(Dir { marker: true, ..Dir::default() }),
                libc::S_IFLNK => Kind::Symlink(None),
                libc::S_IFREG => Kind::File(Content::remote(info.size)),
                _ => Kind::Special,
            };
            let mut node = Node::new(attr, kind, Place::Gone);
            node.size = info.size;
            node.extra = Extra::from(&info.headers);
            node.base = Base::Version(info.etag.clone());
            node.remote = Some(Remote::new(path, info));
            node
        }
        Found::Dir { marker } => {
            let dir = Dir { marker: marker.is_some(), ..Dir::default() };
            let mut node = Node::new(directory_attr(marker.as_ref(), owner), Kind::Dir(dir), Place::Gone);
            node.extra = marker.as_ref().map(|info| Extra::from(&info.headers)).unwrap_or_default();
            node.remote = marker.as_ref().map(|info| Remote::new("", info));
            node
        }
    }
}

fn directory_attr(marker: Option<&ObjectInfo>, owner: Owner) -> Attr {
    match marker {
        Some(info) => attr::from_object(info, true, owner),
        None => attr::implicit_directory(owner, Time::now()),
    }
}
