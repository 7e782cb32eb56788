//! Attributes: stat, chmod, chown, utimens, truncate, readlink.

use uuid::Uuid;

use super::Stat;
use crate::volume::Volume;
use crate::volume::attr::acl::{self, Acl};
use crate::volume::attr::{self, Attr, Extra, Time};
use crate::volume::error::{Result, VolumeError};
use crate::volume::journal::{Op, Seq};
use crate::volume::name;
use crate::volume::store::{ObjectKey, StoreError};
use crate::volume::tree::{Ino, Kind, Node, Place, Tree};
use crate::volume::writeback::{FAILING_PATIENCE, Tag};

/// What is to change.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<Time>,
    pub(crate) mtime: Option<Time>,
}

impl Change {
    fn is_only_size(&self) -> bool {
        self.mode.is_none() && self.uid.is_none() && self.gid.is_none() && self.atime.is_none() && self.mtime.is_none()
    }

    /// A new owner ends the rights that the old one gave by the mode, unless the mode is set as well.
    fn applied(&self, old: Attr) -> Attr {
        let mut attr = Attr {
            mode: self.mode.map_or(old.mode, |mode| (old.mode & libc::S_IFMT) | (mode & 0o7777)),
            uid: self.uid.unwrap_or(old.uid),
            gid: self.gid.unwrap_or(old.gid),
            atime: self.atime.unwrap_or(old.atime),
            rdev: old.rdev,
            mtime: self.mtime.unwrap_or(old.mtime),
            ctime: Time::now(),
        };
        if (self.uid.is_some() || self.gid.is_some()) && self.mode.is_none() && old.kind() == libc::S_IFREG {
            attr.drop_privileges();
        }
        attr
    }
}

/// Attributes to be brought to S3. `extra`: the other headers, where they change too.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) attr: Attr,
    pub(super) extra: Option<Extra>,
}

impl Volume {
    /// Attributes; of an open file those of the version it is open in.
    pub(crate) async fn attributes(&self, ino: Ino) -> Result<Stat> {
        self.up_to_date(ino).await?;
        self.stat(ino)
    }

    /// Asks S3 about a file that nobody has open.
    pub(super) async fn up_to_date(&self, ino: Ino) -> Result<()> {
        let open = self.tree().get(ino)?.opens > 0;
        if open || self.was_walked_again(ino) {
            return Ok(());
        }
        self.revalidate(ino).await.inspect_err(|error| self.note_stale(ino, error))
    }

    /// `root`: the caller may cut a set-user-id file and leave it one.
    pub(crate) async fn set_attributes_of(&self, ino: Ino, change: Change, root: bool) -> Result<Stat> {
        if let Some(size) = change.size {
            self.truncate(ino, size).await?;
            if !root {
                self.drop_privileges(ino)?;
            }
        }
        if !change.is_only_size() {
            let open = self.open_seq(ino).await?;
            let mut tree = self.tree();
            let node = tree.get(ino)?;
            let attr = change.applied(node.attr);
            let extra = change.mode.and_then(|mode| with_acl_mode(&node.extra, mode));
            self.write_attr(&mut tree, ino, Written { attr, extra }, open)?;
        }
        // Who has it open for writing hands it over by closing it; O_TRUNC comes here too, after its open.
        if change.size.is_some() && self.tree().get(ino)?.writers == 0 {
            self.seal(ino).await?;
        }
        self.stat(ino)
    }

    pub(super) async fn open_seq(&self, ino: Ino) -> Result<Option<Seq>> {
        let content = match &self.tree().get(ino)?.kind {
            Kind::File(content) => content.clone(),
            Kind::Dir(_) | Kind::Symlink(_) | Kind::Special => return Ok(None),
        };
        let open = content.state.read().await.open;
        Ok(open)
    }

    /// Changes the attributes of an inode, and of its object.
    pub(super) fn write_attr(&self, tree: &mut Tree, ino: Ino, new: Written, open: Option<Seq>) -> Result<()> {
        self.send_attr(tree, ino, &new, open)?;
        let node = tree.get_mut(ino)?;
        node.attr = new.attr;
        node.extra = new.extra.unwrap_or_else(|| std::mem::take(&mut node.extra));
        Ok(())
    }

    /// Attributes go up with the bytes when those are still to go up, else by an operation of their own.
    fn send_attr(&self, tree: &mut Tree, ino: Ino, new: &Written, open: Option<Seq>) -> Result<()> {
        let node = tree.get(ino)?;
        let (touched, path) = match (node.place.clone(), tree.path(ino)) {
            (Place::At { parent, name }, Some(path)) => (vec![(parent, name)], path),
            (Place::Root, Some(path)) if self.has_root_marker() => (Vec::new(), path),
            _ => return Ok(()),
        };
        if let Some(open) = open {
            self.amend(open, new.attr, new.extra.as_ref())?;
            return Ok(());
        }
        let amend = |pending| self.amend(pending, new.attr, new.extra.as_ref());
        if node.pending.map(amend).transpose()?.flatten().is_some() {
            return Ok(());
        }
        let op = set_attr_op(path, node, new);
        let plain = node.dir().is_ok_and(|dir| dir.plain);
        let tag = Tag { ino: Some(ino), touched, plain, ..Tag::default() };
        let (seq, _) = self.submit(tree, op, tag, None)?;
        let node = tree.get_mut(ino)?;
        node.pending = Some(seq);
        if let Ok(dir) = node.dir_mut() {
            dir.marker = true;
        }
        Ok(())
    }

    /// The target of a symbolic link.
    pub(crate) async fn read_link(&self, ino: Ino) -> Result<String> {
        let place = self.place_of_target(ino)?;
        match self.read_target(ino).await {
            // It is being moved, or was just now.
            Err(VolumeError::Store(StoreError::NotFound(_)))
                if self.settled(ino).await? || self.place_of_target(ino)? != place =>
            {
                self.read_target(ino).await
            }
            result => result,
        }
    }

    fn place_of_target(&self, ino: Ino) -> Result<Option<String>> {
        Ok(self.tree().get(ino)?.remote.as_ref().map(|remote| remote.path.clone()))
    }

    /// Waits for the operation that an inode's object is in, if there is one; whether there was.
    pub(crate) async fn settled(&self, ino: Ino) -> Result<bool> {
        let pending = {
            let tree = self.tree();
            tree.get(ino)?.pending.filter(|seq| tree.is_outstanding(Some(*seq)))
        };
        match pending {
            Some(seq) => self.wait_for(seq, FAILING_PATIENCE).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn read_target(&self, ino: Ino) -> Result<String> {
        let path = {
            let tree = self.tree();
            let node = tree.get(ino)?;
            match &node.kind {
                Kind::Symlink(Some(target)) => return Ok(target.clone()),
                Kind::Symlink(None) => node.remote.as_ref().ok_or(VolumeError::Stale)?.path.clone(),
                Kind::Dir(_) | Kind::File(_) | Kind::Special => return Err(VolumeError::Invalid("not a link")),
            }
        };
        let key = ObjectKey::new(path);
        let (info, body) = self.breaker.patiently(|| self.store.get(&key)).await?;
        // s3fs trims what it reads, and some tools end the target with a newline. Ours are exact.
        let ours = attr::write_id(&info.headers).is_some();
        let target = name::to_key(if ours { &body } else { body.trim_ascii() });
        if target.is_empty() || target.contains('\0') {
            return Err(VolumeError::BadTarget);
        }
        self.tree().get_mut(ino)?.kind = Kind::Symlink(Some(target.clone()));
        Ok(target)
    }
}

/// The headers with an ACL that agrees with a new mode, if there is one.
fn with_acl_mode(extra: &Extra, mode: u32) -> Option<Extra> {
    let mut xattrs = extra.xattrs();
    let acl = Acl::parse(xattrs.get(acl::ACCESS)?)?;
    xattrs.insert(acl::ACCESS.to_owned(), acl.with_mode(mode).to_bytes());
    extra.with_xattrs(&xattrs)
}

fn set_attr_op(path: String, node: &Node, new: &Written) -> Op {
    Op::SetAttr {
        path,
        directory: node.is_dir(),
        size: node.size,
        attr: new.attr,
        extra: new.extra.clone().unwrap_or_else(|| node.extra.clone()),
        base: node.base.clone(),
        write: Uuid::new_v4(),
    }
}
