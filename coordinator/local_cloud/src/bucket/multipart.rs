//! Multipart uploads. COMPLETE copies nothing: the object is the sequence of the parts' blobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, ListPartsInput, ListPartsOutput, Part, StorageClass, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Request, S3Result, s3_error};
use uuid::Uuid;

use super::checksum::{self, Algorithm, Checksum, Claims, Kind, checksums_of, set_checksums};
use super::conditions::{WriteCondition, now, timestamp};
use super::headers::{Headers, headers_of, refuse_customer_key, set_encryption};
use super::index::{Object, PartFacts, Record, Upload, UploadedPart};
use super::object::tag;
use super::receive::receive;
use super::store::Store;

/// S3's lower limit for every part but the last, in bytes.
const MIN_PART: u64 = 5 << 20;

/// S3's highest part number.
const MAX_PART_NUMBER: i32 = 10_000;

/// CreateMultipartUpload
pub(super) fn create(
    store: &Store,
    request: &S3Request<CreateMultipartUploadInput>,
) -> S3Result<CreateMultipartUploadOutput> {
    let input = &request.input;
    refuse_customer_key!(input);
    if input.tagging.is_some() {
        return Err(s3_error!(NotImplemented, "tagging is not implemented"));
    }
    let headers = headers_of!(input)?;
    let checksum = wanted_checksum(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
    let upload_id = Uuid::new_v4().simple().to_string();
    let mut output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        checksum_algorithm: input.checksum_algorithm.clone(),
        checksum_type: checksum.map(|(_, kind)| ChecksumType::from_static(kind.name())),
        key: Some(input.key.clone()),
        upload_id: Some(upload_id.clone()),
        ..CreateMultipartUploadOutput::default()
    };
    set_encryption!(output, headers);
    let upload = Upload { key: input.key.clone(), headers, checksum, begun: now(), parts: BTreeMap::new() };
    store.commit(|index| {
        index.bucket(&input.bucket)?;
        Ok(vec![Record::Begin { bucket: input.bucket.clone(), upload_id, upload }])
    })?;
    Ok(output)
}

fn wanted_checksum(
    algorithm: Option<&ChecksumAlgorithm>,
    kind: Option<&ChecksumType>,
) -> S3Result<Option<(Algorithm, Kind)>> {
    let Some(algorithm) = algorithm.map(Algorithm::parse).transpose()? else { return Ok(None) };
    let kind = kind.map_or(Ok(algorithm.default_kind()), Kind::parse)?;
    match (algorithm, kind) {
        (Algorithm::Sha1 | Algorithm::Sha256, Kind::FullObject) | (Algorithm::Crc64Nvme, Kind::Composite) => {
            Err(s3_error!(
                InvalidRequest,
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                kind.name(),
                algorithm.name()
            ))
        }
        _ => Ok(Some((algorithm, kind))),
    }
}

/// Where a part goes: an upload that existed when this was made.
#[derive(Debug)]
pub(super) struct Target<'a> {
    bucket: &'a str,
    key: &'a str,
    upload_id: &'a str,
    number: i32,
    /// Of the upload.
    pub(super) headers: Headers,
}

/// The place of a part and the checksum its upload wants.
pub(super) fn target<'a>(
    store: &Store,
    bucket: &'a str,
    key: &'a str,
    upload_id: &'a str,
    number: i32,
) -> S3Result<(Target<'a>, Algorithm)> {
    if !(1..=MAX_PART_NUMBER).contains(&number) {
        return Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"));
    }
    let (wanted, headers) = store.read(|index| {
        index.bucket(bucket)?.upload(key, upload_id).map(|upload| (upload.checksum, upload.headers.clone()))
    })?;
    let algorithm = wanted.map_or(Algorithm::Crc64Nvme, |(algorithm, _)| algorithm);
    Ok((Target { bucket, key, upload_id, number, headers }, algorithm))
}

impl Target<'_> {
    /// Adds the part unless the upload has ended meanwhile.
    pub(super) fn commit(self, store: &Store, part: UploadedPart) -> S3Result<()> {
        store.commit(|index| {
            index.bucket(self.bucket)?.upload(self.key, self.upload_id)?;
            let (bucket, upload_id) = (self.bucket.to_owned(), self.upload_id.to_owned());
            Ok(vec![Record::PutPart { bucket, upload_id, number: self.number, part }])
        })
    }
}

/// UploadPart
pub(super) async fn put_part(store: &Store, mut request: S3Request<UploadPartInput>) -> S3Result<UploadPartOutput> {
    let trailers = request.trailing_headers.take();
    let input = &mut request.input;
    refuse_customer_key!(input);
    let body = input.body.take();
    let (target, wanted) = target(store, &input.bucket, &input.key, &input.upload_id, input.part_number)?;
    let claims = Claims::new(
        input.content_md5.as_deref(),
        checksums_of!(input),
        input.checksum_algorithm.as_ref(),
        &request.headers,
        trailers,
    )?;
    let mut algorithms = claims.algorithms();
    algorithms.push(wanted);
    let received = receive(store.blobs(), body, input.content_length, &algorithms).await?;
    claims.verify(&received.digests)?;
    let part = UploadedPart {
        etag: received.digests.etag(),
        size: received.size,
        modified: now(),
        checksum: received.digests.checksum(wanted),
        extents: received.extents,
    };
    let mut output = UploadPartOutput { e_tag: Some(tag(&part.etag)), ..UploadPartOutput::default() };
    set_encryption!(output, target.headers);
    if let Some(checksum) = received.digests.checksum(claims.algorithm()) {
        set_checksums!(output, checksum);
    }
    target.commit(store, part)?;
    Ok(output)
}

/// CompleteMultipartUpload
pub(super) fn complete(
    store: &Store,
    request: &S3Request<CompleteMultipartUploadInput>,
) -> S3Result<CompleteMultipartUploadOutput> {
    let input = &request.input;
    refuse_customer_key!(input);
    let condition = WriteCondition::new(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let named = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref()).unwrap_or_default();
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(input.key.clone()),
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        ..CompleteMultipartUploadOutput::default()
    };
    store.commit(|index| {
        let bucket = index.bucket(&input.bucket)?;
        let upload = bucket.upload(&input.key, &input.upload_id)?;
        let object = assemble(upload, named)?;
        if input.mpu_object_size.is_some_and(|size| u64::try_from(size) != Ok(object.size)) {
            return Err(s3_error!(InvalidRequest, "The object size does not match the one specified"));
        }
        if object.checksum.as_ref().is_some_and(|checksum| checksum.contradicts(&checksums_of!(input))) {
            return Err(s3_error!(BadDigest, "The checksum you specified did not match the calculated checksum."));
        }
        condition.check(bucket.objects.get(&input.key).map(Arc::as_ref))?;
        output.e_tag = Some(tag(&object.etag));
        set_encryption!(output, object.headers);
        if let Some(checksum) = &object.checksum {
            output.checksum_type = set_checksums!(output, checksum);
        }
        let (bucket, upload_id, key) = (input.bucket.clone(), input.upload_id.clone(), input.key.clone());
        Ok(vec![Record::Complete { bucket, upload_id, key, object }])
    })?;
    Ok(output)
}

/// The object that the named parts of an upload make.
fn assemble(upload: &Upload, named: &[CompletedPart]) -> S3Result<Object> {
    let parts = chosen(upload, named)?;
    let mut md5 = Vec::with_capacity(16 * parts.len());
    for (_, part) in &parts {
        let sum = hex::decode(&part.etag).map_err(|error| s3_error!(error, InternalError, "a part has no tag"))?;
        md5.extend_from_slice(&sum);
    }
    let facts = |(number, part): &(i32, &UploadedPart)| PartFacts {
        number: *number,
        size: part.size,
        checksum: part.checksum.clone().filter(|_| upload.checksum.is_some()),
    };
    let digest = <s3s::crypto::Md5 as s3s::crypto::Checksum>::checksum(&md5);
    Ok(Object {
        etag: format!("{}-{}", hex::encode(digest), parts.len()),
        size: parts.iter().map(|(_, part)| part.size).sum(),
        modified: now(),
        headers: upload.headers.clone(),
        checksum: whole_checksum(upload, &parts),
        parts: parts.iter().map(facts).collect(),
        extents: parts.iter().flat_map(|(_, part)| part.extents.clone()).collect(),
    })
}

fn whole_checksum(upload: &Upload, parts: &[(i32, &UploadedPart)]) -> Option<Checksum> {
    let (algorithm, kind) = upload.checksum.unwrap_or((Algorithm::Crc64Nvme, Kind::FullObject));
    let sums = parts.iter().map(|(_, part)| Some((part.checksum.as_ref()?, part.size)));
    checksum::of_parts(algorithm, kind, &sums.collect::<Option<Vec<_>>>()?)
}

/// The parts named: in ascending order, each as it was uploaded, all but the last large enough.
fn chosen<'u>(upload: &'u Upload, named: &[CompletedPart]) -> S3Result<Vec<(i32, &'u UploadedPart)>> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    if !named.is_sorted_by(|a, b| a.part_number < b.part_number) {
        return Err(s3_error!(
            InvalidPartOrder,
            "The list of parts was not in ascending order. Parts must be ordered by part number."
        ));
    }
    let parts: Vec<_> = named.iter().map(|part| found(upload, part)).collect::<S3Result<_>>()?;
    let all_but_last = parts.split_last().map_or(&[][..], |(_, rest)| rest);
    if all_but_last.iter().any(|(_, part)| part.size < MIN_PART) {
        return Err(s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed size"));
    }
    Ok(parts)
}

fn found<'u>(upload: &'u Upload, named: &CompletedPart) -> S3Result<(i32, &'u UploadedPart)> {
    let number = named.part_number.unwrap_or_default();
    let part = upload.parts.get(&number).filter(|part| {
        let same_tag = named.e_tag.as_ref().is_none_or(|tag| tag.value() == part.etag);
        same_tag && !part.checksum.as_ref().is_some_and(|checksum| checksum.contradicts(&checksums_of!(named)))
    });
    part.map(|part| (number, part)).ok_or_else(|| {
        s3_error!(
            InvalidPart,
            "One or more of the specified parts could not be found. The part may not have been uploaded, or the \
             specified entity tag may not match the part's entity tag."
        )
    })
}

/// AbortMultipartUpload
pub(super) fn abort(
    store: &Store,
    request: &S3Request<AbortMultipartUploadInput>,
) -> S3Result<AbortMultipartUploadOutput> {
    let input = &request.input;
    store.commit(|index| {
        index.bucket(&input.bucket)?.upload(&input.key, &input.upload_id)?;
        Ok(vec![Record::Abort { bucket: input.bucket.clone(), upload_id: input.upload_id.clone() }])
    })?;
    Ok(AbortMultipartUploadOutput::default())
}

/// ListParts
pub(super) fn list_parts(store: &Store, request: &S3Request<ListPartsInput>) -> S3Result<ListPartsOutput> {
    let input = &request.input;
    let upload = store.read(|index| index.bucket(&input.bucket)?.upload(&input.key, &input.upload_id).cloned())?;
    let marker = input.part_number_marker.unwrap_or(0);
    let limit = usize::try_from(input.max_parts.unwrap_or(1000)).unwrap_or(0).min(1000);
    let mut after = upload.parts.iter().filter(|(number, _)| **number > marker);
    let parts: Vec<Part> = after.by_ref().take(limit).map(|(number, part)| listed(&upload, *number, part)).collect();
    Ok(ListPartsOutput {
        bucket: Some(input.bucket.clone()),
        checksum_algorithm: upload.checksum.map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
        checksum_type: upload.checksum.map(|(_, kind)| ChecksumType::from_static(kind.name())),
        is_truncated: Some(after.next().is_some()),
        key: Some(input.key.clone()),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: parts.last().and_then(|part| part.part_number),
        part_number_marker: Some(marker),
        parts: Some(parts),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(input.upload_id.clone()),
        ..ListPartsOutput::default()
    })
}

fn listed(upload: &Upload, number: i32, part: &UploadedPart) -> Part {
    let mut output = Part {
        e_tag: Some(tag(&part.etag)),
        last_modified: Some(timestamp(part.modified)),
        part_number: Some(number),
        size: i64::try_from(part.size).ok(),
        ..Part::default()
    };
    if let Some(checksum) = part.checksum.as_ref().filter(|_| upload.checksum.is_some()) {
        set_checksums!(output, checksum);
    }
    output
}
