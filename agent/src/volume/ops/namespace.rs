//! Names: lookup, create, mkdir, symlink, unlink, rmdir.

use uuid::Uuid;

use super::attributes::Written;
use super::data::Opened;
use super::{Caller, Stat, new_attr, new_directory, new_path, touch_parent};
use crate::volume::attr::{self, Attr, Extra};
use crate::volume::content::Content;
use crate::volume::error::{Result, VolumeError};
use crate::volume::handle::Handle;
use crate::volume::journal::{Base, Op, Seq};
use crate::volume::name;
use crate::volume::passthrough::{Access, Register};
use crate::volume::store::{Body, Condition, Etag, ObjectKey, StoreError};
use crate::volume::tree::{Child, Ino, Kind, Node, Opaque, Place, Tree};
use crate::volume::version::conflict::{self, Resolution};
use crate::volume::writeback::Tag;
use crate::volume::{Excl, Volume};

/// A symbolic link's target is at most this long on Linux.
const MAX_TARGET_BYTES: usize = 4095;

/// How often a file may be replaced while it is looked up.
const LOOKUPS: usize = 3;

/// How often S3 may be busy with a name that is to be taken.
const CLAIMS: usize = 5;

/// What `create` does with a file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfThere {
    Open,
    /// `O_TRUNC`.
    Cut,
    /// `O_EXCL`.
    Refuse,
}

impl IfThere {
    pub(crate) fn by_flags(flags: i32) -> Self {
        match flags {
            flags if flags & libc::O_EXCL != 0 => Self::Refuse,
            flags if flags & libc::O_TRUNC != 0 => Self::Cut,
            _ => Self::Open,
        }
    }
}

/// What `create` made or found.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) stat: Stat,
    pub(crate) opened: Opened,
}

impl Volume {
    /// The inode under a name; the kernel holds a reference.
    pub(crate) async fn lookup(&self, parent: Ino, name: &str) -> Result<Stat> {
        self.walk(parent, name);
        for _ in 0..LOOKUPS {
            let ino = self.resolve(parent, name).await?;
            match self.entry(ino) {
                // Replaced, before there was a reference to it.
                Err(VolumeError::NotFound) => {}
                result => return result,
            }
        }
        Err(VolumeError::Stale)
    }

    /// Whether a name is free, asking S3 if that is not known.
    pub(super) async fn expect_free(&self, parent: Ino, name: &str) -> Result<()> {
        match self.resolve(parent, name).await {
            Ok(_) => Err(VolumeError::Exists),
            Err(VolumeError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Creates and opens a regular file, or opens the one that somebody made since the kernel looked.
    pub(crate) async fn create(
        &self,
        parent: Ino,
        name: &str,
        mode: u32,
        caller: Caller,
        how: (IfThere, Access),
        register: &Register<'_>,
    ) -> Result<Created> {
        let (there, access) = how;
        match self.resolve(parent, name).await {
            Ok(_) if there == IfThere::Refuse => return Err(VolumeError::Exists),
            Ok(ino) => {
                let opened = self.open(ino, access, register).await?;
                if there == IfThere::Cut {
                    self.truncate(ino, 0).await?;
                }
                return Ok(Created { stat: self.entry(ino)?, opened });
            }
            Err(VolumeError::NotFound) => {}
            Err(error) => return Err(error),
        }
        let claimed = match (there, self.options.excl) {
            (IfThere::Refuse, Excl::Cluster) => Some(self.claim(parent, name, mode, caller).await?),
            _ => None,
        };
        let ino = self.new_file(parent, name, mode, caller, claimed)?;
        let content = self.tree().get(ino)?.content()?;
        let handle = self.handles.insert(Handle::File { ino, content: content.clone(), write: true })?;
        self.count_open(ino, true)?;
        let how = self.enter(ino, &content, access, register).await;
        Ok(Created { stat: self.entry(ino)?, opened: Opened { handle, how } })
    }

    /// A regular file that nobody opens.
    pub(crate) async fn make_file(&self, parent: Ino, name: &str, mode: u32, caller: Caller) -> Result<Stat> {
        self.expect_free(parent, name).await?;
        let ino = self.new_file(parent, name, mode, caller, None)?;
        self.seal(ino).await?;
        self.entry(ino)
    }

    /// Takes a free name for the whole cluster: an empty object that only one can make. Its version.
    async fn claim(&self, parent: Ino, name: &str, mode: u32, caller: Caller) -> Result<Etag> {
        let (path, attr) = {
            let tree = self.tree();
            (new_path(&tree, parent, name)?, new_attr(tree.get(parent)?, caller, libc::S_IFREG | (mode & 0o7777)).0)
        };
        let (key, write) = (ObjectKey::new(&path), Uuid::new_v4());
        let headers = attr::to_headers(&attr, &Extra::default(), attr::content_type(name), write);
        let empty = || Body::Bytes(bytes::Bytes::new());
        for _ in 0..CLAIMS {
            let put = || self.store.put(&key, empty(), &headers, &Condition::Absent);
            match self.breaker.patiently(put).await {
                Ok(etag) => return Ok(etag),
                Err(VolumeError::Store(StoreError::Conflict(_))) => {}
                Err(error) => return Err(error),
            }
            // Perhaps an earlier attempt was carried out and its answer lost.
            match conflict::resolve(&Condition::Absent, write, self.head(&path).await?.as_ref()) {
                Resolution::Ours(etag) => return Ok(etag),
                Resolution::Lost => return Err(VolumeError::Exists),
                Resolution::Again => {}
            }
        }
        Err(VolumeError::TimedOut)
    }

    /// The file is in the journal before this returns: from then on a crash does not lose its name. `claimed`: the empty
    /// object that has its name.
    fn new_file(&self, parent: Ino, name: &str, mode: u32, caller: Caller, claimed: Option<Etag>) -> Result<Ino> {
        let base = claimed.map_or(Base::Absent, Base::Version);
        let data = self.cache.create()?;
        let mut tree = self.tree();
        let path = new_path(&tree, parent, name)?;
        if tree.child(parent, name).is_some() {
            return Err(VolumeError::Exists);
        }
        let (attr, extra) = new_attr(tree.get(parent)?, caller, libc::S_IFREG | (mode & 0o7777));
        data.note_named();
        let op = Op::Put {
            path,
            data: data.id,
            spilled: Vec::new(),
            attr,
            extra: extra.clone(),
            base: base.clone(),
            write: Uuid::new_v4(),
        };
        let open = self.note_open(op, None)?;
        let mut node = Node::new(attr, Kind::File(Content::new_file(data, open)), Place::Gone);
        node.extra = extra;
        node.dirty = true;
        node.base = base;
        let ino = tree.insert(parent, name, node)?;
        tree.touch(parent, name);
        touch_parent(&mut tree, parent);
        Ok(ino)
    }

    pub(crate) async fn mkdir(&self, parent: Ino, name: &str, mode: u32, caller: Caller) -> Result<Stat> {
        self.expect_free(parent, name).await?;
        let mut tree = self.tree();
        let path = new_path(&tree, parent, name)?;
        if tree.child(parent, name).is_some() {
            return Err(VolumeError::Exists);
        }
        let (attr, extra) = new_attr(tree.get(parent)?, caller, libc::S_IFDIR | (mode & 0o7777));
        let empty_since = tree.absent_since(parent, name);
        let ino = tree.insert(parent, name, new_directory(attr))?;
        let op = Op::Mkdir { path, attr, write: Uuid::new_v4() };
        let seq = self.submit_new(&mut tree, ino, parent, name, op)?;
        let dir = tree.get_mut(ino)?.dir_mut()?;
        dir.plain = true;
        dir.opaque = Some(Opaque::UntilDone(seq));
        dir.listed = empty_since;
        self.add_extra(&mut tree, ino, attr, extra)?;
        drop(tree);
        self.entry(ino)
    }

    pub(crate) async fn symlink(&self, parent: Ino, name: &str, target: &str, caller: Caller) -> Result<Stat> {
        if name::length(target) > MAX_TARGET_BYTES {
            return Err(VolumeError::NameTooLong);
        }
        self.expect_free(parent, name).await?;
        let mut tree = self.tree();
        let path = new_path(&tree, parent, name)?;
        if tree.child(parent, name).is_some() {
            return Err(VolumeError::Exists);
        }
        let plain = Caller { umask: 0, ..caller };
        let attr = Attr { mode: libc::S_IFLNK | 0o777, ..new_attr(tree.get(parent)?, plain, libc::S_IFLNK | 0o777).0 };
        let mut node = Node::new(attr, Kind::Symlink(Some(target.to_owned())), Place::Gone);
        node.size = name::length(target) as u64;
        let ino = tree.insert(parent, name, node)?;
        let op = Op::Symlink { path, target: target.to_owned(), attr, base: Base::Absent, write: Uuid::new_v4() };
        self.submit_new(&mut tree, ino, parent, name, op)?;
        drop(tree);
        self.entry(ino)
    }

    /// A device, FIFO or socket: a name with attributes; the kernel does the rest on this node.
    pub(crate) async fn make_special(
        &self,
        parent: Ino,
        name: &str,
        mode: u32,
        rdev: u32,
        caller: Caller,
    ) -> Result<Stat> {
        self.expect_free(parent, name).await?;
        let mut tree = self.tree();
        let path = new_path(&tree, parent, name)?;
        if tree.child(parent, name).is_some() {
            return Err(VolumeError::Exists);
        }
        let (attr, extra) = new_attr(tree.get(parent)?, caller, mode);
        let attr = Attr { rdev, ..attr };
        let ino = tree.insert(parent, name, Node::new(attr, Kind::Special, Place::Gone))?;
        let op = Op::Mknod { path, attr, base: Base::Absent, write: Uuid::new_v4() };
        self.submit_new(&mut tree, ino, parent, name, op)?;
        self.add_extra(&mut tree, ino, attr, extra)?;
        drop(tree);
        self.entry(ino)
    }

    /// The headers of something new that the operation that makes it does not write.
    fn add_extra(&self, tree: &mut Tree, ino: Ino, attr: Attr, extra: Extra) -> Result<()> {
        if extra == Extra::default() {
            return Ok(());
        }
        self.write_attr(tree, ino, Written { attr, extra: Some(extra) }, None)
    }

    /// Acknowledges the operation that makes `ino`; takes the inode away again if the journal cannot.
    fn submit_new(&self, tree: &mut Tree, ino: Ino, parent: Ino, name: &str, op: Op) -> Result<Seq> {
        let tag = Tag { ino: Some(ino), touched: vec![(parent, name.to_owned())], ..Tag::default() };
        match self.submit(tree, op, tag, None) {
            Ok((seq, _)) => {
                tree.get_mut(ino)?.pending = Some(seq);
                touch_parent(tree, parent);
                Ok(seq)
            }
            Err(error) => {
                tree.detach(ino, Place::Gone, None);
                Err(error)
            }
        }
    }

    pub(crate) async fn unlink(&self, parent: Ino, name: &str) -> Result<()> {
        let ino = self.resolve(parent, name).await?;
        let content = {
            let tree = self.tree();
            let node = tree.get(ino)?;
            if node.is_dir() {
                return Err(VolumeError::IsDirectory);
            }
            node.content().ok()
        };
        // Held until the name is gone: a write that begins now must see that.
        let mut state = match &content {
            Some(content) => Some(content.state.write().await),
            None => None,
        };
        let mut tree = self.tree();
        if tree.child(parent, name) != Some(ino) {
            return Err(VolumeError::NotFound);
        }
        self.keep_directory(&mut tree, parent)?;
        self.remove_object(&mut tree, ino, state.as_ref().and_then(|state| state.open))?;
        if let Some(state) = &mut state {
            state.open = None;
        }
        touch_parent(&mut tree, parent);
        Ok(())
    }

    /// Takes the name off an inode that is not a directory, and its object out of S3. `open`: its `Open` record.
    fn remove_object(&self, tree: &mut Tree, ino: Ino, open: Option<Seq>) -> Result<()> {
        let node = tree.get(ino)?;
        let Place::At { parent, name } = node.place.clone() else { return Err(VolumeError::NotFound) };
        let path = tree.path(ino).ok_or(VolumeError::NotFound)?;
        let rest = if self.may_be_in_s3(tree, node, &path) {
            let op = Op::Delete { path, base: node.base.clone() };
            let touched = vec![(parent, name.clone())];
            let preserve = if node.opens > 0 { vec![ino] } else { Vec::new() };
            // The inode goes with the operation, if the kernel has forgotten it by then.
            let tag = Tag { ino: Some(ino), touched, preserve, ..Tag::default() };
            let (seq, _) = self.submit(tree, op, tag, open)?;
            tree.get_mut(ino)?.pending = Some(seq);
            Some(Child::Gone(seq))
        } else {
            open.map_or(Ok(()), |open| self.drop_open(open))?;
            tree.touch(parent, &name);
            None
        };
        let node = tree.get_mut(ino)?;
        node.attr.ctime = crate::volume::attr::Time::now();
        node.dirty = false;
        node.error = None;
        tree.detach(ino, Place::Gone, rest);
        Ok(())
    }

    /// Whether S3 has an object under the inode's path, or is about to.
    pub(super) fn may_be_in_s3(&self, tree: &Tree, node: &Node, path: &str) -> bool {
        let expected = node.remote.is_some() || node.base != Base::Absent;
        expected || tree.is_outstanding(node.pending) || self.queue.has(path)
    }

    /// A directory that only exists because of its content stays when the content goes: it gets a marker.
    pub(super) fn keep_directory(&self, tree: &mut Tree, dir: Ino) -> Result<()> {
        let node = tree.get(dir)?;
        if node.dir()?.marker {
            return Ok(());
        }
        let Some(path) = tree.path(dir) else { return Ok(()) };
        let op = Op::Mkdir { path, attr: node.attr, write: Uuid::new_v4() };
        let (seq, _) = self.submit(tree, op, Tag { ino: Some(dir), ..Tag::default() }, None)?;
        let node = tree.get_mut(dir)?;
        node.pending = Some(seq);
        node.dir_mut()?.marker = true;
        Ok(())
    }

    pub(crate) async fn rmdir(&self, parent: Ino, name: &str) -> Result<()> {
        let ino = self.resolve(parent, name).await?;
        self.expect_empty(ino).await?;
        let mut tree = self.tree();
        if tree.child(parent, name) != Some(ino) {
            return Err(VolumeError::NotFound);
        }
        if !tree.names(ino)?.is_empty() {
            return Err(VolumeError::NotEmpty);
        }
        self.keep_directory(&mut tree, parent)?;
        let path = tree.path(ino).ok_or(VolumeError::NotFound)?;
        let plain = tree.get(ino)?.dir()?.plain;
        let tag = Tag { ino: Some(ino), touched: vec![(parent, name.to_owned())], plain, ..Tag::default() };
        let (seq, _) = self.submit(&mut tree, Op::Rmdir { path }, tag, None)?;
        tree.get_mut(ino)?.pending = Some(seq);
        tree.detach(ino, Place::Gone, Some(Child::Gone(seq)));
        touch_parent(&mut tree, parent);
        Ok(())
    }

    /// S3 is asked, however fresh the names are: nobody wants to lose a file to a stale listing.
    pub(super) async fn expect_empty(&self, dir: Ino) -> Result<()> {
        self.list(dir, true).await?;
        if self.tree().names(dir)?.is_empty() { Ok(()) } else { Err(VolumeError::NotEmpty) }
    }
}
