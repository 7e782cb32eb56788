//! Between the SDK's types and the store's.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime, Length};
use aws_sdk_s3::types::{MultipartUpload, Object};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::volume::store::{Body, Condition, Etag, Headers, ListedObject, ListedUpload, ObjectKey, Page, StoreError};

/// What `x-amz-copy-source` leaves as it is.
const UNESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// A body of up to this is read before it is sent, in one step.
const IN_MEMORY: u64 = 256 << 10;
/// A longer one is read in pieces of this.
const STREAM_BUFFER: usize = 256 << 10;

/// The part of every key that the volume does not see.
#[derive(Debug, Clone)]
pub(super) struct Prefix(pub(super) String);

impl Prefix {
    pub(super) fn full(&self, key: &ObjectKey) -> String {
        self.full_text(key.as_str())
    }

    pub(super) fn full_text(&self, text: &str) -> String {
        format!("{}{text}", self.0)
    }

    /// A listed key or group: URL-decoded and without the prefix.
    fn relative(&self, listed: Option<&str>) -> Result<String, StoreError> {
        let malformed = || StoreError::Transient(self.0.clone(), "malformed listing".to_owned());
        // S3 writes a space as `+` and a plus as `%2B`.
        let text = listed.ok_or_else(malformed)?.replace('+', " ");
        let text = percent_decode_str(&text).decode_utf8().map_err(|_| malformed())?;
        text.strip_prefix(&self.0).map(str::to_owned).ok_or_else(malformed)
    }

    /// A page of a listing made with `encoding-type=url`.
    pub(super) fn page(&self, output: &ListObjectsV2Output) -> Result<Page, StoreError> {
        let groups = output.common_prefixes().iter().map(|group| self.relative(group.prefix()));
        let truncated = output.is_truncated().unwrap_or(false);
        Ok(Page {
            objects: output.contents().iter().map(|object| self.listed(object)).collect::<Result<_, _>>()?,
            prefixes: groups.collect::<Result<_, _>>()?,
            next: output.next_continuation_token().filter(|_| truncated).map(str::to_owned),
        })
    }

    pub(super) fn upload(&self, upload: &MultipartUpload) -> Result<ListedUpload, StoreError> {
        let key = ObjectKey::new(self.relative(upload.key())?);
        let id = upload.upload_id().ok_or_else(|| incomplete(&key, "no upload id"))?.to_owned();
        Ok(ListedUpload { begun: time(&key, upload.initiated())?, id, key })
    }

    fn listed(&self, object: &Object) -> Result<ListedObject, StoreError> {
        let key = ObjectKey::new(self.relative(object.key())?);
        Ok(ListedObject {
            etag: etag(&key, object.e_tag().map(str::to_owned))?,
            size: size(&key, object.size())?,
            last_modified: time(&key, object.last_modified())?,
            key,
        })
    }
}

/// The tag of a reply.
pub(super) fn etag(key: &ObjectKey, tag: Option<String>) -> Result<Etag, StoreError> {
    tag.map(Etag).ok_or_else(|| incomplete(key, "no entity tag"))
}

pub(super) fn size(key: &ObjectKey, bytes: Option<i64>) -> Result<u64, StoreError> {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).ok_or_else(|| incomplete(key, "no size"))
}

pub(super) fn time(key: &ObjectKey, time: Option<&DateTime>) -> Result<SystemTime, StoreError> {
    // Some servers list milliseconds that they do not tell by HEAD.
    let whole = time.map(|time| DateTime::from_secs(time.secs()));
    whole.and_then(|time| SystemTime::try_from(time).ok()).ok_or_else(|| incomplete(key, "no time of change"))
}

fn incomplete(key: &ObjectKey, what: &str) -> StoreError {
    StoreError::Transient(key.to_string(), format!("{what} in the reply"))
}

/// What HEAD and GET tell of an object.
macro_rules! object_info {
    ($key:expr, $output:expr) => {{
        let foreign = [
            ("Cache-Control", $output.cache_control),
            ("Content-Disposition", $output.content_disposition),
            ("Content-Encoding", $output.content_encoding),
            ("Content-Language", $output.content_language),
        ];
        let headers = $crate::volume::store::Headers {
            content_type: $output.content_type,
            metadata: $crate::volume::store::s3::convert::lower_case($output.metadata.unwrap_or_default()),
            foreign: foreign.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
        };
        $crate::volume::store::s3::convert::info(
            $key,
            ($output.e_tag, $output.content_length, $output.last_modified.as_ref()),
            headers,
        )
    }};
}
pub(super) use object_info;

/// Metadata names have no case.
pub(super) fn lower_case(metadata: HashMap<String, String>) -> std::collections::BTreeMap<String, String> {
    metadata.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
}

pub(super) fn info(
    key: &ObjectKey,
    (tag, bytes, modified): (Option<String>, Option<i64>, Option<&DateTime>),
    headers: Headers,
) -> Result<crate::volume::store::ObjectInfo, StoreError> {
    Ok(crate::volume::store::ObjectInfo {
        etag: etag(key, tag)?,
        size: size(key, bytes)?,
        last_modified: time(key, modified)?,
        headers,
    })
}

/// Headers as the SDK wants them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SentHeaders {
    pub(super) content_type: Option<String>,
    pub(super) metadata: HashMap<String, String>,
    pub(super) cache_control: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
}

/// Refuses a foreign header that could not be sent.
pub(super) fn headers_of(key: &ObjectKey, headers: &Headers) -> Result<SentHeaders, StoreError> {
    let mut sent = SentHeaders {
        content_type: headers.content_type.clone(),
        metadata: headers.metadata.clone().into_iter().collect(),
        ..SentHeaders::default()
    };
    for (name, value) in &headers.foreign {
        let field = match name.to_ascii_lowercase().as_str() {
            "cache-control" => &mut sent.cache_control,
            "content-disposition" => &mut sent.content_disposition,
            "content-encoding" => &mut sent.content_encoding,
            "content-language" => &mut sent.content_language,
            _ => return Err(StoreError::Refused(key.to_string(), format!("header {name} cannot be kept"))),
        };
        *field = Some(value.clone());
    }
    Ok(sent)
}

/// `If-Match` and `If-None-Match`.
pub(super) fn conditions(condition: &Condition) -> (Option<String>, Option<String>) {
    match condition {
        Condition::Always => (None, None),
        Condition::Absent => (None, Some("*".to_owned())),
        Condition::Matches(etag) => (Some(etag.0.clone()), None),
    }
}

/// `x-amz-copy-source`, which the SDK sends as it is.
pub(super) fn copy_source(bucket: &str, key: &str) -> String {
    format!("{bucket}/{}", utf8_percent_encode(key, UNESCAPED))
}

/// A body to send and its size. A file is read while it is sent; it must be as long as the range says now.
pub(super) async fn body_stream(body: Body) -> Result<(ByteStream, u64), StoreError> {
    let (path, range) = match body {
        Body::Bytes(bytes) => {
            let size = bytes.len() as u64;
            return Ok((ByteStream::from(bytes), size));
        }
        Body::File { path, range } => (path, range),
    };
    let local = |error: &dyn std::fmt::Display| StoreError::Local(format!("{}: {error}", path.display()));
    let size = range.end.saturating_sub(range.start);
    if size <= IN_MEMORY {
        let (path, range) = (path.clone(), range.clone());
        let read =
            tokio::task::spawn_blocking(move || read_range(&path, range)).await.map_err(|error| local(&error))?;
        return Ok((ByteStream::from(read.map_err(|error| local(&error))?), size));
    }
    let length = tokio::fs::metadata(&path).await.map_err(|error| local(&error))?.len();
    if length < range.end {
        return Err(local(&format!("has {length} bytes, wanted {}", range.end)));
    }
    let stream = ByteStream::read_from().path(&path).buffer_size(STREAM_BUFFER).offset(range.start);
    let stream = stream.length(Length::Exact(size)).build().await;
    Ok((stream.map_err(|error| local(&error))?, size))
}

fn read_range(path: &Path, range: Range<u64>) -> std::io::Result<Vec<u8>> {
    // At most `IN_MEMORY`.
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
    File::open(path)?.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_names_are_decoded_and_relative() {
        let prefix = Prefix("vol/".into());
        assert_eq!(prefix.relative(Some("vol/a+b%2Bc/%C3%A9")).unwrap(), "a b+c/é");
        assert!(prefix.relative(Some("other/a")).is_err());
        assert!(prefix.relative(Some("vol/%FF")).is_err());
        assert!(prefix.relative(None).is_err());
    }

    #[test]
    fn copy_sources_are_encoded() {
        assert_eq!(copy_source("b", "a//b c+%/é"), "b/a//b%20c%2B%25/%C3%A9");
    }

    #[test]
    fn foreign_headers_are_kept_or_refused() {
        let key = ObjectKey::new("k");
        let with = |name: &str| Headers { foreign: [(name.into(), "v".into())].into(), ..Headers::default() };
        assert_eq!(headers_of(&key, &with("Cache-Control")).unwrap().cache_control, Some("v".into()));
        assert_eq!(headers_of(&key, &with("content-encoding")).unwrap().content_encoding, Some("v".into()));
        assert!(matches!(headers_of(&key, &with("X-Other")), Err(StoreError::Refused(..))));
    }

    #[tokio::test]
    async fn a_short_file_is_a_local_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "0123456789").unwrap();
        let (stream, size) = body_stream(Body::file(&path, 2..5)).await.unwrap();
        assert_eq!((stream.collect().await.unwrap().into_bytes(), size), ("234".into(), 3));
        assert!(matches!(body_stream(Body::file(&path, 5..11)).await, Err(StoreError::Local(_))));
        let none = directory.path().join("none");
        assert!(matches!(body_stream(Body::file(&none, 0..1)).await, Err(StoreError::Local(_))));
    }
}
