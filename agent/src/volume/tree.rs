//! Inodes and names: what this node knows of the volume, and what it has changed in it.
//!
//! The tree never does I/O. Local changes are applied to it at once, under one lock, together with their journal record;
//! what S3 says is merged in by [`adopt`], and never over a local change that S3 does not have yet.
//!
//! A name that is not in S3 any more by our own doing is [`Child::Gone`] until the operation is done. A directory that
//! was made or moved is *opaque* for a while: what S3 has under its path belongs to somebody who was there before. A
//! moved directory also has *sources*: the prefixes where its content still may be.

pub(crate) mod adopt;
mod misses;
mod node;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use self::node::Changed;
pub(crate) use self::node::{Child, Dir, Kind, Listed, Node, Opaque, Place, Remote, Told, Turn};
use super::attr::{Attr, Extra};
use super::error::{Result, VolumeError};
use super::journal::Seq;

/// Longer than a question to S3 can be on its way.
const RECENT: Duration = Duration::from_secs(120);
/// Between a question that came early and whoever it came for.
const MOMENT: Duration = Duration::from_secs(1);
/// What is remembered of names without inode is swept at every so many changes.
const SWEEP: u64 = 512;

/// An inode number. Never used twice in the life of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ino(pub(crate) u64);

impl Ino {
    /// The root of the volume.
    pub(crate) const ROOT: Self = Self(1);
}

impl std::fmt::Display for Ino {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// When S3 was asked, and in which epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    at: Instant,
    epoch: u64,
}

/// What the tree knows about a name.
#[derive(Debug)]
pub(crate) enum Known {
    Node(Ino),
    Absent,
    Ask(Question),
}

/// What to ask S3 about a name.
#[derive(Debug)]
pub(crate) struct Question {
    /// Where it may be, the likeliest last; a move copies before it deletes, so the order loses nothing.
    pub(crate) paths: Vec<String>,
    /// When it was asked: local changes after this win, and an epoch raised after this ends the trust in the answer.
    pub(crate) asked: Asked,
    /// What it was, as far as known.
    pub(crate) hint: Hint,
    /// What [`Tree::remembers`] will do where S3 does not answer soon.
    pub(crate) older: bool,
}

/// When S3 was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    stamp: Stamp,
    clock: u64,
}

/// What was once known about a name, however long ago.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    Node(Ino),
    Absent,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    File,
    /// Most likely with a marker.
    Dir,
    Unknown,
    /// It may well be a new name.
    New,
}

/// Everything known.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: HashMap<Ino, Node>,
    next: u64,
    /// Counts local changes and commits.
    clock: u64,
    epoch: u64,
    ttl: Duration,
    /// Operations that are not done, and whether they have started.
    outstanding: HashMap<Seq, bool>,
}

impl Tree {
    /// A tree of a root alone. `ttl`: how long an answer of S3 is trusted.
    pub(crate) fn new(attr: Attr, extra: Extra, ttl: Duration) -> Self {
        let dir = Dir { marker: true, ..Dir::default() };
        let root = Node { extra, ..Node::new(attr, Kind::Dir(dir), Place::Root) };
        let nodes = HashMap::from([(Ino::ROOT, root)]);
        Self { nodes, next: Ino::ROOT.0 + 1, clock: 0, epoch: 0, ttl, outstanding: HashMap::new() }
    }

    pub(crate) fn get(&self, ino: Ino) -> Result<&Node> {
        self.nodes.get(&ino).ok_or(VolumeError::NotFound)
    }

    pub(crate) fn get_mut(&mut self, ino: Ino) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(VolumeError::NotFound)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (Ino, &Node)> {
        self.nodes.iter().map(|(ino, node)| (*ino, node))
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Now, in this epoch.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { at: Instant::now(), epoch: self.epoch }
    }

    pub(crate) fn is_fresh(&self, stamp: Option<Stamp>) -> bool {
        self.is_fresh_within(stamp, Duration::ZERO)
    }

    /// Whether it is no older than `grace`, if that is longer than what is trusted anyway.
    pub(crate) fn is_fresh_within(&self, stamp: Option<Stamp>, grace: Duration) -> bool {
        stamp.is_some_and(|stamp| stamp.epoch == self.epoch && stamp.at.elapsed() < self.ttl.max(grace))
    }

    /// Whether an answer to what was asked then may still be given: where nothing is trusted, for a moment.
    pub(crate) fn may_answer(&self, asked: Asked) -> bool {
        let moment = if self.ttl.is_zero() { MOMENT } else { Duration::ZERO };
        self.is_fresh_within(Some(asked.stamp), moment)
    }

    /// Whether S3's word of then will do where it does not answer soon: not one of an earlier epoch, and none where every
    /// open asks.
    pub(crate) fn will_do(&self, stamp: Option<Stamp>) -> bool {
        !self.ttl.is_zero() && stamp.is_some_and(|stamp| stamp.epoch == self.epoch)
    }

    /// Nothing that S3 said before this is trusted any more.
    pub(crate) fn raise_epoch(&mut self) {
        self.epoch += 1;
    }

    /// To be taken before S3 is asked.
    pub(crate) fn ask(&self) -> Asked {
        Asked { stamp: self.stamp(), clock: self.clock }
    }

    /// The path of an inode that has a name, the root's is empty.
    pub(crate) fn path(&self, ino: Ino) -> Option<String> {
        let mut names = Vec::new();
        let mut at = ino;
        loop {
            match &self.nodes.get(&at)?.place {
                Place::Root => break,
                Place::At { parent, name } => {
                    names.push(name.as_str());
                    at = *parent;
                }
                Place::Gone | Place::Replaced { .. } => return None,
            }
        }
        names.reverse();
        Some(names.join("/"))
    }

    /// The path that an upload of this inode goes to: its own, or the name somebody else took (and it will lose).
    pub(crate) fn upload_path(&self, ino: Ino) -> Option<String> {
        match &self.nodes.get(&ino)?.place {
            Place::Replaced { parent, name } => Some(join(&self.path(*parent)?, name)),
            Place::Root | Place::At { .. } | Place::Gone => self.path(ino),
        }
    }

    /// An operation is acknowledged.
    pub(crate) fn begin(&mut self, seq: Seq) {
        self.outstanding.insert(seq, false);
    }

    /// An operation runs.
    pub(crate) fn started(&mut self, seq: Seq) {
        self.outstanding.insert(seq, true);
    }

    /// An operation is done, failed, or replaced by a later one.
    pub(crate) fn end(&mut self, seq: Seq) {
        self.outstanding.remove(&seq);
    }

    pub(crate) fn is_outstanding(&self, seq: Option<Seq>) -> bool {
        seq.is_some_and(|seq| self.outstanding.contains_key(&seq))
    }

    /// Whether the inode's state is ours to say: S3 does not have it yet.
    pub(crate) fn is_local(&self, node: &Node) -> bool {
        node.dirty || self.is_outstanding(node.pending) || node.error.is_some()
    }

    /// Marks a name as changed here, now.
    pub(crate) fn touch(&mut self, parent: Ino, name: &str) {
        self.clock += 1;
        let changed = Changed { clock: self.clock, at: Instant::now() };
        let Ok(dir) = self.get_mut(parent).and_then(Node::dir_mut) else { return };
        if changed.clock.is_multiple_of(SWEEP) {
            dir.recent.retain(|_, changed| changed.at.elapsed() < RECENT);
        }
        dir.recent.insert(name.to_owned(), changed);
    }

    /// What is known about a name without asking.
    pub(crate) fn knows(&self, parent: Ino, name: &str) -> Result<Known> {
        let dir = self.get(parent)?.dir()?;
        let (hint, stamp) = match dir.children.get(name) {
            Some(Child::Node(ino)) => {
                let node = self.get(*ino)?;
                if self.is_local(node) || self.is_fresh(node.checked) {
                    return Ok(Known::Node(*ino));
                }
                (hint(node), node.checked)
            }
            Some(Child::Gone(seq)) if self.is_outstanding(Some(*seq)) => return Ok(Known::Absent),
            Some(Child::Absent(stamp)) if self.is_fresh(Some(*stamp)) => return Ok(Known::Absent),
            Some(Child::Listed(Listed::File { .. })) => (Hint::File, None),
            Some(Child::Listed(Listed::Dir)) => (Hint::Dir, None),
            Some(Child::Gone(_) | Child::Absent(_)) | None if self.is_fresh(dir.listed) => return Ok(Known::Absent),
            Some(Child::Absent(stamp)) => (Hint::New, Some(*stamp)),
            Some(Child::Gone(_)) => (Hint::New, None),
            None => (Hint::New, dir.listed),
        };
        let paths: Vec<String> = self.places(parent).iter().map(|place| join(place, name)).collect();
        if paths.is_empty() {
            // Nobody else has a part in this directory yet: what is known is all there is.
            return Ok(self.child(parent, name).map_or(Known::Absent, Known::Node));
        }
        Ok(Known::Ask(Question { paths, asked: self.ask(), hint, older: self.will_do(stamp) }))
    }

    /// Whether a listing is to be asked for before a question about one more name that may be new; of how many pages at
    /// most, and whose turn it is to ask.
    pub(crate) fn listing_instead(&self, dir: Ino) -> Option<(usize, Turn)> {
        let dir = self.get(dir).ok()?.dir().ok()?;
        let pages = dir.misses.pages(dir.children.len(), dir.opaque.is_some());
        pages.filter(|_| !self.ttl.is_zero()).map(|pages| (pages, dir.listing.clone()))
    }

    /// Since when S3 is known to have nothing under a name that is free, nor below it.
    pub(crate) fn absent_since(&self, parent: Ino, name: &str) -> Option<Stamp> {
        let dir = self.get(parent).ok()?.dir().ok()?;
        match dir.children.get(name) {
            Some(Child::Absent(stamp)) => Some(*stamp),
            None if self.places(parent).is_empty() => Some(self.stamp()),
            None => dir.listed,
            Some(Child::Node(_) | Child::Gone(_) | Child::Listed(_)) => None,
        }
    }

    /// What was known about a name the last time S3 answered.
    pub(crate) fn remembers(&self, parent: Ino, name: &str) -> Result<Remembered> {
        let dir = self.get(parent)?.dir()?;
        Ok(match dir.children.get(name) {
            Some(Child::Node(ino)) => Remembered::Node(*ino),
            Some(Child::Gone(_) | Child::Absent(_)) => Remembered::Absent,
            None if dir.listed.is_some() => Remembered::Absent,
            Some(Child::Listed(_)) | None => Remembered::Nothing,
        })
    }

    /// Where a directory's content may be beside its own path, and until when.
    pub(crate) fn sources(&self, dir: Ino) -> Vec<(Seq, String)> {
        let (mut sources, mut suffix, mut at) = (Vec::new(), String::new(), dir);
        while let Ok(node) = self.get(at) {
            if let Ok(dir) = node.dir() {
                let live = dir.moved_from.iter().filter(|(seq, _)| self.is_outstanding(Some(*seq)));
                sources.extend(live.map(|(seq, from)| (*seq, join(from, &suffix))));
            }
            let Place::At { parent, name } = &node.place else { break };
            suffix = join(name, &suffix);
            at = *parent;
        }
        sources
    }

    /// The prefixes under which S3 may have the content of a directory: sources first, its own path last. None for a
    /// directory that is only ours so far, or gone.
    pub(crate) fn places(&self, dir: Ino) -> Vec<String> {
        let Some(path) = self.path(dir) else { return Vec::new() };
        let sources = self.sources(dir).into_iter().map(|(_, from)| from);
        let own = (!self.is_opaque(dir)).then_some(path);
        sources.chain(own).collect()
    }

    /// Whether what S3 has under the directory's path is not (yet) the directory's.
    fn is_opaque(&self, dir: Ino) -> bool {
        let mut at = dir;
        while let Ok(node) = self.get(at) {
            let holds = |opaque| match opaque {
                Opaque::UntilDone(seq) => self.outstanding.contains_key(&seq),
                Opaque::UntilStarted(seq) => self.outstanding.get(&seq) == Some(&false),
            };
            if node.dir().is_ok_and(|dir| dir.opaque.is_some_and(holds)) {
                return true;
            }
            let Place::At { parent, .. } = &node.place else { return false };
            at = *parent;
        }
        false
    }

    /// Puts a new inode under a name.
    pub(crate) fn insert(&mut self, parent: Ino, name: &str, mut node: Node) -> Result<Ino> {
        let ino = Ino(self.next);
        node.place = Place::At { parent, name: name.to_owned() };
        let dir = self.get_mut(parent)?.dir_mut()?;
        dir.children.insert(name.to_owned(), Child::Node(ino));
        dir.subdirectories += u32::from(node.is_dir());
        self.next += 1;
        self.nodes.insert(ino, node);
        Ok(ino)
    }

    /// The inode under a name, as far as it is there.
    pub(crate) fn child(&self, parent: Ino, name: &str) -> Option<Ino> {
        match self.get(parent).ok()?.dir().ok()?.children.get(name) {
            Some(Child::Node(ino)) => Some(*ino),
            Some(Child::Gone(_) | Child::Absent(_) | Child::Listed(_)) | None => None,
        }
    }

    /// Takes the inode off its name; what is left there is `rest`.
    pub(crate) fn detach(&mut self, ino: Ino, place: Place, rest: Option<Child>) {
        let Some(Place::At { parent, name }) = self.nodes.get(&ino).map(|node| node.place.clone()) else { return };
        let is_dir = self.nodes.get(&ino).is_some_and(Node::is_dir);
        if let Ok(dir) = self.get_mut(parent).and_then(Node::dir_mut) {
            dir.subdirectories = dir.subdirectories.saturating_sub(u32::from(is_dir));
            match rest {
                Some(child) => dir.children.insert(name, child),
                None => dir.children.remove(&name),
            };
        }
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.place = place;
        }
        self.drop_if_unused(ino);
    }

    /// Gives the inode another name.
    pub(crate) fn reattach(&mut self, ino: Ino, parent: Ino, name: &str) -> Result<()> {
        let is_dir = self.get(ino)?.is_dir();
        let dir = self.get_mut(parent)?.dir_mut()?;
        dir.children.insert(name.to_owned(), Child::Node(ino));
        dir.subdirectories += u32::from(is_dir);
        self.get_mut(ino)?.place = Place::At { parent, name: name.to_owned() };
        Ok(())
    }

    /// Forgets an inode that has no name, no handle, no reference and no operation.
    pub(crate) fn drop_if_unused(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get(&ino) else { return };
        let named = matches!(node.place, Place::Root | Place::At { .. });
        if !named && node.lookups == 0 && node.opens == 0 && !self.is_outstanding(node.pending) {
            self.nodes.remove(&ino);
        }
    }

    /// Forgets a clean inode that only has a name: it can be asked for again.
    pub(crate) fn evict(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get(&ino) else { return };
        let used = node.lookups > 0 || node.opens > 0 || node.is_dir() || self.is_local(node);
        let Place::At { parent, .. } = node.place else { return };
        if !used {
            self.detach(ino, Place::Gone, None);
            self.distrust_listing(parent);
        }
    }

    /// A name is there that the directory's children do not have.
    pub(crate) fn distrust_listing(&mut self, dir: Ino) {
        if let Ok(dir) = self.get_mut(dir).and_then(Node::dir_mut) {
            dir.listed = None;
        }
    }

    /// Whether anything below a directory is ours to say.
    pub(crate) fn has_local_below(&self, dir: Ino) -> bool {
        let Ok(dir) = self.get(dir).and_then(Node::dir) else { return false };
        dir.children.values().any(|child| match child {
            Child::Node(ino) => self.get(*ino).is_ok_and(|node| {
                node.opens > 0 || self.is_local(node) || (node.is_dir() && self.has_local_below(*ino))
            }),
            Child::Gone(_) | Child::Absent(_) | Child::Listed(_) => false,
        })
    }

    /// The names a directory has now, as far as known. Complete right after a listing was merged.
    pub(crate) fn names(&self, dir: Ino) -> Result<Vec<String>> {
        let dir = self.get(dir)?.dir()?;
        let there = dir.children.iter().filter(|(_, child)| matches!(child, Child::Node(_) | Child::Listed(_)));
        Ok(there.map(|(name, _)| name.clone()).collect())
    }
}

/// What an inode most likely still is.
fn hint(node: &Node) -> Hint {
    match &node.kind {
        Kind::Dir(dir) if dir.marker => Hint::Dir,
        Kind::Dir(_) => Hint::Unknown,
        Kind::File(_) | Kind::Symlink(_) | Kind::Special => Hint::File,
    }
}

/// `parent/name`, where either may be empty.
pub(crate) fn join(parent: &str, name: &str) -> String {
    match (parent, name) {
        ("", name) => name.to_owned(),
        (parent, "") => parent.to_owned(),
        (parent, name) => format!("{parent}/{name}"),
    }
}

#[cfg(test)]
mod tests;
