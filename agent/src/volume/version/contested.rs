//! Files that are replaced between their lookup and their open.
//!
//! The kernel walks the path once more when an open is answered with ESTALE; the second time the program gets it. So
//! such a name is *contested* for a while: a lookup of it brings bytes and version together, in one answer of S3, and
//! what a lookup of this walk has found is opened, though it was replaced again. That is no older than the open(2).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::optional;
use crate::volume::Volume;
use crate::volume::error::{Result, VolumeError};
use crate::volume::store::{Etag, ObjectInfo, ObjectKey};
use crate::volume::tree::{Ino, Node, Place};

/// How long the second walk may take, a slow S3 included.
const WALK: Duration = Duration::from_secs(5);
/// Names at a time; of more, some opens fail.
const MOST: usize = 1024;

/// The contested names, and since when.
#[derive(Debug, Default)]
pub(crate) struct Contested {
    names: Mutex<HashMap<(Ino, String), Instant>>,
}

impl Contested {
    fn note(&self, parent: Ino, name: &str, now: Instant) {
        let mut names = self.names.lock();
        if names.len() >= MOST {
            names.retain(|_, since| now.saturating_duration_since(*since) < WALK);
        }
        if names.len() < MOST {
            names.insert((parent, name.to_owned()), now);
        }
    }

    fn has(&self, parent: Ino, name: &str, now: Instant) -> bool {
        let names = self.names.lock();
        // Most of the time, and for every lookup.
        !names.is_empty()
            && names.get(&(parent, name.to_owned())).is_some_and(|since| now.saturating_duration_since(*since) < WALK)
    }
}

/// What S3 has under a key: all of it, where that was asked for and it is small.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(super) info: ObjectInfo,
    pub(super) bytes: Option<Bytes>,
}

impl From<ObjectInfo> for Seen {
    fn from(info: ObjectInfo) -> Self {
        Self { info, bytes: None }
    }
}

impl Volume {
    pub(super) fn is_contested(&self, parent: Ino, name: &str) -> bool {
        self.contested.has(parent, name, Instant::now())
    }

    /// A file was found to be stale: its name is contested from now on.
    pub(crate) fn note_stale(&self, ino: Ino, error: &VolumeError) {
        if !matches!(error, VolumeError::Stale) {
            return;
        }
        if let Some((parent, name)) = self.tree().get(ino).ok().and_then(file_name) {
            self.contested.note(parent, name, Instant::now());
        }
    }

    /// Whether the kernel has just looked up this file, for the second time in one walk.
    pub(crate) fn was_walked_again(&self, ino: Ino) -> bool {
        let tree = self.tree();
        let Ok(node) = tree.get(ino) else { return false };
        tree.is_fresh_within(node.checked, WALK)
            && file_name(node).is_some_and(|(parent, name)| self.is_contested(parent, name))
    }

    /// Looks at an object, and brings along one of at most so many bytes.
    pub(super) async fn look_at(&self, key: &str, most: u64) -> Result<Option<Seen>> {
        if most == 0 {
            return Ok(self.head(key).await?.map(|info| Seen { info, bytes: None }));
        }
        let key = ObjectKey::new(key);
        // Twice: the client gathers what it reads, and hands it over in one.
        let _memory = self.limits.memory(2 * most).await?;
        let seen = optional(self.breaker.patiently(|| self.store.get_within(&key, most)).await)?;
        Ok(seen.map(|(info, bytes)| Seen { info, bytes }))
    }

    /// Keeps the bytes of a version that an inode shows; without them, its open will fetch them.
    pub(super) async fn keep_whole(&self, ino: Ino, etag: &Etag, bytes: &Bytes) {
        if let Err(error) = self.try_keep_whole(ino, etag, bytes).await {
            tracing::debug!(%ino, %error, "bytes that came with a version were not kept");
        }
    }

    async fn try_keep_whole(&self, ino: Ino, etag: &Etag, bytes: &Bytes) -> Result<()> {
        let content = self.tree().get(ino)?.content()?;
        let whole = 0..bytes.len() as u64;
        content.note_use(&self.cut, &whole);
        self.make_room(whole.end).await;
        let mut state = content.state.write().await;
        // What is dirty or sealed is not this version any more.
        let ours = state.dirty || state.sealed.is_some() || !self.remote_is(ino, etag);
        if ours || state.size != whole.end || state.present.contains(whole) {
            return Ok(());
        }
        self.fill(&mut state, bytes)
    }
}

/// The name that a file has, or had until somebody else replaced it.
fn file_name(node: &Node) -> Option<(Ino, &str)> {
    match &node.place {
        Place::At { parent, name } | Place::Replaced { parent, name } if !node.is_dir() => Some((*parent, name)),
        Place::At { .. } | Place::Replaced { .. } | Place::Root | Place::Gone => None,
    }
}

#[cfg(test)]
mod tests;
