//! Uploads: one PUT for a small file, parts for a large one, conditional either way.
//!
//! The loser of a race keeps its bytes under a name of its own beside the winner.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use uuid::Uuid;

use super::finish::{Effect, Performed, Uploaded};
use crate::volume::Volume;
use crate::volume::attr::{self, Attr, Extra};
use crate::volume::cache::DataFile;
use crate::volume::content::Origin;
use crate::volume::failpoint;
use crate::volume::journal::{Base, OpenUpload, Seq};
use crate::volume::spill::{Cut, Place, Spilled};
use crate::volume::store::{Body, Condition, Etag, Headers, ObjectKey, Part, StoreError};
use crate::volume::version::conflict::{self, Resolution};

const MAX_PARTS: u64 = 10_000;
/// Uploads of more bytes than this wait for their turn to send them.
const SMALL: u64 = 256 << 10;
/// How often S3 may be busy with a key before the whole operation starts again.
const BUSY: usize = 5;

/// Why bytes are not uploaded.
const WENT_DOWN: &str = "the machine went down before the bytes were on the local disk";

type Result<T> = std::result::Result<T, StoreError>;

/// A cache file, what it lacks, and what S3 has of it in the version that is to be replaced.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) file: Arc<DataFile>,
    pub(super) spilled: Spilled,
    pub(super) origin: Option<Origin>,
}

/// What an object is made of.
#[derive(Debug)]
pub(super) enum Source {
    /// A file.
    Data(Data),
    /// The target of a symbolic link; nothing for a device, FIFO or socket.
    Inline(Bytes),
}

impl Source {
    fn length(&self) -> Result<u64> {
        match self {
            Self::Data(data) => {
                Ok(data.file.file.metadata().map_err(|error| StoreError::Local(error.to_string()))?.len())
            }
            Self::Inline(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn body(&self, length: u64) -> Body {
        match self {
            Self::Data(data) => Body::file(&data.file.path, 0..length),
            Self::Inline(bytes) => Body::Bytes(bytes.clone()),
        }
    }
}

/// One object to be written.
#[derive(Debug)]
pub(super) struct Upload<'a> {
    pub(super) seq: Seq,
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

    /// An upload that may have been done before the machine went down, and must not be done any more.
    pub(super) async fn expect_uploaded(&self, path: &str, write: Uuid) -> Result<Performed> {
        match self.look(path).await?.filter(|info| attr::write_id(&info.headers) == Some(write)) {
            Some(info) => Ok(Performed::new(vec![(path.to_owned(), Base::Version(info.etag))], Effect::None)),
            None => Err(StoreError::Local(WENT_DOWN.to_owned())),
        }
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
        failpoint::hit(failpoint::PUT);
        let key = ObjectKey::new(path);
        let length = upload.source.length()?;
        let etag = match &upload.source {
            Source::Data(data) if self.goes_in_parts(length, &data.spilled) => {
                let origin = data.origin.as_ref().filter(|origin| replaces(condition, origin));
                let parts = Parts { data: &data.file, spilled: &data.spilled, origin, length };
                self.send_parts(upload.seq, &key, &parts, headers, condition).await?
            }
            source if length > SMALL => {
                let call = self.store.put(&key, source.body(length), headers, condition);
                self.transfer(call).await?
            }
            source => self.store.put(&key, source.body(length), headers, condition).await?,
        };
        failpoint::hit(failpoint::PUT_DONE);
        Ok(etag)
    }

    /// Whether a file of so many bytes goes up in parts.
    pub(super) fn goes_in_parts(&self, length: u64, spilled: &Spilled) -> bool {
        length > self.cut.single_put || !spilled.is_empty()
    }

    async fn send_parts(
        &self,
        seq: Seq,
        key: &ObjectKey,
        parts: &Parts<'_>,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Etag> {
        let id = self.store.multipart_begin(key, headers).await?;
        failpoint::hit(failpoint::MULTIPART_BEGUN);
        let upload = OpenUpload { key: key.to_string(), id };
        self.note_upload(seq, upload.clone()).map_err(|error| StoreError::Local(error.to_string()))?;
        failpoint::hit(failpoint::MULTIPART_NOTED);
        let result = match self.put_parts(key, &upload.id, parts).await {
            Ok(sent) => {
                failpoint::hit(failpoint::MULTIPART_COMPLETE);
                self.store.multipart_complete(key, &upload.id, &sent, condition).await
            }
            Err(error) => Err(error),
        };
        if result.is_ok() {
            failpoint::hit(failpoint::MULTIPART_DONE);
            return result;
        }
        if let Err(error) = self.abort_leftover(seq).await {
            tracing::info!(%key, %error, "a multipart upload could not be given up yet");
        }
        result
    }

    async fn put_parts(&self, key: &ObjectKey, upload: &str, parts: &Parts<'_>) -> Result<Vec<Part>> {
        futures::stream::iter(parts.layout(&self.cut))
            .map(|(number, range)| async move {
                let index = u64::from(number) - 1;
                let body = Body::file(&parts.data.path, range.clone());
                let part = match (parts.spilled.get(index), parts.origin) {
                    (Some(place), _) => self.copy_spilled(key, upload, number, place, &range).await?,
                    (None, Some(origin)) if origin.has(index, &range) => {
                        self.copy_untouched(key, upload, number, (&origin.etag, range), body).await?
                    }
                    (None, _) => self.put_part(key, upload, number, body).await?,
                };
                failpoint::hit(failpoint::MULTIPART_PART);
                Ok(part)
            })
            .buffered(super::PARALLEL_PARTS)
            .try_collect()
            .await
    }

    /// S3 makes the part of an object of ours. One that is gone is no conflict about the file.
    async fn copy_spilled(
        &self,
        key: &ObjectKey,
        upload: &str,
        number: u16,
        place: &Place,
        range: &Range<u64>,
    ) -> Result<Part> {
        let (from, number) = (ObjectKey::new(&place.object.key), i32::from(number));
        let within = place.within(range);
        match self.store.multipart_copy(key, upload, number, (&from, &place.object.etag), within).await {
            Err(StoreError::NotFound(what) | StoreError::Conflict(what)) => {
                let why = format!("its part in {from} cannot be copied: {what} is gone");
                Err(StoreError::Refused(key.to_string(), why))
            }
            result => result,
        }
    }

    /// S3 makes the part of the version that is to be replaced. Where that is gone, or the server does not do it, it is
    /// sent: the end of the upload tells whether somebody else was faster.
    async fn copy_untouched(
        &self,
        key: &ObjectKey,
        upload: &str,
        number: u16,
        (etag, range): (&Etag, Range<u64>),
        body: Body,
    ) -> Result<Part> {
        match self.store.multipart_copy(key, upload, i32::from(number), (key, etag), range).await {
            Err(StoreError::NotFound(_) | StoreError::Conflict(_) | StoreError::Refused(_, _)) => {
                self.put_part(key, upload, number, body).await
            }
            result => result,
        }
    }

    /// One part, tried again a few times by itself: it would be a pity to send all others again.
    async fn put_part(&self, key: &ObjectKey, upload: &str, number: u16, body: Body) -> Result<Part> {
        let number = i32::from(number);
        let mut pause = self.options.first_pause;
        for _ in 1..BUSY {
            match self.transfer(self.store.multipart_put(key, upload, number, body.clone())).await {
                Err(StoreError::Transient(_, _)) => tokio::time::sleep(pause).await,
                result => return result,
            }
            pause *= 2;
        }
        self.transfer(self.store.multipart_put(key, upload, number, body)).await
    }

    /// A call that moves many bytes, when it is its turn.
    async fn transfer<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let slot = self.queue.parts.enter().await;
        let result = call.await;
        let answered = !matches!(result, Err(StoreError::Transient(_, _)));
        slot.into_iter().for_each(|slot| self.queue.parts.leave(slot, answered));
        result
    }
}

/// A large file.
#[derive(Debug)]
struct Parts<'a> {
    data: &'a DataFile,
    spilled: &'a Spilled,
    /// The version that is to be replaced, if the file differs from it only where it was touched.
    origin: Option<&'a Origin>,
    length: u64,
}

/// Whether a write under `condition` replaces that very version.
fn replaces(condition: &Condition, origin: &Origin) -> bool {
    matches!(condition, Condition::Matches(etag) if *etag == origin.etag)
}

impl Parts<'_> {
    /// Numbers and bytes. Parts that S3 has are as they were cut; else there are as many of one size as fit.
    fn layout(&self, cut: &Cut) -> Vec<(u16, Range<u64>)> {
        let length = self.length;
        let ranges: Vec<Range<u64>> = if self.spilled.is_empty() && self.origin.is_none() {
            let size = part_size(cut, length);
            (0..length.div_ceil(size)).map(|index| index * size..((index + 1) * size).min(length)).collect()
        } else {
            let parts = cut.indices(&(0..length)).map(|index| cut.range(index));
            parts.map(|range| range.start..range.end.min(length)).collect()
        };
        // At most 10,000.
        (1..).zip(ranges).collect()
    }
}

/// Bytes of a part, so that there are at most [`MAX_PARTS`].
fn part_size(cut: &Cut, length: u64) -> u64 {
    if length.div_ceil(cut.part) <= MAX_PARTS {
        return cut.part;
    }
    length.div_ceil(MAX_PARTS).next_multiple_of(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_never_too_many() {
        let cut = Cut::default();
        assert_eq!(part_size(&cut, 100 << 20), cut.part);
        for length in [1u64 << 30, 5 << 40, 48 << 40] {
            assert!(length.div_ceil(part_size(&cut, length)) <= MAX_PARTS);
        }
    }
}
