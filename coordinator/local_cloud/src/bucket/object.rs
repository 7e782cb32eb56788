//! Objects: PUT, GET, HEAD, DELETE and attributes; COPY is in [`copy`].

pub(super) mod copy;
mod select;

use std::sync::Arc;

use s3s::dto::{
    ChecksumMode, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag,
    ETagCondition, Error, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts,
    GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, ObjectAttributes, ObjectIdentifier, ObjectPart,
    PutObjectInput, PutObjectOutput, StorageClass,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use self::select::{Selection, select};
use super::blob;
use super::checksum::{Claims, checksums_of, set_checksums};
use super::conditions::{ReadCondition, Reading, WriteCondition, failed, now, timestamp};
use super::headers::{headers_of, refuse_customer_key, set_encryption};
use super::index::{Index, Object, Record};
use super::read;
use super::receive::receive;
use super::store::Store;

/// S3's limit for one DeleteObjects.
const MAX_DELETES: usize = 1000;

/// The tag as the protocol has it.
pub(super) fn tag(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

/// There are no versions here: `null` is the only one.
pub(super) fn refuse_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(NotImplemented, "versions are not implemented")),
    }
}

/// PutObject
pub(super) async fn put(store: &Store, mut request: S3Request<PutObjectInput>) -> S3Result<PutObjectOutput> {
    let input = &mut request.input;
    refuse_customer_key!(input);
    if input.write_offset_bytes.is_some() || input.tagging.is_some() || is_rename(&request.uri) {
        return Err(s3_error!(NotImplemented, "appending, tagging and renaming are not implemented"));
    }
    let condition = WriteCondition::new(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let headers = headers_of!(input)?;
    store.read(|index| index.bucket(&input.bucket).map(drop))?;
    let claims = Claims::new(
        input.content_md5.as_deref(),
        checksums_of!(input),
        input.checksum_algorithm.as_ref(),
        &request.headers,
        request.trailing_headers.take(),
    )?;
    let received = receive(store.blobs(), input.body.take(), input.content_length, &claims.algorithms()).await?;
    claims.verify(&received.digests)?;
    let object = Object {
        etag: received.digests.etag(),
        size: received.size,
        modified: now(),
        headers,
        checksum: received.digests.checksum(claims.algorithm()),
        parts: Vec::new(),
        extents: received.extents,
    };
    let mut output = PutObjectOutput { e_tag: Some(tag(&object.etag)), ..PutObjectOutput::default() };
    set_encryption!(output, object.headers);
    if let Some(checksum) = &object.checksum {
        output.checksum_type = set_checksums!(output, checksum);
    }
    publish(store, &input.bucket, &input.key, object, &condition)?;
    Ok(output)
}

/// RenameObject, which `s3s` 0.14 takes for a PUT.
fn is_rename(uri: &http::Uri) -> bool {
    let parameters = uri.query().unwrap_or_default().split('&');
    parameters.filter_map(|parameter| parameter.split('=').next()).any(|name| name == "renameObject")
}

/// Makes an object visible if the condition holds at that instant.
pub(super) fn publish(
    store: &Store,
    bucket: &str,
    key: &str,
    object: Object,
    condition: &WriteCondition,
) -> S3Result<()> {
    store.commit(|index| {
        condition.check(index.bucket(bucket)?.objects.get(key).map(Arc::as_ref))?;
        Ok(vec![Record::Put { bucket: bucket.to_owned(), key: key.to_owned(), object }])
    })
}

/// The fields that GET and HEAD share.
macro_rules! describe {
    ($output:ident, $input:expr, $object:expr, $selection:expr) => {{
        let (object, selection): (&Object, &Selection) = ($object, $selection);
        let headers = &object.headers;
        let length = selection.range.end - selection.range.start;
        let mut output = $output {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: headers.cache_control.clone(),
            content_disposition: headers.content_disposition.clone(),
            content_encoding: headers.content_encoding.clone(),
            content_language: headers.content_language.clone(),
            content_length: i64::try_from(length).ok(),
            content_range: selection.content_range(object.size),
            content_type: Some(headers.content_type()),
            e_tag: Some(tag(&object.etag)),
            expires: headers.expires(),
            last_modified: Some(timestamp(object.modified)),
            metadata: headers.metadata(),
            parts_count: selection.parts_count,
            storage_class: headers.storage_class.clone().map(StorageClass::from),
            website_redirect_location: headers.website_redirect.clone(),
            ..$output::default()
        };
        set_encryption!(output, headers);
        let wanted = $input.checksum_mode.as_ref().is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
        if let Some(checksum) = selection.checksum(object).filter(|_| wanted) {
            output.checksum_type = set_checksums!(output, checksum);
        }
        output
    }};
}

/// The version to read and the bytes of it that are asked for, or 304, 412, 416.
macro_rules! choose {
    ($input:expr, $object:expr) => {{
        refuse_customer_key!($input);
        refuse_version($input.version_id.as_deref())?;
        let condition = ReadCondition {
            if_match: $input.if_match.as_ref(),
            if_none_match: $input.if_none_match.as_ref(),
            if_modified_since: $input.if_modified_since.as_ref(),
            if_unmodified_since: $input.if_unmodified_since.as_ref(),
        };
        check_read(&condition, $object)?;
        select($object, $input.range, $input.part_number)?
    }};
}

/// GetObject
pub(super) fn get(store: &Store, request: &S3Request<GetObjectInput>) -> S3Result<GetObjectOutput> {
    let input = &request.input;
    let (object, pin) = store.object(&input.bucket, &input.key)?;
    let selection = choose!(input, &object);
    let mut output = describe!(GetObjectOutput, input, &object, &selection);
    let extents = blob::slice(&object.extents, selection.range);
    output.body = Some(read::body(store.blobs(), pin, extents));
    Ok(output)
}

/// HeadObject
pub(super) fn head(store: &Store, request: &S3Request<HeadObjectInput>) -> S3Result<HeadObjectOutput> {
    let input = &request.input;
    let (object, _pin) = store.object(&input.bucket, &input.key)?;
    let selection = choose!(input, &object);
    Ok(describe!(HeadObjectOutput, input, &object, &selection))
}

fn check_read(condition: &ReadCondition<'_>, object: &Object) -> S3Result<()> {
    match condition.judge(object) {
        Reading::Proceed => Ok(()),
        Reading::Failed => Err(failed()),
        Reading::NotModified => Err(not_modified(object)),
    }
}

/// 304, with the version that is there.
fn not_modified(object: &Object) -> S3Error {
    let mut error = s3_error!(NotModified, "Not Modified");
    if let Ok(value) = format!("\"{}\"", object.etag).parse() {
        error.set_headers([(http::header::ETAG, value)].into_iter().collect());
    }
    error
}

/// DeleteObject
pub(super) fn delete(store: &Store, request: &S3Request<DeleteObjectInput>) -> S3Result<DeleteObjectOutput> {
    let input = &request.input;
    refuse_version(input.version_id.as_deref())?;
    if input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
        return Err(s3_error!(NotImplemented, "only directory buckets know this condition"));
    }
    let condition = WriteCondition::new(input.if_match.as_ref(), None)?;
    store.commit(|index| deletion(index, &input.bucket, &input.key, &condition).map(Vec::from_iter))?;
    Ok(DeleteObjectOutput::default())
}

/// The record of a deletion; none where there is nothing to delete.
fn deletion(index: &Index, bucket: &str, key: &str, condition: &WriteCondition) -> S3Result<Option<Record>> {
    let current = index.bucket(bucket)?.objects.get(key);
    condition.check(current.map(Arc::as_ref))?;
    Ok(current.map(|_| Record::Delete { bucket: bucket.to_owned(), key: key.to_owned() }))
}

/// DeleteObjects
pub(super) fn delete_many(store: &Store, request: S3Request<DeleteObjectsInput>) -> S3Result<DeleteObjectsOutput> {
    let input = request.input;
    if input.delete.objects.is_empty() || input.delete.objects.len() > MAX_DELETES {
        return Err(s3_error!(MalformedXML, "1 to 1000 keys can be deleted at once"));
    }
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    store.commit(|index| {
        index.bucket(&input.bucket)?;
        let mut records = std::collections::BTreeMap::new();
        for object in input.delete.objects {
            match deletion_of(index, &input.bucket, &object) {
                Ok(record) => {
                    records.extend(record.map(|record| (object.key.clone(), record)));
                    deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() });
                }
                Err(error) => errors.push(failure(object.key, &error)),
            }
        }
        Ok(records.into_values().collect())
    })?;
    let quiet = input.delete.quiet.unwrap_or(false);
    Ok(DeleteObjectsOutput { deleted: (!quiet).then_some(deleted), errors: Some(errors), ..Default::default() })
}

fn deletion_of(index: &Index, bucket: &str, object: &ObjectIdentifier) -> S3Result<Option<Record>> {
    refuse_version(object.version_id.as_deref())?;
    let condition = WriteCondition::new(object.e_tag.clone().map(ETagCondition::ETag).as_ref(), None)?;
    deletion(index, bucket, &object.key, &condition)
}

fn failure(key: String, error: &S3Error) -> Error {
    Error {
        code: Some(error.code().as_str().to_owned()),
        key: Some(key),
        message: error.message().map(str::to_owned),
        version_id: None,
    }
}

/// GetObjectAttributes
pub(super) fn attributes(
    store: &Store,
    request: &S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let input = &request.input;
    refuse_customer_key!(input);
    refuse_version(input.version_id.as_deref())?;
    let (object, _pin) = store.object(&input.bucket, &input.key)?;
    // `s3s` splits the header at lines only.
    let mut names = input.object_attributes.iter().flat_map(|names| names.as_str().split(','));
    let wanted: std::collections::BTreeSet<&str> = names.by_ref().map(str::trim).collect();
    let wanted = |name: &str| wanted.contains(name);
    let parts = (!object.parts.is_empty() && wanted(ObjectAttributes::OBJECT_PARTS))
        .then(|| part_attributes(&object, input.part_number_marker.unwrap_or(0), input.max_parts.unwrap_or(1000)));
    Ok(S3Response::new(GetObjectAttributesOutput {
        checksum: object
            .checksum
            .as_ref()
            .filter(|_| wanted(ObjectAttributes::CHECKSUM))
            .map(super::checksum::Checksum::to_dto),
        e_tag: wanted(ObjectAttributes::ETAG).then(|| tag(&object.etag)),
        last_modified: Some(timestamp(object.modified)),
        object_parts: parts,
        object_size: i64::try_from(object.size).ok().filter(|_| wanted(ObjectAttributes::OBJECT_SIZE)),
        storage_class: wanted(ObjectAttributes::STORAGE_CLASS).then(|| {
            let class = object.headers.storage_class.clone();
            StorageClass::from(class.unwrap_or_else(|| StorageClass::STANDARD.to_owned()))
        }),
        ..GetObjectAttributesOutput::default()
    }))
}

fn part_attributes(object: &Object, marker: i32, limit: i32) -> GetObjectAttributesParts {
    let limit = usize::try_from(limit).unwrap_or(0).min(1000);
    let mut after = object.parts.iter().filter(|part| part.number > marker);
    let parts: Vec<ObjectPart> = after
        .by_ref()
        .take(limit)
        .map(|part| {
            let mut output = ObjectPart {
                part_number: Some(part.number),
                size: i64::try_from(part.size).ok(),
                ..ObjectPart::default()
            };
            if let Some(checksum) = &part.checksum {
                set_checksums!(output, checksum);
            }
            output
        })
        .collect();
    GetObjectAttributesParts {
        is_truncated: Some(after.next().is_some()),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: parts.last().and_then(|part| part.part_number),
        part_number_marker: Some(marker),
        total_parts_count: i32::try_from(object.parts.len()).ok(),
        parts: Some(parts),
    }
}
