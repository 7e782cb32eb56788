//! Uploads: one PUT for a small file, parts for a large one, conditional either way.
//!
//! The loser of a race keeps its bytes under a name of its own beside the winner.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use uuid::Uuid;

use super::finish::{Effect, Performed, Uploaded};
use crate::volume::Volume;
use crate::volume::attr::{self, Attr, Extra};
use crate::volume::cache::DataFile;
use crate::volume::journal::Base;
use crate::volume::store::{Body, Condition, Etag, Headers, ObjectKey, Part, StoreError};
use crate::volume::version::conflict::{self, Resolution};

/// Larger files go up in parts.
const SINGLE_PUT_BYTES: u64 = 64 << 20;
const PART_BYTES: u64 = 16 << 20;
const MAX_PARTS: u64 = 10_000;
const PARALLEL_PARTS: usize = 4;
/// How often S3 may be busy with a key before the whole operation starts again.
const BUSY: usize = 5;

type Result<T> = std::result::Result<T, StoreError>;

/// What an object is made of.
#[derive(Debug)]
pub(super) enum Source {
    Data(Arc<DataFile>),
    /// The target of a symbolic link; nothing for a device, FIFO or socket.
    Inline(Bytes),
}

impl Source {
    fn length(&self) -> Result<u64> {
        match self {
            Self::Data(data) => Ok(data.file.metadata().map_err(|error| StoreError::Local(error.to_string()))?.len()),
            Self::Inline(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn body(&self, length: u64) -> Body {
        match self {
            Self::Data(data) => Body::file(&data.path, 0..length),
            Self::Inline(bytes) => Body::Bytes(bytes.clone()),
        }
    }
}

/// One object to be written.
#[derive(Debug)]
pub(super) struct Upload<'a> {
    pub(super) path: &'a str,
    pub(super) attr: &'a Attr,
    pub(super) extra: &'a Extra,
    pub(super) base: &'a Base,
    pub(super) write: Uuid,
    pub(super) source: Source,
}

impl Volume {
    pub(super) async fn put_file(&self, upload: &Upload<'_>) -> Result<Performed> {
        let content_type = match upload.source {
            Source::Data(_) => attr::content_type(upload.path),
            Source::Inline(_) => attr::UNKNOWN_TYPE,
        };
        let headers = attr::to_headers(upload.attr, upload.extra, content_type, upload.write);
        let (condition, _) = self.condition(upload.path, upload.base).await?;
        let size = upload.source.length()?;
        if let Some(etag) = self.settle(upload, upload.path, &headers, &condition).await? {
            let done =
                Uploaded { path: upload.path.to_owned(), etag, size, content_type: headers.content_type.clone() };
            return Ok(Performed::new(vec![(done.path.clone(), done.base())], Effect::Uploaded(done)));
        }
        self.keep_loser(upload, &headers, size).await
    }

    /// The condition for a write over `base`, and the version it names.
    pub(super) async fn condition(&self, key: &str, base: &Base) -> Result<(Condition, Option<Etag>)> {
        match base {
            Base::Absent => Ok((Condition::Absent, None)),
            Base::Version(etag) => Ok((Condition::Matches(etag.clone()), Some(etag.clone()))),
            Base::Unknown => match self.look(key).await? {
                Some(info) => Ok((Condition::Matches(info.etag.clone()), Some(info.etag))),
                None => Ok((Condition::Absent, None)),
            },
        }
    }

    /// One HEAD; the caller retries.
    pub(super) async fn look(&self, key: &str) -> Result<Option<crate::volume::store::ObjectInfo>> {
        match self.store.head(&ObjectKey::new(key)).await {
            Ok(info) => Ok(Some(info)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes until it is certain who won: our version's tag, or none when somebody else's is there.
    async fn settle(
        &self,
        upload: &Upload<'_>,
        path: &str,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Option<Etag>> {
        for _ in 0..BUSY {
            match self.send(upload, path, headers, condition).await {
                Ok(etag) => return Ok(Some(etag)),
                Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            match conflict::resolve(condition, upload.write, self.look(path).await?.as_ref()) {
                Resolution::Ours(etag) => return Ok(Some(etag)),
                Resolution::Lost => return Ok(None),
                Resolution::Again => {}
            }
        }
        Err(StoreError::Transient(path.to_owned(), "the key stays busy".to_owned()))
    }

    async fn keep_loser(&self, upload: &Upload<'_>, headers: &Headers, size: u64) -> Result<Performed> {
        let mut copy = conflict::copy_name(upload.path, &self.options.node_name, upload.attr.mtime);
        let mut etag = self.settle(upload, &copy, headers, &Condition::Absent).await?;
        if etag.is_none() {
            copy = format!("{copy}-{}", &upload.write.simple().to_string()[..8]);
            etag = self.settle(upload, &copy, headers, &Condition::Absent).await?;
        }
        let etag = etag.ok_or_else(|| StoreError::Refused(copy.clone(), "both conflict names are taken".to_owned()))?;
        tracing::warn!(path = upload.path, copy, "somebody else changed the file first, ours is kept beside it");
        let done = Uploaded { path: copy, etag, size, content_type: headers.content_type.clone() };
        Ok(Performed::new(vec![(upload.path.to_owned(), Base::Unknown)], Effect::Lost(done)))
    }

    async fn send(&self, upload: &Upload<'_>, path: &str, headers: &Headers, condition: &Condition) -> Result<Etag> {
        let key = ObjectKey::new(path);
        let length = upload.source.length()?;
        match &upload.source {
            Source::Data(data) if length > SINGLE_PUT_BYTES => {
                self.send_parts(&key, data, length, headers, condition).await
            }
            source => self.store.put(&key, source.body(length), headers, condition).await,
        }
    }

    async fn send_parts(
        &self,
        key: &ObjectKey,
        data: &DataFile,
        length: u64,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Etag> {
        let upload = self.store.multipart_begin(key, headers).await?;
        let result = match self.put_parts(key, &upload, data, length).await {
            Ok(parts) => self.store.multipart_complete(key, &upload, &parts, condition).await,
            Err(error) => Err(error),
        };
        if result.is_ok() {
            return result;
        }
        if let Err(error) = self.store.multipart_abort(key, &upload).await {
            tracing::info!(%key, %error, "a multipart upload could not be given up");
        }
        result
    }

    async fn put_parts(&self, key: &ObjectKey, upload: &str, data: &DataFile, length: u64) -> Result<Vec<Part>> {
        let size = part_size(length);
        futures::stream::iter((0..length.div_ceil(size)).map(|index| (index, index * size)))
            .map(|(index, start)| async move {
                let number = i32::try_from(index + 1).map_err(|error| StoreError::Local(error.to_string()))?;
                let body = Body::file(&data.path, start..(start + size).min(length));
                self.put_part(key, upload, number, body).await
            })
            .buffered(PARALLEL_PARTS)
            .try_collect()
            .await
    }

    /// One part, tried again a few times by itself: it would be a pity to send all others again.
    async fn put_part(&self, key: &ObjectKey, upload: &str, number: i32, body: Body) -> Result<Part> {
        let mut pause = super::FIRST_BACKOFF;
        for _ in 1..BUSY {
            match self.store.multipart_put(key, upload, number, body.clone()).await {
                Err(StoreError::Transient(_, _)) => tokio::time::sleep(pause).await,
                result => return result,
            }
            pause *= 2;
        }
        self.store.multipart_put(key, upload, number, body).await
    }
}

/// Bytes of a part, so that there are at most [`MAX_PARTS`].
fn part_size(length: u64) -> u64 {
    PART_BYTES.max(length.div_ceil(MAX_PARTS).next_multiple_of(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_never_too_many() {
        assert_eq!(part_size(100 << 20), PART_BYTES);
        for length in [1u64 << 30, 5 << 40, 48 << 40] {
            assert!(length.div_ceil(part_size(length)) <= MAX_PARTS);
        }
    }
}
