//! Moves: S3 has no rename, so it is a copy on the server and a deletion, for a directory of every key below it.
//!
//! Every step may be repeated: what was copied already is recognized by the id of the write, or by its ETag.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use uuid::Uuid;

use super::PARALLEL_MOVES;
use super::finish::{Effect, Performed, Uploaded};
use crate::volume::Volume;
use crate::volume::attr::{self, Attr, Extra};
use crate::volume::failpoint;
use crate::volume::journal::{Base, Outcome, Seq};
use crate::volume::store::{Body, Condition, Etag, Headers, ListedObject, ObjectInfo, ObjectKey, StoreError};
use crate::volume::version::conflict::{self, Resolution};
use crate::volume::version::directory_key;

const PAGE: u16 = 1000;

type Result<T> = std::result::Result<T, StoreError>;

/// One object to be moved.
#[derive(Debug)]
pub(super) struct Copy<'a> {
    pub(super) seq: Seq,
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) source: &'a Base,
    pub(super) base: &'a Base,
    pub(super) attr: &'a Attr,
    pub(super) extra: &'a Extra,
    pub(super) write: Uuid,
}

/// Where an object is now. Its size is that of the object, not of the file, which may be written to meanwhile.
struct Copied {
    path: String,
    etag: Etag,
    size: u64,
}

impl Volume {
    pub(super) async fn rename_object(&self, copy: &Copy<'_>) -> Result<Performed> {
        let content_type = match copy.attr.kind() {
            libc::S_IFREG => attr::content_type(copy.to),
            _ => attr::UNKNOWN_TYPE,
        };
        let headers = attr::to_headers(copy.attr, copy.extra, content_type, copy.write);
        let Some(Copied { path, etag, size }) = self.copy_object(copy, &headers).await? else {
            tracing::warn!(from = copy.from, to = copy.to, "somebody else deleted the file that was to be renamed");
            return Ok(Performed::new(unknown(copy), Effect::None));
        };
        failpoint::hit(failpoint::RENAME_COPIED);
        if let Some(source) = self.source_version(copy).await? {
            match self.delete_version(copy.from, &source).await {
                Ok(()) | Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        failpoint::hit(failpoint::RENAME_DONE);
        let lost = path != copy.to;
        let done = Uploaded { path, etag, size, content_type: headers.content_type.clone() };
        if lost {
            return Ok(Performed::new(unknown(copy), Effect::Lost(done)));
        }
        let outcome = vec![(copy.from.to_owned(), Base::Absent), (copy.to.to_owned(), done.base())];
        Ok(Performed::new(outcome, Effect::Uploaded(done)))
    }

    /// The version under the old name that is to go: the one that was copied, not what somebody else put there since.
    async fn source_version(&self, copy: &Copy<'_>) -> Result<Option<Etag>> {
        match copy.source {
            Base::Absent => Ok(None),
            Base::Version(etag) => Ok(Some(etag.clone())),
            Base::Unknown => Ok(self.look(copy.from).await?.map(|info| info.etag)),
        }
    }

    /// Copies to the new name, or to a conflict name when somebody else has changed the new one. None: there is no
    /// source, and no trace of an earlier attempt of this very copy.
    async fn copy_object(&self, copy: &Copy<'_>, headers: &Headers) -> Result<Option<Copied>> {
        let target = self.look(copy.to).await?;
        if let Some(done) = target.filter(|info| attr::write_id(&info.headers) == Some(copy.write)) {
            return Ok(Some(Copied { path: copy.to.to_owned(), etag: done.etag, size: done.size }));
        }
        if *copy.source == Base::Absent {
            return Ok(None);
        }
        let Some(source) = self.look(copy.from).await? else { return Ok(None) };
        let copied = |path: String, etag| Some(Copied { path, etag, size: source.size });
        let (condition, _) = self.condition(copy.to, copy.base).await?;
        if let Some(etag) = self.copy_conditionally(copy, &source, copy.to, headers, &condition).await? {
            return Ok(copied(copy.to.to_owned(), etag));
        }
        let name = conflict::copy_name(copy.to, &self.options.node_name, copy.attr.ctime);
        let etag = self.copy_conditionally(copy, &source, &name, headers, &Condition::Absent).await?;
        let etag = etag.ok_or_else(|| StoreError::Refused(name.clone(), "the conflict name is taken".to_owned()))?;
        tracing::warn!(to = copy.to, copy = name, "somebody else changed the target of a rename first");
        Ok(copied(name, etag))
    }

    async fn copy_conditionally(
        &self,
        copy: &Copy<'_>,
        source: &ObjectInfo,
        to: &str,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Option<Etag>> {
        let (from, key) = (ObjectKey::new(copy.from), ObjectKey::new(to));
        self.abort_copies(copy.seq, to, source.size).await?;
        match self.copy_version(&from, &source.etag, source.size, &key, headers, condition).await {
            Ok(etag) => Ok(Some(etag)),
            Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => {
                match conflict::resolve(condition, copy.write, self.look(to).await?.as_ref()) {
                    Resolution::Ours(etag) => Ok(Some(etag)),
                    Resolution::Lost => Ok(None),
                    Resolution::Again => {
                        Err(StoreError::Transient(to.to_owned(), "source or target is busy".to_owned()))
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Moves every key below a directory, its marker too.
    pub(super) async fn rename_directory(&self, seq: Seq, from: &str, to: &str) -> Result<Performed> {
        let prefix = directory_key(from);
        let mut outcome = Outcome::new();
        let interesting = self.queue.touched_below(to);
        loop {
            let page = self.store.list(&prefix, None, None, PAGE).await?;
            if page.objects.is_empty() {
                tokio::try_join!(self.move_other_forms(from, to), self.remove_records(from))?;
                // What an upload before the move told those who come after it has moved away.
                outcome.extend(self.queue.touched_below(from).into_iter().map(|path| (path, Base::Absent)));
                return Ok(Performed::new(outcome, Effect::Moved { from: from.to_owned(), to: to.to_owned() }));
            }
            let moved: Vec<(String, Etag)> = futures::stream::iter(page.objects)
                .map(|object| self.move_in_turn(seq, object, &prefix, to))
                .buffer_unordered(PARALLEL_MOVES)
                .try_collect()
                .await?;
            let known = moved.into_iter().filter(|(path, _)| interesting.contains(path));
            outcome.extend(known.map(|(path, etag)| (path, Base::Version(etag))));
        }
    }

    /// [`Volume::move_key`], as many at a time as S3 bears.
    async fn move_in_turn(&self, seq: Seq, object: ListedObject, prefix: &str, to: &str) -> Result<(String, Etag)> {
        let slot = self.queue.moves.enter().await;
        let result = self.move_key(seq, object, prefix, to).await;
        let answered = !matches!(result, Err(StoreError::Transient(_, _)));
        slot.into_iter().for_each(|slot| self.queue.moves.leave(slot, answered));
        result
    }

    async fn move_key(&self, seq: Seq, object: ListedObject, prefix: &str, to: &str) -> Result<(String, Etag)> {
        let rest = object.key.as_str().strip_prefix(prefix).unwrap_or_default();
        let target = format!("{}{rest}", directory_key(to));
        let (version, etag) = match self.copy_as_listed(&object, &target).await? {
            Some(etag) => (object.etag, etag),
            None => match self.look(object.key.as_str()).await? {
                Some(source) => {
                    let etag = self.copy_key(seq, &object.key, &source, &target).await?;
                    (source.etag, etag)
                }
                None => return Ok((target, object.etag)),
            },
        };
        self.note_moved_key(seq, rest, &target, (&version, &etag));
        self.delete_version(object.key.as_str(), &version).await.or_else(ignore_conflict)?;
        failpoint::hit(failpoint::RENAME_KEY);
        Ok((target, etag))
    }

    /// What is to replace the version goes by what it is now, even if the move is begun again and does not come by here
    /// any more. A copy of an object that went up in parts has another ETag, by which the inode goes, too. `rest`: the name
    /// below the directory.
    fn note_moved_key(&self, seq: Seq, rest: &str, target: &str, (was, is): (&Etag, &Etag)) {
        let mut tree = self.tree();
        let mut table = self.queue.table.lock();
        table.pending.teach(&vec![(target.to_owned(), Base::Version(is.clone()))]);
        if was == is {
            return;
        }
        let dir = table.pending.get(seq).and_then(|(_, tag)| tag.ino);
        let ino = dir.and_then(|dir| rest.split('/').try_fold(dir, |ino, name| tree.child(ino, name)));
        let Some(Ok(node)) = ino.map(|ino| tree.get_mut(ino)) else { return };
        if node.base == Base::Version(was.clone()) {
            node.base = Base::Version(is.clone());
        }
        node.remote.iter_mut().filter(|remote| remote.etag == *was).for_each(|remote| remote.etag = is.clone());
    }

    /// Copies the version that was listed to where nothing is, in one request. None where it takes more than that.
    async fn copy_as_listed(&self, object: &ListedObject, target: &str) -> Result<Option<Etag>> {
        if target.ends_with('/') || object.size > self.cut.single_copy {
            return Ok(None);
        }
        let key = ObjectKey::new(target);
        match self.store.copy(&object.key, &object.etag, &key, None, &Condition::Absent).await {
            Ok(etag) => Ok(Some(etag)),
            // Done before, taken by somebody else, or another version by now.
            Err(StoreError::Conflict(_) | StoreError::NotFound(_) | StoreError::Refused(_, _)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Copies one key. A file that somebody else made at the new place is left alone, and ours gets a conflict name.
    async fn copy_key(&self, seq: Seq, from: &ObjectKey, source: &ObjectInfo, target: &str) -> Result<Etag> {
        let key = ObjectKey::new(target);
        if target.ends_with('/') {
            return self.copy_marker(from, source, &key).await;
        }
        self.abort_copies(seq, target, source.size).await?;
        let condition = Condition::Absent;
        match self.copy_version(from, &source.etag, source.size, &key, &source.headers, &condition).await {
            Ok(etag) => Ok(etag),
            Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => match self.look(target).await? {
                Some(there) if same_object(&there, source) => Ok(there.etag),
                Some(_) => {
                    let time = attr::Time::from(source.last_modified);
                    let name = ObjectKey::new(conflict::copy_name(target, &self.options.node_name, time));
                    tracing::warn!(target, copy = %name, "somebody else has a file where a directory was moved to");
                    self.copy_version(from, &source.etag, source.size, &name, &source.headers, &Condition::Always).await
                }
                None => Err(StoreError::Transient(target.to_owned(), "source or target is busy".to_owned())),
            },
            Err(error) => Err(error),
        }
    }

    /// A marker replaces a marker. All of an empty one is known: not every server copies keys that end in `/`.
    async fn copy_marker(&self, from: &ObjectKey, source: &ObjectInfo, to: &ObjectKey) -> Result<Etag> {
        if source.size == 0 {
            return self.store.put(to, Body::Bytes(Bytes::new()), &source.headers, &Condition::Always).await;
        }
        self.copy_version(from, &source.etag, source.size, to, &source.headers, &Condition::Always).await
    }
}

/// Whether `there` is a copy of `source`: the same bytes (a copy in one step keeps the ETag), or the same write.
fn same_object(there: &ObjectInfo, source: &ObjectInfo) -> bool {
    let same_write = attr::write_id(&there.headers).is_some_and(|id| attr::write_id(&source.headers) == Some(id));
    there.size == source.size && (same_write || there.etag == source.etag)
}

fn ignore_conflict(error: StoreError) -> Result<()> {
    match error {
        StoreError::Conflict(_) => Ok(()),
        error => Err(error),
    }
}

fn unknown(copy: &Copy<'_>) -> Outcome {
    vec![(copy.from.to_owned(), Base::Unknown), (copy.to.to_owned(), Base::Unknown)]
}
