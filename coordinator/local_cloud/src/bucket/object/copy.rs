//! COPY of objects and into parts. No byte is written: the copy shares the blobs of its source.

use std::ops::Range;
use std::sync::Arc;

use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, MetadataDirective,
    UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Result, s3_error};

use super::{publish, refuse_version, tag};
use crate::bucket::blob::{self, Pin};
use crate::bucket::checksum::{Algorithm, Kind, set_checksums};
use crate::bucket::conditions::{ReadCondition, WriteCondition, now, timestamp};
use crate::bucket::headers::{Headers, headers_of, refuse_customer_key, set_encryption};
use crate::bucket::index::{Object, UploadedPart};
use crate::bucket::multipart;
use crate::bucket::read::digest;
use crate::bucket::receive::MAX_SINGLE;
use crate::bucket::store::Store;

/// The source of a COPY, pinned, if its conditions hold.
macro_rules! source {
    ($store:expr, $input:expr) => {{
        refuse_customer_key!($input);
        if $input.copy_source_sse_customer_key.is_some() {
            return Err(s3_error!(NotImplemented, "SSE-C is not implemented"));
        }
        let (bucket, key) = name_of(&$input.copy_source)?;
        let (object, pin): (Arc<Object>, Pin) = $store.object(bucket, key)?;
        ReadCondition {
            if_match: $input.copy_source_if_match.as_ref(),
            if_none_match: $input.copy_source_if_none_match.as_ref(),
            if_modified_since: $input.copy_source_if_modified_since.as_ref(),
            if_unmodified_since: $input.copy_source_if_unmodified_since.as_ref(),
        }
        .check_source(&object)?;
        (object, pin)
    }};
}

/// CopyObject
pub(in crate::bucket) async fn copy(store: &Store, request: &S3Request<CopyObjectInput>) -> S3Result<CopyObjectOutput> {
    let input = &request.input;
    let headers = request.headers.clone();
    // `s3s` 0.14 does not read the conditions on the destination.
    let condition = destination_condition(&headers)?;
    let (source, _pin) = source!(store, input);
    if source.size > MAX_SINGLE {
        return Err(s3_error!(InvalidRequest, "The specified copy source is larger than the maximum allowable size"));
    }
    let headers = copied_headers(input, &source)?;
    let algorithm = input.checksum_algorithm.as_ref().map(Algorithm::parse).transpose()?;
    let object = copied(store, &source, headers, algorithm).await?;
    let mut result = CopyObjectResult {
        e_tag: Some(tag(&object.etag)),
        last_modified: Some(timestamp(object.modified)),
        ..CopyObjectResult::default()
    };
    if let Some(checksum) = &object.checksum {
        result.checksum_type = set_checksums!(result, checksum);
    }
    let mut output = CopyObjectOutput { copy_object_result: Some(result), ..CopyObjectOutput::default() };
    set_encryption!(output, object.headers);
    publish(store, &input.bucket, &input.key, object, &condition)?;
    Ok(output)
}

/// UploadPartCopy
pub(in crate::bucket) async fn copy_part(
    store: &Store,
    request: &S3Request<UploadPartCopyInput>,
) -> S3Result<UploadPartCopyOutput> {
    let input = &request.input;
    let (source, _pin) = source!(store, input);
    let (target, algorithm) = multipart::target(store, &input.bucket, &input.key, &input.upload_id, input.part_number)?;
    let range = input.copy_source_range.as_deref().map_or(Ok(0..source.size), |text| part_range(text, source.size))?;
    let size = range.end - range.start;
    if size > MAX_SINGLE {
        return Err(s3_error!(InvalidRequest, "The specified copy source is larger than the maximum allowable size"));
    }
    let extents = blob::slice(&source.extents, range);
    let digests = digest(store.blobs(), &extents, &[algorithm]).await?;
    let checksum = digests.checksum(algorithm);
    let part = UploadedPart { etag: digests.etag(), size, modified: now(), checksum, extents };
    let mut result = CopyPartResult {
        e_tag: Some(tag(&part.etag)),
        last_modified: Some(timestamp(part.modified)),
        ..CopyPartResult::default()
    };
    if let Some(checksum) = &part.checksum {
        set_checksums!(result, checksum);
    }
    let mut output = UploadPartCopyOutput { copy_part_result: Some(result), ..UploadPartCopyOutput::default() };
    set_encryption!(output, target.headers);
    target.commit(store, part)?;
    Ok(output)
}

fn name_of(source: &CopySource) -> S3Result<(&str, &str)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            refuse_version(version_id.as_deref())?;
            Ok((bucket, key))
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
            Err(s3_error!(NotImplemented, "only buckets can be copied from"))
        }
    }
}

/// `If-Match` and `If-None-Match` of the object to be replaced.
fn destination_condition(headers: &http::HeaderMap) -> S3Result<WriteCondition> {
    let read = |name: http::HeaderName| {
        let value = headers.get(&name).map(|value| s3s::dto::ETagCondition::parse_http_header(value.as_bytes()));
        value.transpose().map_err(|error| s3_error!(error, InvalidArgument, "invalid header: {name}"))
    };
    WriteCondition::new(read(http::header::IF_MATCH)?.as_ref(), read(http::header::IF_NONE_MATCH)?.as_ref())
}

/// Headers of the copy: the source's, or the request's if it says REPLACE.
fn copied_headers(input: &CopyObjectInput, source: &Object) -> S3Result<Headers> {
    let given = headers_of!(input)?;
    let replace =
        input.metadata_directive.as_ref().is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
    if replace {
        return Ok(given);
    }
    let changes = given.storage_class.is_some() || given.encryption.is_some() || given.website_redirect.is_some();
    if !changes && name_of(&input.copy_source)? == (&input.bucket, &input.key) {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata, storage class, website redirect location or encryption attributes."
        ));
    }
    Ok(Headers {
        storage_class: given.storage_class,
        encryption: given.encryption,
        encryption_key: given.encryption_key,
        bucket_key: given.bucket_key,
        website_redirect: given.website_redirect,
        ..source.headers.clone()
    })
}

/// The copy of an object: in one part whatever its source was, as on S3, with a checksum of all its bytes.
async fn copied(store: &Store, source: &Object, headers: Headers, algorithm: Option<Algorithm>) -> S3Result<Object> {
    let kept = source.checksum.as_ref().filter(|checksum| checksum.kind == Kind::FullObject);
    let whole = source.parts.is_empty();
    let (etag, checksum) = match (kept, algorithm) {
        (Some(checksum), None) if whole => (source.etag.clone(), Some(checksum.clone())),
        (Some(checksum), Some(wanted)) if whole && checksum.algorithm == wanted => {
            (source.etag.clone(), Some(checksum.clone()))
        }
        _ => {
            let same = source.checksum.as_ref().map(|checksum| checksum.algorithm);
            let algorithm = algorithm.or(same).unwrap_or(Algorithm::Crc64Nvme);
            let digests = digest(store.blobs(), &source.extents, &[algorithm]).await?;
            (digests.etag(), digests.checksum(algorithm))
        }
    };
    let (size, extents) = (source.size, source.extents.clone());
    Ok(Object { etag, size, modified: now(), headers, checksum, parts: Vec::new(), extents })
}

/// `x-amz-copy-source-range`: both ends must be given, and be inside.
fn part_range(text: &str, size: u64) -> S3Result<Range<u64>> {
    let invalid = || {
        s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy"
        )
    };
    let (first, last) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(invalid)?;
    let (first, last): (u64, u64) = (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
    if first > last {
        return Err(invalid());
    }
    if last >= size {
        return Err(s3_error!(InvalidRange, "Range specified is not valid for source object of size: {size}"));
    }
    Ok(first..last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::S3ErrorCode;

    #[test]
    fn ranges_of_parts() {
        let code = |text| part_range(text, 10).map_err(|error| error.code().clone());
        assert_eq!(code("bytes=0-9"), Ok(0..10));
        assert_eq!(code("bytes=3-3"), Ok(3..4));
        assert_eq!(code("bytes=3-10"), Err(S3ErrorCode::InvalidRange));
        for text in ["bytes=3-", "bytes=-3", "3-4", "bytes=4-3", "bytes=a-b", ""] {
            assert_eq!(code(text), Err(S3ErrorCode::InvalidArgument), "{text}");
        }
    }

    #[test]
    fn conditions_on_the_destination() {
        let headers = |name: http::HeaderName, value: &str| [(name, value.parse().unwrap())].into_iter().collect();
        let absent = destination_condition(&headers(http::header::IF_NONE_MATCH, "*")).unwrap();
        assert_eq!(absent, WriteCondition::Absent);
        let same = destination_condition(&headers(http::header::IF_MATCH, "\"ab\"")).unwrap();
        assert_eq!(same, WriteCondition::Matches("ab".into()));
        assert!(destination_condition(&headers(http::header::IF_MATCH, "\"ab")).is_err());
    }
}
