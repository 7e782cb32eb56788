//! Directories that are being walked: names that are likely to be looked up next are asked about ahead, many at a time,
//! and the bytes of small files come with them where the walker reads.
//!
//! A walker goes on in the order of names in a directory that was listed. What is asked ahead is trusted no longer than any
//! answer; how much it is goes by the walker's pace, and when he stops, it ends.

mod asked;
mod below;
mod steps;

use std::ops::Bound;
use std::sync::Weak;

use futures::StreamExt;

pub(crate) use self::asked::Asking;
pub(crate) use self::steps::Walks;
use self::steps::{Seen, Step};
use super::Volume;
use super::content::Content;
use super::error::Result;
use super::tree::{Child, Ino, Kind, Listed, Node, Place, Tree};

/// Files up to this size are fetched before they are opened.
const SMALL: u64 = 256 << 10;
/// Bytes that one step of a walk fetches ahead, and the share of the cache that it takes at most.
const BYTES: u64 = 8 << 20;
const CACHE_SHARE: u64 = 16;
/// For so many inodes that may have changed one listing is asked, which tells of all.
const MANY: usize = 4;
/// Names that a walker may leave out, or be behind another one.
const GAP: usize = 8;

/// A name that is likely to be looked up.
#[derive(Debug)]
struct Next {
    name: String,
    /// There is an inode, of which a listing can tell whether it is what it was.
    known: bool,
    /// S3 must be asked about it.
    ask: bool,
    /// So many bytes are to be fetched; none when there are many, or all are here.
    fetch: u64,
    /// A directory that was not listed lately.
    directory: bool,
}

impl Volume {
    /// Somebody looks a name up.
    pub(crate) fn walk(&self, parent: Ino, name: &str) {
        // Who makes new names goes nowhere.
        if !is_there(&self.tree(), parent, name) {
            return;
        }
        let Some(step) = self.walks.lock().step(parent, name, |last| seen(&self.tree(), parent, last, name)) else {
            return;
        };
        let Some(volume) = self.this.get().and_then(Weak::upgrade).filter(|_| !self.breaker.is_open()) else { return };
        let Some(turn) = self.asking.step() else { return };
        let from = name.to_owned();
        drop(tokio::spawn(async move {
            let _turn = turn;
            volume.walk_ahead(parent, &from, step).await;
        }));
    }

    /// Somebody lists a directory.
    pub(crate) fn walk_descends(&self, dir: Ino) {
        let place = self.tree().get(dir).map(|node| node.place.clone());
        if let Ok(Place::At { parent, .. }) = place {
            self.walks.lock().descend(parent);
        }
    }

    /// Somebody opens a file to read it.
    pub(crate) fn walk_reads(&self, ino: Ino) {
        let place = self.tree().get(ino).map(|node| node.place.clone());
        if let Ok(Place::At { parent, .. }) = place {
            self.walks.lock().read(parent);
        }
    }

    async fn walk_ahead(&self, parent: Ino, from: &str, step: Step) {
        let mut names = self.next_names(parent, from, step);
        if names.iter().filter(|next| next.known && next.ask).count() >= MANY {
            let _one = self.relisting.lock().await;
            if let Err(error) = self.list(parent, false).await {
                tracing::debug!(%parent, %error, "a directory that is walked cannot be listed");
            }
            names = self.next_names(parent, from, step);
        }
        self.foresee_all(parent, names, step.below).await;
    }

    /// `below`: what comes of directories; see [`Step`].
    async fn foresee_all(&self, parent: Ino, names: Vec<Next>, below: Option<bool>) {
        let work = futures::stream::iter(names).map(|next| async move {
            match below {
                Some(reads) if next.directory => self.foresee_below(parent, &next.name, reads, below::DEPTH).await,
                Some(_) | None => self.foresee(parent, next).await,
            }
        });
        let log = |result: Result<()>| async move {
            if let Err(error) = result {
                tracing::debug!(%parent, %error, "a name is not known ahead");
            }
        };
        work.buffer_unordered(asked::PARALLEL).for_each(log).await;
    }

    fn next_names(&self, parent: Ino, from: &str, step: Step) -> Vec<Next> {
        let tree = self.tree();
        let Ok(dir) = tree.get(parent).and_then(Node::dir) else { return Vec::new() };
        let trusts = !self.options.attr_ttl.is_zero();
        let mut left = BYTES.min(self.options.bounds.cache_bytes / CACHE_SHARE);
        let children = dir.children.range::<str, _>((Bound::Excluded(from), Bound::Unbounded)).take(step.names);
        let wanted = children.filter_map(|(name, child)| next(&tree, name, child)).map(|next| {
            // Without trust nothing can be asked ahead; bytes are bound to their version.
            let fetches = step.reads && next.fetch <= left && (next.known || trusts);
            let fetch = if fetches { next.fetch } else { 0 };
            left -= fetch;
            Next { ask: next.ask && trusts, fetch, ..next }
        });
        let wanted =
            wanted.filter(|next| if next.directory { step.below.is_some() } else { next.ask || next.fetch > 0 });
        wanted.collect()
    }

    /// Asks about a name and fetches its bytes, in one request if it can be.
    async fn foresee(&self, parent: Ino, next: Next) -> Result<()> {
        let _turn = self.asking.turn().await?;
        let _memory = self.limits.ahead(2 * next.fetch).await?;
        if self.breaker.is_open() {
            return Ok(());
        }
        if next.ask {
            let Some(_asking) = self.asking.begin(parent, &next.name) else { return Ok(()) };
            self.resolve_now(parent, &next.name, next.fetch).await?;
        }
        if next.fetch == 0 {
            return Ok(());
        }
        let (ino, content) = {
            let tree = self.tree();
            let Some(ino) = tree.child(parent, &next.name) else { return Ok(()) };
            (ino, tree.get(ino)?.content()?)
        };
        // One that has grown meanwhile is not small any more.
        self.ensure(ino, &content, 0..next.fetch).await
    }
}

/// What there is to know of a name before somebody looks it up.
fn next(tree: &Tree, name: &str, child: &Child) -> Option<Next> {
    let name = name.to_owned();
    let few = |size: u64| if size <= SMALL { size } else { 0 };
    match child {
        Child::Listed(Listed::File { size, .. }) => {
            Some(Next { name, known: false, ask: true, fetch: few(*size), directory: false })
        }
        Child::Listed(Listed::Dir) => Some(Next { name, known: false, ask: true, fetch: 0, directory: true }),
        Child::Gone(_) | Child::Absent(_) => None,
        Child::Node(ino) => {
            let node = tree.get(*ino).ok().filter(|node| !tree.is_local(node))?;
            let directory = match node.dir() {
                Ok(dir) if tree.is_fresh(dir.listed) => return None,
                result => result.is_ok(),
            };
            let fetch = match &node.kind {
                Kind::File(content) if lacks_bytes(content) => few(node.size),
                Kind::File(_) | Kind::Dir(_) | Kind::Symlink(_) | Kind::Special => 0,
            };
            Some(Next { name, known: true, ask: !tree.is_fresh(node.checked), fetch, directory })
        }
    }
}

/// Whether bytes of a file are neither here nor on their way.
fn lacks_bytes(content: &Content) -> bool {
    let lacks = content.state.try_read().is_ok_and(|state| !state.has(0..state.size));
    lacks && content.flights.try_lock().is_some_and(|flights| flights.is_empty())
}

fn is_there(tree: &Tree, parent: Ino, name: &str) -> bool {
    let child = tree.get(parent).and_then(Node::dir).ok().and_then(|dir| dir.children.get(name));
    matches!(child, Some(Child::Node(_) | Child::Listed(_)))
}

/// Where `name` lies in a directory that was listed.
fn seen(tree: &Tree, parent: Ino, last: Option<&str>, name: &str) -> Seen {
    let Ok(dir) = tree.get(parent).and_then(Node::dir) else { return Seen::Elsewhere };
    let few_between =
        |from: Bound<&str>, to: &str| dir.children.range::<str, _>((from, Bound::Excluded(to))).nth(GAP).is_none();
    match last {
        _ if dir.listed.is_none() => Seen::Elsewhere,
        None if few_between(Bound::Unbounded, name) => Seen::Ahead,
        Some(last) if last < name && few_between(Bound::Excluded(last), name) => Seen::Ahead,
        Some(last) if name < last && few_between(Bound::Excluded(name), last) => Seen::Behind,
        Some(_) | None => Seen::Elsewhere,
    }
}
