//! What is in the buckets: plain data, changed by [`Record`]s alone, so that a replayed log gives the same index.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::blob::Extent;
use super::checksum::{Algorithm, Checksum, Kind};
use super::headers::Headers;

/// One object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Object {
    /// Without quotes.
    pub(super) etag: String,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) modified: u64,
    pub(super) headers: Headers,
    pub(super) checksum: Option<Checksum>,
    /// Of a multipart upload; empty otherwise.
    pub(super) parts: Vec<PartFacts>,
    pub(super) extents: Vec<Extent>,
}

/// What is still known of a part after COMPLETE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartFacts {
    pub(super) number: i32,
    pub(super) size: u64,
    pub(super) checksum: Option<Checksum>,
}

/// A multipart upload begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) headers: Headers,
    /// The checksum that was asked for.
    pub(super) checksum: Option<(Algorithm, Kind)>,
    /// Seconds since 1970.
    pub(super) begun: u64,
    pub(super) parts: BTreeMap<i32, UploadedPart>,
}

/// A part received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UploadedPart {
    /// Its MD5 in hex.
    pub(super) etag: String,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) modified: u64,
    pub(super) checksum: Option<Checksum>,
    pub(super) extents: Vec<Extent>,
}

/// One bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// Seconds since 1970.
    pub(super) created: u64,
    /// By key, in byte order.
    pub(super) objects: BTreeMap<String, Arc<Object>>,
    /// By upload id.
    pub(super) uploads: BTreeMap<String, Upload>,
}

/// All buckets.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) buckets: BTreeMap<String, Bucket>,
}

/// A change of the index; a line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Record {
    CreateBucket { bucket: String, created: u64 },
    DeleteBucket { bucket: String },
    Put { bucket: String, key: String, object: Object },
    Delete { bucket: String, key: String },
    Begin { bucket: String, upload_id: String, upload: Upload },
    PutPart { bucket: String, upload_id: String, number: i32, part: UploadedPart },
    Abort { bucket: String, upload_id: String },
    Complete { bucket: String, upload_id: String, key: String, object: Object },
}

impl Record {
    /// Whether room on the disk is free after it.
    pub(super) fn frees(&self) -> bool {
        matches!(self, Self::Delete { .. } | Self::Abort { .. } | Self::DeleteBucket { .. })
    }

    /// Blobs that the index uses once more after this record.
    pub(super) fn blobs(&self) -> Vec<Uuid> {
        match self {
            Self::Put { object, .. } | Self::Complete { object, .. } => blobs(&object.extents),
            Self::PutPart { part, .. } => blobs(&part.extents),
            Self::Begin { upload, .. } => upload.blobs(),
            Self::CreateBucket { .. } | Self::DeleteBucket { .. } | Self::Delete { .. } | Self::Abort { .. } => {
                Vec::new()
            }
        }
    }
}

impl Upload {
    fn blobs(&self) -> Vec<Uuid> {
        self.parts.values().flat_map(|part| blobs(&part.extents)).collect()
    }
}

impl Bucket {
    /// The object, or 404.
    pub(super) fn object(&self, key: &str) -> S3Result<&Arc<Object>> {
        self.objects.get(key).ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))
    }

    /// The upload of this key, or 404.
    pub(super) fn upload(&self, key: &str, upload_id: &str) -> S3Result<&Upload> {
        self.uploads
            .get(upload_id)
            .filter(|upload| upload.key == key)
            .ok_or_else(|| s3_error!(NoSuchUpload, "The specified multipart upload does not exist."))
    }
}

impl Index {
    /// The bucket, or 404.
    pub(super) fn bucket(&self, name: &str) -> S3Result<&Bucket> {
        self.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))
    }

    /// Makes a change and returns the blobs that are used once less.
    ///
    /// # Errors
    ///
    /// When the change does not fit the index: only a damaged log has such records.
    pub(super) fn apply(&mut self, record: Record) -> io::Result<Vec<Uuid>> {
        match record {
            Record::CreateBucket { bucket, created } => {
                self.buckets.insert(bucket, Bucket { created, ..Bucket::default() });
                Ok(Vec::new())
            }
            Record::DeleteBucket { bucket } => {
                let gone = self.buckets.remove(&bucket).unwrap_or_default();
                let objects = gone.objects.values().flat_map(|object| blobs(&object.extents));
                Ok(objects.chain(gone.uploads.values().flat_map(Upload::blobs)).collect())
            }
            Record::Put { bucket, key, object } => Ok(self.changed(&bucket)?.put(key, object)),
            Record::Delete { bucket, key } => Ok(self.changed(&bucket)?.delete(&key)),
            Record::Begin { bucket, upload_id, upload } => {
                self.changed(&bucket)?.uploads.insert(upload_id, upload);
                Ok(Vec::new())
            }
            Record::PutPart { bucket, upload_id, number, part } => {
                let upload = self.changed(&bucket)?.uploads.get_mut(&upload_id).ok_or_else(misfit)?;
                Ok(upload.parts.insert(number, part).map(|old| blobs(&old.extents)).unwrap_or_default())
            }
            Record::Abort { bucket, upload_id } => self.changed(&bucket)?.end_upload(&upload_id),
            Record::Complete { bucket, upload_id, key, object } => {
                let bucket = self.changed(&bucket)?;
                let mut freed = bucket.end_upload(&upload_id)?;
                freed.extend(bucket.put(key, object));
                Ok(freed)
            }
        }
    }

    fn changed(&mut self, bucket: &str) -> io::Result<&mut Bucket> {
        self.buckets.get_mut(bucket).ok_or_else(misfit)
    }

    /// The blobs of everything, once for every use.
    pub(super) fn blobs(&self) -> Vec<Uuid> {
        self.snapshot().flat_map(|record| record.blobs()).collect()
    }

    /// How many records [`Index::snapshot`] gives.
    pub(super) fn len(&self) -> usize {
        self.buckets.values().map(|bucket| 1 + bucket.objects.len() + bucket.uploads.len()).sum()
    }

    /// The shortest log that gives this index.
    pub(super) fn snapshot(&self) -> impl Iterator<Item = Record> {
        self.buckets.iter().flat_map(|(name, bucket)| {
            let created = Record::CreateBucket { bucket: name.clone(), created: bucket.created };
            let objects = bucket.objects.iter().map(move |(key, object)| Record::Put {
                bucket: name.clone(),
                key: key.clone(),
                object: Object::clone(object),
            });
            let uploads = bucket.uploads.iter().map(move |(id, upload)| Record::Begin {
                bucket: name.clone(),
                upload_id: id.clone(),
                upload: upload.clone(),
            });
            std::iter::once(created).chain(objects).chain(uploads)
        })
    }
}

impl Bucket {
    fn put(&mut self, key: String, object: Object) -> Vec<Uuid> {
        self.objects.insert(key, Arc::new(object)).map(|old| blobs(&old.extents)).unwrap_or_default()
    }

    fn delete(&mut self, key: &str) -> Vec<Uuid> {
        self.objects.remove(key).map(|old| blobs(&old.extents)).unwrap_or_default()
    }

    fn end_upload(&mut self, upload_id: &str) -> io::Result<Vec<Uuid>> {
        Ok(self.uploads.remove(upload_id).ok_or_else(misfit)?.blobs())
    }
}

/// The blobs of these extents, once for every extent.
pub(super) fn blobs(extents: &[Extent]) -> Vec<Uuid> {
    extents.iter().map(|extent| extent.blob).collect()
}

fn misfit() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a record does not fit the index")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(blob: u128) -> Object {
        let extents = vec![Extent { blob: Uuid::from_u128(blob), offset: 0, length: 1 }];
        Object { etag: blob.to_string(), size: 1, extents, ..Object::default() }
    }

    fn put(key: &str, blob: u128) -> Record {
        Record::Put { bucket: "b".into(), key: key.into(), object: object(blob) }
    }

    fn part(blob: u128) -> UploadedPart {
        let extents = object(blob).extents;
        UploadedPart { etag: String::new(), size: 1, modified: 0, checksum: None, extents }
    }

    fn filled() -> Index {
        let mut index = Index::default();
        let upload =
            Upload { key: "k".into(), headers: Headers::default(), checksum: None, begun: 0, parts: BTreeMap::new() };
        for record in [
            Record::CreateBucket { bucket: "b".into(), created: 7 },
            put("a/b", 1),
            put("a", 2),
            Record::Begin { bucket: "b".into(), upload_id: "u".into(), upload },
            Record::PutPart { bucket: "b".into(), upload_id: "u".into(), number: 1, part: part(3) },
        ] {
            assert!(index.apply(record).unwrap().is_empty());
        }
        index
    }

    #[test]
    fn changes_say_which_blobs_they_free() {
        let mut index = filled();
        let id = |blob: u128| vec![Uuid::from_u128(blob)];
        assert_eq!(index.apply(put("a", 4)).unwrap(), id(2));
        let replaced = Record::PutPart { bucket: "b".into(), upload_id: "u".into(), number: 1, part: part(5) };
        assert_eq!(index.apply(replaced).unwrap(), id(3));
        let complete =
            Record::Complete { bucket: "b".into(), upload_id: "u".into(), key: "a/b".into(), object: object(5) };
        assert_eq!(complete.blobs(), id(5));
        assert_eq!(index.apply(complete).unwrap(), [id(5), id(1)].concat());
        assert_eq!(index.apply(Record::Delete { bucket: "b".into(), key: "a".into() }).unwrap(), id(4));
        assert_eq!(index.apply(Record::DeleteBucket { bucket: "b".into() }).unwrap(), id(5));
    }

    #[test]
    fn a_snapshot_gives_the_same_index() {
        let index = filled();
        let mut again = Index::default();
        for record in index.snapshot() {
            again.apply(record).unwrap();
        }
        assert_eq!(again.snapshot().collect::<Vec<_>>(), index.snapshot().collect::<Vec<_>>());
        assert_eq!(index.len(), 4);
        assert_eq!(index.blobs(), [2, 1, 3].map(Uuid::from_u128));
    }

    #[test]
    fn records_that_do_not_fit_are_refused() {
        let mut index = Index::default();
        assert!(index.apply(put("a", 1)).is_err());
        let mut index = filled();
        assert!(index.apply(Record::Abort { bucket: "b".into(), upload_id: "none".into() }).is_err());
    }
}
