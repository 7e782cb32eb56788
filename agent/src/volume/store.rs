//! Where objects live: the only window the file system has on S3.
//!
//! [`s3`] is the AWS SDK, [`memory`] a working fake with fault knobs, [`retry`] the one place that decides what is
//! tried again. Everything above speaks [`ObjectStore`].

mod count;
pub mod memory;
pub mod retry;
pub mod s3;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::count::Requests;

/// A key relative to the volume's prefix: no leading slash, at most 1,024 bytes of UTF-8 with the prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The key `text`. Legality is S3's to judge ([`StoreError::Refused`]).
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An entity tag as S3 gave it, quotes included.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Etag(pub String);

/// What an object has beside its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `x-amz-meta-*` without that prefix, names in lower case.
    pub metadata: BTreeMap<String, String>,
    /// `Cache-Control`, `Content-Encoding`, `Content-Disposition`, `Content-Language`: kept over a metadata change.
    pub foreign: BTreeMap<String, String>,
}

/// One object as HEAD or GET describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its version.
    pub etag: Etag,
    /// Bytes.
    pub size: u64,
    /// To the second.
    pub last_modified: SystemTime,
    /// Type and metadata.
    pub headers: Headers,
}

/// One object as a listing describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Relative to the volume's prefix.
    pub key: ObjectKey,
    /// Its version.
    pub etag: Etag,
    /// Bytes.
    pub size: u64,
    /// To the second.
    pub last_modified: SystemTime,
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects, in byte order of their keys.
    pub objects: Vec<ListedObject>,
    /// Common prefixes, ending in the delimiter.
    pub prefixes: Vec<String>,
    /// To be given to the next call; none at the end.
    pub next: Option<String>,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// No object has this key (`If-None-Match: *`).
    Absent,
    /// The object has this version (`If-Match`).
    Matches(Etag),
    /// Whatever is there is replaced.
    Always,
}

/// The bytes of an upload.
#[derive(Debug, Clone)]
pub enum Body {
    /// In memory.
    Bytes(Bytes),
    /// A range of a local file, read while it is sent.
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Bytes of it.
        range: Range<u64>,
    },
}

impl Body {
    /// A whole range of a local file.
    pub fn file(path: &Path, range: Range<u64>) -> Self {
        Self::File { path: path.to_owned(), range }
    }
}

/// A multipart upload that was begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUpload {
    /// Relative to the volume's prefix.
    pub key: ObjectKey,
    /// S3's name for it.
    pub id: String,
    /// When it was begun.
    pub begun: SystemTime,
}

/// A part that S3 has taken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// 1 to 10,000.
    pub number: i32,
    /// Its tag.
    pub etag: Etag,
}

/// Why a call did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// 404: no such key, bucket or upload.
    #[error("{0} does not exist")]
    NotFound(String),
    /// 412: the condition does not hold.
    #[error("{0} was changed by somebody else")]
    Conflict(String),
    /// 403.
    #[error("access to {0} is denied: {1}")]
    Denied(String, String),
    /// 400, 405, 416, 501 and the like: the same call will fail again.
    #[error("{0} was refused: {1}")]
    Refused(String, String),
    /// Time-out, 5xx, throttling, 409, a broken connection. The call may or may not have taken effect.
    #[error("{0}: {1}")]
    Transient(String, String),
    /// The local file that was to be sent could not be read.
    #[error("local file: {0}")]
    Local(String),
}

/// Where the bytes of an object go, as they come.
#[async_trait]
pub trait Sink: Send + Sync {
    /// The next bytes, in pieces; whether more are wanted.
    async fn take(&self, bytes: Vec<Bytes>) -> bool;
}

/// Where objects live. Every call has a deadline; none retries by itself.
///
/// A call that returns [`StoreError::Transient`] may or may not have taken effect.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug + 'static {
    /// The requests that were sent so far, every attempt counted.
    fn requests(&self) -> Requests;

    /// Size, version and headers of an object.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError>;

    /// A whole object with its headers; for small ones.
    async fn get(&self, key: &ObjectKey) -> Result<(ObjectInfo, Bytes), StoreError>;

    /// The headers of an object, and its bytes if there are at most `limit`: both of the same version.
    async fn get_within(&self, key: &ObjectKey, limit: u64) -> Result<(ObjectInfo, Option<Bytes>), StoreError>;

    /// Bytes of one version of an object; [`StoreError::Conflict`] when it has another.
    async fn get_range(&self, key: &ObjectKey, etag: &Etag, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// The same, handed over as they come. After an error, what was taken is right, and only the rest need be asked for.
    async fn read_range(
        &self,
        key: &ObjectKey,
        etag: &Etag,
        range: Range<u64>,
        sink: &dyn Sink,
    ) -> Result<(), StoreError>;

    /// Keys that start with `prefix`, grouped at `delimiter` when given, at most `limit` (1 to 1,000) a page.
    async fn list(
        &self,
        prefix: &str,
        delimiter: Option<char>,
        token: Option<&str>,
        limit: u16,
    ) -> Result<Page, StoreError>;

    /// Writes an object.
    async fn put(
        &self,
        key: &ObjectKey,
        body: Body,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Etag, StoreError>;

    /// Copies one version of an object on the server, with new headers or its own.
    async fn copy(
        &self,
        from: &ObjectKey,
        from_etag: &Etag,
        to: &ObjectKey,
        headers: Option<&Headers>,
        condition: &Condition,
    ) -> Result<Etag, StoreError>;

    /// Deletes an object. That there is none is not an error, unless the condition says otherwise.
    async fn delete(&self, key: &ObjectKey, condition: &Condition) -> Result<(), StoreError>;

    /// Begins a multipart upload; the answer is its id. Headers are fixed here.
    async fn multipart_begin(&self, key: &ObjectKey, headers: &Headers) -> Result<String, StoreError>;

    /// Sends one part; all but the last are at least 5 MiB.
    async fn multipart_put(&self, key: &ObjectKey, upload: &str, number: i32, body: Body) -> Result<Part, StoreError>;

    /// Makes a part of bytes of one version of an object.
    async fn multipart_copy(
        &self,
        key: &ObjectKey,
        upload: &str,
        number: i32,
        from: (&ObjectKey, &Etag),
        range: Range<u64>,
    ) -> Result<Part, StoreError>;

    /// Makes the object of its parts.
    async fn multipart_complete(
        &self,
        key: &ObjectKey,
        upload: &str,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Etag, StoreError>;

    /// Gives a multipart upload up.
    async fn multipart_abort(&self, key: &ObjectKey, upload: &str) -> Result<(), StoreError>;

    /// Uploads of keys that start with `prefix` that were begun and not ended.
    async fn multipart_list(&self, prefix: &str) -> Result<Vec<ListedUpload>, StoreError>;
}
