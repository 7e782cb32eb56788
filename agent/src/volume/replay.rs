//! What an earlier process left in the journal becomes tree and queue again. Nothing else is special about a restart:
//! the same write-back does the rest.

use std::collections::{BTreeMap, HashSet};

use super::Volume;
use super::attr::{self, Attr, Extra, Time};
use super::cache::usage::Hold;
use super::cache::{Cache, DataId};
use super::content::Content;
use super::error::Result;
use super::failpoint;
use super::journal::{Base, Op, Seq, Unfinished};
use super::name;
use super::spill::{Restored, Run};
use super::tree::{Child, Dir, Ino, Kind, Node, Opaque, Place, Remote, Told, Tree};
use super::writeback::Tag;

/// The cache files that the journal still needs.
pub(crate) fn needed(left: &BTreeMap<Seq, Unfinished>) -> HashSet<DataId> {
    left.values().filter_map(|entry| entry.op.data()).collect()
}

/// The objects with spilled parts that journal and lost+found still need.
pub(crate) fn needed_spills(left: &BTreeMap<Seq, Unfinished>, cache: &Cache) -> std::io::Result<HashSet<String>> {
    Ok(named_spills(left, &cache.lost_notes()?))
}

/// The objects with spilled parts that operations, and the `notes` of lost+found, name.
pub(crate) fn named_spills(left: &BTreeMap<Seq, Unfinished>, notes: &[Vec<u8>]) -> HashSet<String> {
    let lost: Vec<Op> = notes.iter().filter_map(|note| serde_json::from_slice(note).ok()).collect();
    let ops = left.values().map(|entry| &entry.op).chain(&lost);
    ops.flat_map(Op::spilled).map(|run| run.key.clone()).collect()
}

impl Volume {
    /// Applies what is left to do, in order. A file that was never closed goes up as it is.
    pub(crate) fn replay(&self, left: BTreeMap<Seq, Unfinished>) -> Result<()> {
        let mut tree = self.tree();
        let mut objects = Restored::new();
        for (seq, entry) in left {
            let tag = self.replay_one(&mut tree, seq, &entry.op, &mut objects)?;
            let tag = Tag { on_disk: entry.on_disk, ..tag };
            self.requeue(&mut tree, seq, entry.op, tag, entry.upload);
        }
        failpoint::hit(failpoint::REPLAYED);
        Ok(())
    }

    fn replay_one(&self, tree: &mut Tree, seq: Seq, op: &Op, objects: &mut Restored) -> Result<Tag> {
        match op {
            Op::Put { path, data, spilled, attr, extra, base, .. } => {
                let data = match self.cache.reopen(*data) {
                    Ok(data) => data,
                    Err(error) => {
                        tracing::error!(path, %error, "the cache file of an upload is gone");
                        return Ok(Tag::default());
                    }
                };
                let size = data.file.metadata()?.len();
                data.measure(Hold::Dirty)?;
                let spilled = self.spills.restore(spilled, &self.cut, size, objects);
                let kind = Kind::File(Content::sealed(data.clone(), size, seq, spilled.clone(), &self.cut));
                let node = Node { extra: extra.clone(), ..node(*attr, kind, size, base) };
                let tag = self.replay_node(tree, seq, path, node)?;
                Ok(Tag { data: Some(data), spilled, bytes: size, ..tag })
            }
            Op::Salvage { path, data, spilled, .. } => Ok(self.replay_salvage(path, *data, spilled, objects)),
            Op::Symlink { path, target, attr, base, .. } => {
                let kind = Kind::Symlink(Some(target.clone()));
                self.replay_node(tree, seq, path, node(*attr, kind, name::length(target) as u64, base))
            }
            Op::Mknod { path, attr, base, .. } => {
                self.replay_node(tree, seq, path, node(*attr, Kind::Special, 0, base))
            }
            Op::Delete { path, .. } | Op::Rmdir { path } => {
                let (parent, name) = self.parent_of_path(tree, path)?;
                remove(tree, seq, parent, &name)?;
                Ok(tag(None, vec![(parent, name)]))
            }
            Op::Rename { from, to, source, size, attr, extra, .. } => {
                let known = Node { extra: extra.clone(), ..self.moved_node(from, source, *size, *attr) };
                let (ino, tag) = self.replay_move(tree, seq, from, to, known)?;
                // They may have changed after the operation that made the file.
                let node = tree.get_mut(ino)?;
                (node.attr, node.extra) = (*attr, extra.clone());
                Ok(tag)
            }
            Op::RenameDir { from, to, attr } => {
                let (ino, tag) = self.replay_move(tree, seq, from, to, directory(self, *attr))?;
                let node = tree.get_mut(ino)?;
                node.attr = attr.unwrap_or(node.attr);
                let dir = node.dir_mut()?;
                dir.opaque = Some(Opaque::UntilStarted(seq));
                dir.moved_from.push((seq, from.to_owned()));
                Ok(tag)
            }
            Op::SetAttr { path, directory: true, attr, extra, .. } => {
                self.replay_directory(tree, seq, path, *attr, Some(extra))
            }
            Op::Mkdir { path, attr, .. } => self.replay_directory(tree, seq, path, *attr, None),
            Op::SetAttr { path, base, size, attr, extra, .. } => {
                let (parent, name) = self.parent_of_path(tree, path)?;
                let ino = match tree.child(parent, &name) {
                    Some(ino) => ino,
                    None => tree.insert(parent, &name, self.moved_node(path, base, *size, *attr))?,
                };
                let node = tree.get_mut(ino)?;
                node.attr = *attr;
                node.extra = extra.clone();
                node.pending = Some(seq);
                Ok(tag(Some(ino), vec![(parent, name)]))
            }
        }
    }

    /// Nobody sees bytes that may be others than those that were written; the name shows what S3 has.
    fn replay_salvage(&self, path: &str, data: DataId, spilled: &[Run], objects: &mut Restored) -> Tag {
        tracing::warn!(path, "the machine went down before a file that was written was on the local disk");
        let data = self.cache.reopen(data).inspect_err(|error| tracing::warn!(path, %error, "nothing is left of it"));
        let Ok(data) = data else { return Tag::default() };
        // Counted as dirty until it is known what becomes of it.
        let measured = data.measure(Hold::Dirty).and_then(|()| data.file.metadata());
        let bytes = measured.map_or(0, |metadata| metadata.len());
        let spilled = self.spills.restore(spilled, &self.cut, bytes, objects);
        Tag { data: Some(data), spilled, bytes, ..Tag::default() }
    }

    fn replay_node(&self, tree: &mut Tree, seq: Seq, path: &str, mut node: Node) -> Result<Tag> {
        let (parent, name) = self.parent_of_path(tree, path)?;
        remove(tree, seq, parent, &name)?;
        node.pending = Some(seq);
        let ino = tree.insert(parent, &name, node)?;
        Ok(tag(Some(ino), vec![(parent, name)]))
    }

    /// `extra`: the other headers of a directory that was there before; one that was made has none.
    fn replay_directory(
        &self,
        tree: &mut Tree,
        seq: Seq,
        path: &str,
        attr: Attr,
        extra: Option<&Extra>,
    ) -> Result<Tag> {
        let (parent, name) = self.parent_of_path(tree, path)?;
        let leftovers = tree.child(parent, &name).is_none() && self.queue.moves_or_removes(path);
        let ino = self.directory_at(tree, path)?;
        let node = tree.get_mut(ino)?;
        node.attr = attr;
        node.pending = Some(seq);
        node.dir_mut()?.marker = true;
        match extra {
            Some(extra) => node.extra = extra.clone(),
            // What was there before may be there until this begins. Else there may be what is the new directory's own:
            // operations in it do not wait for its marker.
            None if leftovers => node.dir_mut()?.opaque = Some(Opaque::UntilStarted(seq)),
            None => {}
        }
        let touched = if path.is_empty() { Vec::new() } else { vec![(parent, name)] };
        Ok(tag(Some(ino), touched))
    }

    /// `unknown`: the inode, where no earlier operation told of it.
    fn replay_move(&self, tree: &mut Tree, seq: Seq, from: &str, to: &str, unknown: Node) -> Result<(Ino, Tag)> {
        let (from_parent, from_name) = self.parent_of_path(tree, from)?;
        let (to_parent, to_name) = self.parent_of_path(tree, to)?;
        let ino = match tree.child(from_parent, &from_name) {
            Some(ino) => ino,
            None => tree.insert(from_parent, &from_name, unknown)?,
        };
        remove(tree, seq, to_parent, &to_name)?;
        tree.get_mut(ino)?.pending = Some(seq);
        tree.begin(seq);
        tree.detach(ino, Place::Gone, Some(Child::Gone(seq)));
        tree.reattach(ino, to_parent, &to_name)?;
        Ok((ino, tag(Some(ino), vec![(from_parent, from_name), (to_parent, to_name)])))
    }

    /// The inode of an object of which only the journal tells so far.
    fn moved_node(&self, path: &str, version: &Base, size: u64, attr: Attr) -> Node {
        let kind = match attr.kind() {
            libc::S_IFLNK => Kind::Symlink(None),
            libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO | libc::S_IFSOCK => Kind::Special,
            _ => Kind::File(Content::remote(size)),
        };
        let mut node = node(attr, kind, size, version);
        if let Base::Version(etag) = version {
            let (path, etag) = (path.to_owned(), etag.clone());
            node.remote = Some(Remote { path, etag, size, last_modified: None, told: Told::All, racy: true });
        }
        node
    }

    fn parent_of_path(&self, tree: &mut Tree, path: &str) -> Result<(Ino, String)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.directory_at(tree, parent)?, name.to_owned()))
    }

    /// The directory at a path, made up where it is not known: S3 will be asked about it when somebody looks.
    fn directory_at(&self, tree: &mut Tree, path: &str) -> Result<Ino> {
        let mut at = Ino::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = match tree.child(at, name) {
                Some(ino) => ino,
                None => tree.insert(at, name, directory(self, None))?,
            };
        }
        Ok(at)
    }
}

fn directory(volume: &Volume, attr: Option<Attr>) -> Node {
    let attr = attr.unwrap_or_else(|| attr::implicit_directory(volume.owner(), Time::now()));
    Node::new(attr, Kind::Dir(Dir::default()), Place::Gone)
}

fn node(attr: Attr, kind: Kind, size: u64, base: &Base) -> Node {
    let mut node = Node::new(attr, kind, Place::Gone);
    node.size = size;
    node.base = base.clone();
    node
}

fn tag(ino: Option<Ino>, touched: Vec<(Ino, String)>) -> Tag {
    Tag { ino, touched, ..Tag::default() }
}

/// Takes whatever has the name off it; until the operation is done, the name is not there.
fn remove(tree: &mut Tree, seq: Seq, parent: Ino, name: &str) -> Result<()> {
    if let Some(ino) = tree.child(parent, name) {
        tree.detach(ino, Place::Gone, None);
    }
    tree.get_mut(parent)?.dir_mut()?.children.insert(name.to_owned(), Child::Gone(seq));
    Ok(())
}
