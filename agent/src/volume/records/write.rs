//! Writes records behind everything else: after a quiet moment, one directory after the other. What goes wrong is a record
//! less.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::format::{Entry, Record};
use super::{DIRECTORY, LEAST, MOST, MOST_BYTES, key};
use crate::volume::Volume;
use crate::volume::error::{Result, VolumeError};
use crate::volume::store::{Body, Condition, Headers, ObjectKey, StoreError};
use crate::volume::tree::{Child, Dir, Ino, Listed, Node, Tree, join};
use crate::volume::version::directory_key;

/// How often it is looked whether a record is due.
const LOOK: Duration = Duration::from_secs(1);
/// Files asked about at a time.
const PARALLEL: usize = 16;
const PAGE: u16 = 1000;
/// A record waits for files that are too young when they are more than one in so many.
const SOME: usize = 4;

/// What this node knows of a name.
#[derive(Debug)]
enum Mine {
    /// All that a record has to say.
    Entry(Entry),
    /// There is a version, about which S3 must be asked again.
    Ask,
    /// It has no place in a record.
    Nothing,
}

impl Volume {
    /// Writes records until the volume closes.
    pub(crate) async fn keep_records(self: Arc<Self>) {
        if !self.options.attr_records || self.options.read_only || self.options.attr_ttl.is_zero() {
            return;
        }
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(LOOK.min(self.options.record_after)) => {}
            }
            for dir in self.records.take(self.options.record_after) {
                tokio::select! {
                    () = self.closing.cancelled() => return,
                    result = self.write_record(dir) => match result {
                        Ok(()) | Err(VolumeError::NotFound) => {}
                        Err(error) => tracing::debug!(%dir, %error, "an attribute record was not written"),
                    }
                }
            }
        }
    }

    /// The path of a directory that is nowhere else, and may have a record.
    pub(super) fn recorded_path(&self, tree: &Tree, dir: Ino) -> Option<String> {
        let path = tree.path(dir)?;
        (tree.places(dir) == [path.clone()]).then_some(path)
    }

    async fn write_record(&self, dir: Ino) -> Result<()> {
        let Some(path) = self.recorded_path(&self.tree(), dir) else { return Ok(()) };
        let Some(key) = key(&path) else { return Ok(()) };
        let names = {
            let tree = self.tree();
            let files = tree.get(dir)?.dir()?.children.iter();
            let mine = files.map(|(name, child)| (name.clone(), mine(&tree, child)));
            mine.filter(|(_, mine)| !matches!(mine, Mine::Nothing)).collect::<Vec<_>>()
        };
        if names.len() < LEAST || names.len() > MOST || self.breaker.is_open() {
            return Ok(());
        }
        let ask = names.into_iter().filter(|(_, mine)| matches!(mine, Mine::Ask));
        let asked = futures::stream::iter(ask).map(|(name, _)| self.look_again(dir, name)).buffer_unordered(PARALLEL);
        asked.try_collect::<()>().await?;
        if self.wait_for_the_young(dir)? {
            return Ok(());
        }
        self.records.note_written(dir);
        let old = self.fetch_record(&path).await?.map(|(record, _)| record.files).unwrap_or_default();
        let files = {
            let tree = self.tree();
            if self.recorded_path(&tree, dir).as_ref() != Some(&path) {
                return Ok(());
            }
            merge(&tree, tree.get(dir)?.dir()?, &old)
        };
        if files == old || files.len() < LEAST || files.len() > MOST {
            return Ok(());
        }
        self.put_record(&key, &Record::new(&path, files)).await
    }

    /// Looks at a directory again later when some of its files are too young for a record; whether that are so many that
    /// nothing is written before.
    fn wait_for_the_young(&self, dir: Ino) -> Result<bool> {
        let tree = self.tree();
        let files = tree.get(dir)?.dir()?.children.values().map(|child| mine(&tree, child));
        let (mut known, mut young) = (0, 0);
        files.for_each(|mine| match mine {
            Mine::Entry(_) => known += 1,
            Mine::Ask => young += 1,
            Mine::Nothing => {}
        });
        if young > 0 {
            self.records.note(dir);
        }
        Ok(young * SOME > known)
    }

    async fn put_record(&self, key: &str, record: &Record) -> Result<()> {
        let bytes = Bytes::from(record.to_bytes().map_err(std::io::Error::other)?);
        if bytes.len() as u64 > MOST_BYTES {
            return Ok(());
        }
        let headers = Headers { content_type: Some("application/json".to_owned()), ..Headers::default() };
        self.store.put(&ObjectKey::new(key), Body::Bytes(bytes), &headers, &Condition::Always).await?;
        Ok(())
    }

    /// Deletes the record of a directory that goes.
    pub(crate) async fn remove_record(&self, path: &str) -> std::result::Result<(), StoreError> {
        let Some(key) = key(path).filter(|_| self.options.attr_records) else { return Ok(()) };
        match self.store.delete(&ObjectKey::new(key), &Condition::Always).await {
            Err(StoreError::NotFound(_)) => Ok(()),
            result => result,
        }
    }

    /// Deletes the records of a directory that was moved, and of those below it.
    pub(crate) async fn remove_records(&self, path: &str) -> std::result::Result<(), StoreError> {
        if !self.options.attr_records {
            return Ok(());
        }
        let prefix = directory_key(&join(DIRECTORY, path));
        loop {
            let page = self.store.list(&prefix, None, None, PAGE).await?;
            if page.objects.is_empty() {
                return Ok(());
            }
            let deletions = futures::stream::iter(page.objects)
                .map(|object| async move { self.store.delete(&object.key, &Condition::Always).await });
            deletions.buffer_unordered(PARALLEL).try_collect::<()>().await?;
        }
    }
}

/// What is known of a child: of what S3 has, as S3 has it, seen when it was old enough.
fn mine(tree: &Tree, child: &Child) -> Mine {
    let Child::Node(ino) = child else { return Mine::Nothing };
    let Some(node) = tree.get(*ino).ok().filter(|node| !node.is_dir() && !tree.is_local(node)) else {
        return Mine::Nothing;
    };
    let Some(remote) = &node.remote else { return Mine::Nothing };
    match remote.last_modified.filter(|_| !remote.racy) {
        Some(modified) => entry(node, modified).map_or(Mine::Nothing, Mine::Entry),
        None => Mine::Ask,
    }
}

fn entry(node: &Node, modified: std::time::SystemTime) -> Option<Entry> {
    let remote = node.remote.as_ref()?;
    Entry::new(&remote.etag, remote.size, modified, remote.told, node.attr, &node.extra)
}

/// What this node knows, and of what the last record has that which may still be so.
fn merge(tree: &Tree, dir: &Dir, old: &BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    let may_be = |name: &String, entry: &Entry| match dir.children.get(name) {
        Some(Child::Listed(Listed::File { etag, size, last_modified })) => {
            entry.is_version(etag, *size, *last_modified)
        }
        Some(Child::Node(ino)) => tree.get(*ino).is_ok_and(|node| !node.is_dir()),
        Some(Child::Listed(Listed::Dir) | Child::Gone(_) | Child::Absent(_)) => false,
        None => dir.listed.is_none(),
    };
    let kept = old.iter().filter(|(name, entry)| may_be(name, entry));
    let mut files: BTreeMap<String, Entry> = kept.map(|(name, entry)| (name.clone(), entry.clone())).collect();
    for (name, child) in &dir.children {
        if let Mine::Entry(entry) = mine(tree, child) {
            files.insert(name.clone(), entry);
        }
    }
    files
}
