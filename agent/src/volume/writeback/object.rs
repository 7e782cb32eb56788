//! The small operations: delete, change attributes, directory markers.

use bytes::Bytes;
use uuid::Uuid;

use super::finish::{Effect, Performed, Uploaded};
use crate::volume::Volume;
use crate::volume::attr::{self, Attr, Extra};
use crate::volume::failpoint;
use crate::volume::journal::{Base, Seq};
use crate::volume::store::{Body, Condition, Etag, Headers, ObjectKey, StoreError};
use crate::volume::version::conflict::{self, Resolution};
use crate::volume::version::directory_key;

type Result<T> = std::result::Result<T, StoreError>;

/// A change of the headers of an object.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) seq: Seq,
    pub(super) path: &'a str,
    pub(super) size: u64,
    pub(super) attr: &'a Attr,
    pub(super) extra: &'a Extra,
    pub(super) base: &'a Base,
    pub(super) write: Uuid,
}

impl Volume {
    /// Deletes the version that was unlinked. One that somebody else wrote meanwhile stays.
    pub(super) async fn delete_object(&self, path: &str, base: &Base) -> Result<Performed> {
        let outcome = |now| Ok(Performed::new(vec![(path.to_owned(), now)], Effect::None));
        let (_, Some(etag)) = self.condition(path, base).await? else { return outcome(Base::Absent) };
        match self.delete_version(path, &etag).await {
            Ok(()) => {
                failpoint::hit(failpoint::DELETE_DONE);
                outcome(Base::Absent)
            }
            Err(StoreError::Conflict(_)) => match self.look(path).await? {
                None => outcome(Base::Absent),
                Some(info) if info.etag == etag => {
                    Err(StoreError::Transient(path.to_owned(), "the key is busy".to_owned()))
                }
                Some(_) => {
                    tracing::info!(path, "somebody else wrote the file that was deleted here, theirs stays");
                    outcome(Base::Unknown)
                }
            },
            Err(error) => Err(error),
        }
    }

    /// Deletes one version; where the server knows no conditional DELETE, whatever is there.
    pub(super) async fn delete_version(&self, path: &str, etag: &Etag) -> Result<()> {
        let key = ObjectKey::new(path);
        let result = match self.store.delete(&key, &Condition::Matches(etag.clone())).await {
            Err(StoreError::Refused(_, _)) => self.store.delete(&key, &Condition::Always).await,
            result => result,
        };
        match result {
            Err(StoreError::NotFound(_)) => Ok(()),
            result => result,
        }
    }

    /// Copies an object onto itself with new headers. When somebody else wrote it meanwhile, their attributes stay.
    pub(super) async fn set_attributes(&self, change: &Change<'_>) -> Result<Performed> {
        let path = change.path;
        let outcome = |base| vec![(path.to_owned(), base)];
        let (condition, Some(etag)) = self.condition(path, change.base).await? else {
            return Ok(Performed::new(outcome(Base::Unknown), Effect::None));
        };
        let headers = attr::to_headers(change.attr, change.extra, content_type(change), change.write);
        let key = ObjectKey::new(path);
        self.abort_copies(change.seq, path, change.size).await?;
        let etag = match self.copy_version(&key, &etag, change.size, &key, &headers, &condition).await {
            Ok(etag) => etag,
            Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => {
                match conflict::resolve(&condition, change.write, self.look(path).await?.as_ref()) {
                    Resolution::Ours(etag) => etag,
                    Resolution::Again => {
                        return Err(StoreError::Transient(path.to_owned(), "the key is busy".to_owned()));
                    }
                    Resolution::Lost => {
                        tracing::info!(path, "somebody else changed the file, its attributes stay theirs");
                        return Ok(Performed::new(outcome(Base::Unknown), Effect::None));
                    }
                }
            }
            Err(error) => return Err(error),
        };
        failpoint::hit(failpoint::ATTRIBUTES_DONE);
        let done = Uploaded { path: path.to_owned(), etag, size: change.size, content_type: headers.content_type };
        Ok(Performed::new(outcome(done.base()), Effect::Uploaded(done)))
    }

    /// Makes a directory's marker; one that is there already is as good.
    pub(super) async fn make_marker(&self, path: &str, attr: &Attr, write: Uuid) -> Result<Performed> {
        let headers = marker_headers(attr, &Extra::default(), write);
        match self.put_empty(path, &headers, &Condition::Absent).await {
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(Performed::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes a directory's marker anew. `plain`: there is none of another form.
    pub(super) async fn put_marker(
        &self,
        path: &str,
        attr: &Attr,
        extra: &Extra,
        write: Uuid,
        plain: bool,
    ) -> Result<Performed> {
        let headers = marker_headers(attr, extra, write);
        let others = async { if plain { Ok(Vec::new()) } else { self.other_forms(path).await } };
        let (_, others) = tokio::try_join!(self.put_empty(path, &headers, &Condition::Always), others)?;
        self.remove_forms(others).await?;
        Ok(Performed::default())
    }

    pub(super) async fn put_empty(&self, path: &str, headers: &Headers, condition: &Condition) -> Result<Etag> {
        let key = ObjectKey::new(directory_key(path));
        self.store.put(&key, Body::Bytes(Bytes::new()), headers, condition).await
    }

    /// Deletes a directory's marker.
    pub(super) async fn remove_marker(&self, path: &str, plain: bool) -> Result<Performed> {
        let others = async { if plain { Ok(()) } else { self.remove_other_forms(path).await } };
        tokio::try_join!(others, self.remove_record(path))?;
        match self.store.delete(&ObjectKey::new(directory_key(path)), &Condition::Always).await {
            Ok(()) | Err(StoreError::NotFound(_)) => Ok(Performed::default()),
            Err(error) => Err(error),
        }
    }
}

fn marker_headers(attr: &Attr, extra: &Extra, write: Uuid) -> Headers {
    attr::to_headers(attr, extra, attr::DIRECTORY_TYPE, write)
}

fn content_type<'a>(change: &'a Change<'_>) -> &'a str {
    change.extra.content_type.as_deref().unwrap_or_else(|| attr::content_type(change.path))
}
