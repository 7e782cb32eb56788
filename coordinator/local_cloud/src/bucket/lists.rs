//! ListObjects, ListObjectsV2 and ListMultipartUploads: parameters in, XML fields out; [`listing`] decides.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    ChecksumAlgorithm, ChecksumType, CommonPrefix, EncodingType, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, MultipartUpload, ObjectStorageClass,
    Owner, StorageClass,
};
use s3s::{S3Request, S3Result, s3_error};

use super::conditions::timestamp;
use super::index::{Object, Upload};
use super::listing::{self, Page, Position, Query};
use super::object::tag;
use super::store::Store;

/// S3's limit for one page.
const MAX_KEYS: i32 = 1000;

/// What `EncodingType=url` leaves as it is.
const UNESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// How keys are written into a reply.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Plain,
    Url,
}

impl Encoding {
    fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    fn write(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Url => utf8_percent_encode(text, UNESCAPED).to_string(),
        }
    }

    fn write_some(self, text: Option<&str>) -> Option<String> {
        text.map(|text| self.write(text))
    }
}

/// The page size asked for, and the one to tell.
fn limit(asked: Option<i32>) -> S3Result<(usize, i32)> {
    let told = asked.unwrap_or(MAX_KEYS).min(MAX_KEYS);
    let limit = usize::try_from(told).map_err(|_| s3_error!(InvalidArgument, "max-keys must not be negative"))?;
    Ok((limit, told))
}

/// An empty delimiter is none.
fn delimiter(delimiter: Option<&str>) -> Option<&str> {
    delimiter.filter(|delimiter| !delimiter.is_empty())
}

fn groups<V>(page: &Page<'_, V>, encoding: Encoding) -> Option<Vec<CommonPrefix>> {
    Some(page.groups.iter().map(|group| CommonPrefix { prefix: Some(encoding.write(group)) }).collect())
}

/// Who owns everything here.
pub(super) fn owner() -> Owner {
    Owner { display_name: None, id: Some("000000000000".to_owned()) }
}

fn entry(key: &str, object: &Object, encoding: Encoding, owner: Option<&Owner>) -> s3s::dto::Object {
    let class = object.headers.storage_class.clone();
    let algorithm = object.checksum.as_ref().map(|sum| vec![ChecksumAlgorithm::from_static(sum.algorithm.name())]);
    s3s::dto::Object {
        checksum_algorithm: algorithm,
        checksum_type: object.checksum.as_ref().map(|sum| ChecksumType::from_static(sum.kind.name())),
        e_tag: Some(tag(&object.etag)),
        key: Some(encoding.write(key)),
        last_modified: Some(timestamp(object.modified)),
        owner: owner.cloned(),
        size: i64::try_from(object.size).ok(),
        storage_class: Some(ObjectStorageClass::from(class.unwrap_or_else(|| ObjectStorageClass::STANDARD.to_owned()))),
        ..s3s::dto::Object::default()
    }
}

/// ListObjectsV2
pub(super) fn objects_v2(store: &Store, request: &S3Request<ListObjectsV2Input>) -> S3Result<ListObjectsV2Output> {
    let input = &request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let (limit, max_keys) = limit(input.max_keys)?;
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let query = Query { prefix, delimiter: delimiter(input.delimiter.as_deref()), limit };
    let start = match (&input.continuation_token, &input.start_after) {
        (Some(token), _) => Position::of_token(token)
            .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))?,
        (None, Some(key)) => Position::AfterKey(key.clone()),
        (None, None) => Position::Start,
    };
    let owner = input.fetch_owner.unwrap_or(false).then(owner);
    store.read(|index| {
        let page = listing::list(&index.bucket(&input.bucket)?.objects, query, start);
        Ok(ListObjectsV2Output {
            name: Some(input.bucket.clone()),
            prefix: Some(encoding.write(prefix)),
            max_keys: Some(max_keys),
            key_count: i32::try_from(page.entries.len() + page.groups.len()).ok(),
            continuation_token: input.continuation_token.clone(),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_ref().map(Position::token),
            contents: Some(
                page.entries.iter().map(|(key, object)| entry(key, object, encoding, owner.as_ref())).collect(),
            ),
            common_prefixes: groups(&page, encoding),
            delimiter: encoding.write_some(query.delimiter),
            encoding_type: input.encoding_type.clone(),
            start_after: encoding.write_some(input.start_after.as_deref()),
            ..ListObjectsV2Output::default()
        })
    })
}

/// ListObjects
pub(super) fn objects_v1(store: &Store, request: &S3Request<ListObjectsInput>) -> S3Result<ListObjectsOutput> {
    let input = &request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let (limit, max_keys) = limit(input.max_keys)?;
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let query = Query { prefix, delimiter: delimiter(input.delimiter.as_deref()), limit };
    let start = match input.marker.as_deref() {
        None | Some("") => Position::Start,
        Some(marker) => Position::of_marker(marker, prefix, query.delimiter),
    };
    let owner = owner();
    store.read(|index| {
        let page = listing::list(&index.bucket(&input.bucket)?.objects, query, start);
        let next_marker = match &page.next {
            Some(Position::AfterKey(text) | Position::AfterGroup(text)) if query.delimiter.is_some() => Some(text),
            _ => None,
        };
        Ok(ListObjectsOutput {
            name: Some(input.bucket.clone()),
            prefix: Some(encoding.write(prefix)),
            marker: Some(encoding.write(input.marker.as_deref().unwrap_or_default())),
            max_keys: Some(max_keys),
            is_truncated: Some(page.next.is_some()),
            contents: Some(
                page.entries.iter().map(|(key, object)| entry(key, object, encoding, Some(&owner))).collect(),
            ),
            common_prefixes: groups(&page, encoding),
            delimiter: encoding.write_some(query.delimiter),
            next_marker: next_marker.map(|marker| encoding.write(marker)),
            encoding_type: input.encoding_type.clone(),
            ..ListObjectsOutput::default()
        })
    })
}

/// Separates key and upload id in [`by_key`]'s map; no key contains it, S3 having no keys with a NUL.
const SEPARATOR: char = '\0';

/// ListMultipartUploads
pub(super) fn uploads(
    store: &Store,
    request: &S3Request<ListMultipartUploadsInput>,
) -> S3Result<ListMultipartUploadsOutput> {
    let input = &request.input;
    let encoding = Encoding::new(input.encoding_type.as_ref())?;
    let (limit, max_uploads) = limit(input.max_uploads)?;
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let query = Query { prefix, delimiter: delimiter(input.delimiter.as_deref()), limit };
    let start = uploads_start(input);
    store.read(|index| {
        let all = by_key(&index.bucket(&input.bucket)?.uploads);
        let page = listing::list(&all, query, start);
        let next = match &page.next {
            Some(Position::AfterKey(text)) => text.split_once(SEPARATOR),
            Some(Position::AfterGroup(group)) => Some((group.as_str(), "")),
            Some(Position::Start) | None => None,
        };
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            common_prefixes: groups(&page, encoding),
            delimiter: encoding.write_some(query.delimiter),
            encoding_type: input.encoding_type.clone(),
            is_truncated: Some(next.is_some()),
            key_marker: Some(encoding.write(input.key_marker.as_deref().unwrap_or_default())),
            max_uploads: Some(max_uploads),
            next_key_marker: next.map(|(key, _)| encoding.write(key)),
            next_upload_id_marker: next.map(|(_, id)| id.to_owned()).filter(|id| !id.is_empty()),
            prefix: Some(encoding.write(prefix)),
            upload_id_marker: input.upload_id_marker.clone(),
            uploads: Some(page.entries.iter().map(|(_, (id, upload))| begun(id, upload, encoding)).collect()),
            ..ListMultipartUploadsOutput::default()
        })
    })
}

fn uploads_start(input: &ListMultipartUploadsInput) -> Position {
    let Some(key) = input.key_marker.as_deref().filter(|key| !key.is_empty()) else { return Position::Start };
    match input.upload_id_marker.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Position::AfterKey(format!("{key}{SEPARATOR}{id}")),
        None => match Position::of_marker(key, input.prefix.as_deref().unwrap_or(""), input.delimiter.as_deref()) {
            group @ Position::AfterGroup(_) => group,
            _ => Position::AfterKey(format!("{key}{SEPARATOR}{}", char::MAX)),
        },
    }
}

/// Uploads in the order of their keys, those of one key by id.
fn by_key(uploads: &BTreeMap<String, Upload>) -> BTreeMap<String, (&str, &Upload)> {
    uploads.iter().map(|(id, upload)| (format!("{}{SEPARATOR}{id}", upload.key), (id.as_str(), upload))).collect()
}

fn begun(id: &str, upload: &Upload, encoding: Encoding) -> MultipartUpload {
    MultipartUpload {
        checksum_algorithm: upload.checksum.map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
        checksum_type: upload.checksum.map(|(_, kind)| ChecksumType::from_static(kind.name())),
        initiated: Some(timestamp(upload.begun)),
        key: Some(encoding.write(&upload.key)),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(id.to_owned()),
        ..MultipartUpload::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_encoding_keeps_slashes_alone() {
        let encoding = Encoding::new(Some(&EncodingType::from_static(EncodingType::URL))).unwrap();
        assert_eq!(encoding.write("a/b c+%é\u{1}~"), "a/b%20c%2B%25%C3%A9%01~");
        assert_eq!(Encoding::Plain.write("a b"), "a b");
        assert!(Encoding::new(Some(&EncodingType::from_static("other"))).is_err());
    }

    #[test]
    fn limits() {
        assert_eq!(limit(None).unwrap(), (1000, 1000));
        assert_eq!(limit(Some(5000)).unwrap(), (1000, 1000));
        assert_eq!(limit(Some(0)).unwrap(), (0, 0));
        assert!(limit(Some(-1)).is_err());
    }
}
