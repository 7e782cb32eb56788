//! S3 by the AWS SDK: the only file of the volume, with its children, that names it.
//!
//! The SDK's own retries are off: [`super::retry`] decides. Every call has a deadline, the reading of a reply's body
//! included.

mod body;
mod convert;
mod errors;
mod keys;
mod transport;

use std::error::Error as StdError;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, EncodingType, MetadataDirective,
    ObjectCannedAcl, RequestPayer, ServerSideEncryption, StorageClass,
};
use bytes::Bytes;

pub use self::keys::Keys;

use self::convert::{Prefix, body_stream, conditions, copy_source, etag, headers_of, object_info};
use super::count::Counts;
use super::{
    Body, Condition, Etag, Headers, ListedUpload, ObjectInfo, ObjectKey, ObjectStore, Page, Part, Requests, Sink,
    StoreError,
};

/// For calls that move no data.
const SHORT: Duration = Duration::from_secs(10);

/// For COPY and COMPLETE, which S3 answers when it has moved the bytes.
const LONG: Duration = Duration::from_secs(120);

/// A transfer slower than this is given up.
const MIN_BYTES_PER_SECOND: u64 = 256 << 10;

/// To set up a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Signs requests where an endpoint is given and no region is known.
const DEFAULT_REGION: &str = "us-east-1";

/// In [`Uploads::encryption`]: with keys that S3 keeps itself.
pub const S3_KEYS: &str = "AES256";

/// Where the objects are, and how they are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// Name of the bucket.
    pub bucket: String,
    /// Put before every key; empty, or ending in `/`.
    pub prefix: String,
    /// From the environment, the profile or IMDS if none.
    pub region: Option<String>,
    /// URL of another server than AWS's; its buckets are named in the path.
    pub endpoint: Option<String>,
    /// Where the keys come from.
    pub keys: Keys,
    /// What objects are written with.
    pub uploads: Uploads,
    /// The requester pays for transfers, not the owner of the bucket.
    pub requester_pays: bool,
}

/// What every object is written with; the bucket's own rules where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uploads {
    /// `STANDARD_IA` and the like.
    pub storage_class: Option<String>,
    /// [`S3_KEYS`], or the id of a key of KMS.
    pub encryption: Option<String>,
    /// A canned ACL.
    pub acl: Option<String>,
}

impl Uploads {
    fn storage_class(&self) -> Option<StorageClass> {
        self.storage_class.as_deref().map(StorageClass::from)
    }

    fn encryption(&self) -> Option<ServerSideEncryption> {
        let by_key =
            |key: &str| if key == S3_KEYS { ServerSideEncryption::Aes256 } else { ServerSideEncryption::AwsKms };
        self.encryption.as_deref().map(by_key)
    }

    fn kms_key(&self) -> Option<String> {
        self.encryption.clone().filter(|key| key != S3_KEYS)
    }

    fn acl(&self) -> Option<ObjectCannedAcl> {
        self.acl.as_deref().map(ObjectCannedAcl::from)
    }
}

/// A prefix of a bucket.
#[derive(Debug, Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    prefix: Prefix,
    uploads: Uploads,
    payer: Option<RequestPayer>,
    counts: Arc<Counts>,
}

impl S3Store {
    /// Sets the client up. Credentials are fetched when first needed. No request is sent to S3.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] when no region is known.
    pub async fn connect(settings: S3Settings) -> Result<Self, StoreError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(transport::client());
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        loader = settings.keys.into_loader(loader);
        let shared = loader.load().await;
        let mut config = configured(aws_sdk_s3::config::Builder::from(&shared), settings.endpoint.as_deref());
        if shared.region().is_none() {
            if settings.endpoint.is_none() {
                return Err(StoreError::Refused(settings.bucket, "no region is known: name one".to_owned()));
            }
            config = config.region(Region::new(DEFAULT_REGION));
        }
        let client = Client::from_conf(config.build());
        let payer = settings.requester_pays.then_some(RequestPayer::Requester);
        let (prefix, uploads) = (Prefix(settings.prefix), settings.uploads);
        Ok(Self { client, bucket: settings.bucket, prefix, uploads, payer, counts: Arc::default() })
    }

    fn key(&self, key: &ObjectKey) -> String {
        self.prefix.full(key)
    }

    /// The body of a reply with bytes of one version.
    async fn ranged(&self, key: &ObjectKey, etag: &Etag, range: Range<u64>) -> Result<ByteStream, StoreError> {
        let what = key.as_str();
        if range.is_empty() {
            return Err(StoreError::Refused(what.to_owned(), "empty range".to_owned()));
        }
        self.counts.get.add();
        let call = self.client.get_object().bucket(&self.bucket).key(self.key(key)).if_match(&etag.0);
        let call = call.range(format!("bytes={}-{}", range.start, range.end - 1));
        let call = call.set_request_payer(self.payer.clone()).send();
        Ok(call.await.map_err(|error| errors::store_error(what, &error))?.body)
    }
}

/// What holds whatever the environment says.
fn configured(config: aws_sdk_s3::config::Builder, endpoint: Option<&str>) -> aws_sdk_s3::config::Builder {
    let config = config
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build());
    match endpoint {
        Some(endpoint) => config.endpoint_url(endpoint).force_path_style(true),
        None => config,
    }
}

/// Time for a call that moves so many bytes.
fn transfer_time(bytes: u64) -> Duration {
    SHORT + Duration::from_secs(bytes / MIN_BYTES_PER_SECOND)
}

/// The answer to one call, or what it means that there is none.
async fn answer<T, E>(
    what: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, StoreError>
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    within(what, limit, async { call.await.map_err(|error| errors::store_error(what, &error)) }).await
}

/// What `work` gives, unless it takes too long.
async fn within<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = || StoreError::Transient(what.to_owned(), format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

#[async_trait]
impl ObjectStore for S3Store {
    fn requests(&self) -> Requests {
        self.counts.now()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        self.counts.head.add();
        let call = self.client.head_object().bucket(&self.bucket).key(self.key(key));
        let call = call.set_request_payer(self.payer.clone()).send();
        let output = answer(key.as_str(), SHORT, call).await?;
        object_info!(key, output)
    }

    async fn get(&self, key: &ObjectKey) -> Result<(ObjectInfo, Bytes), StoreError> {
        let (info, bytes) = self.get_within(key, u64::MAX).await?;
        Ok((info, bytes.unwrap_or_default()))
    }

    async fn get_within(&self, key: &ObjectKey, limit: u64) -> Result<(ObjectInfo, Option<Bytes>), StoreError> {
        let what = key.as_str();
        self.counts.get.add();
        let call = self.client.get_object().bucket(&self.bucket).key(self.key(key));
        let call = call.set_request_payer(self.payer.clone()).send();
        let mut output = answer(what, SHORT, call).await?;
        let body = std::mem::take(&mut output.body);
        let info: ObjectInfo = object_info!(key, output)?;
        if info.size > limit {
            // What is not read ends with its connection.
            return Ok((info, None));
        }
        let bytes = within(what, transfer_time(info.size), body::whole(what, body)).await?;
        Ok((info, Some(bytes)))
    }

    async fn get_range(&self, key: &ObjectKey, etag: &Etag, range: Range<u64>) -> Result<Bytes, StoreError> {
        let what = key.as_str();
        let limit = transfer_time(range.end.saturating_sub(range.start));
        within(what, limit, async { body::whole(what, self.ranged(key, etag, range).await?).await }).await
    }

    async fn read_range(
        &self,
        key: &ObjectKey,
        etag: &Etag,
        range: Range<u64>,
        sink: &dyn Sink,
    ) -> Result<(), StoreError> {
        let (what, length) = (key.as_str(), range.end.saturating_sub(range.start));
        within(what, transfer_time(length), async {
            body::hand_over(what, self.ranged(key, etag, range).await?, length, sink).await
        })
        .await
    }

    async fn list(
        &self,
        prefix: &str,
        delimiter: Option<char>,
        token: Option<&str>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        self.counts.list.add();
        // The marker of a directory is not one of its names: a thousand of them are one page.
        let after = delimiter.and(Some(prefix)).filter(|prefix| token.is_none() && prefix.ends_with('/'));
        let call = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.prefix.full_text(prefix))
            .set_delimiter(delimiter.map(String::from))
            .set_continuation_token(token.map(str::to_owned))
            .set_start_after(after.map(|prefix| self.prefix.full_text(prefix)))
            .max_keys(i32::from(limit))
            .encoding_type(EncodingType::Url)
            .set_request_payer(self.payer.clone())
            .send();
        let output = answer(prefix, SHORT, call).await?;
        self.prefix.page(&output)
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Body,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        let (stream, size) = body_stream(body).await?;
        let (if_match, if_none_match) = conditions(condition);
        let headers = headers_of(key, headers)?;
        self.counts.put.add();
        let call = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(key))
            .body(stream)
            .set_content_type(headers.content_type)
            .set_metadata(Some(headers.metadata))
            .set_cache_control(headers.cache_control)
            .set_content_encoding(headers.content_encoding)
            .set_content_disposition(headers.content_disposition)
            .set_content_language(headers.content_language)
            .set_storage_class(self.uploads.storage_class())
            .set_server_side_encryption(self.uploads.encryption())
            .set_ssekms_key_id(self.uploads.kms_key())
            .set_acl(self.uploads.acl())
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .set_request_payer(self.payer.clone())
            .send();
        let output = answer(key.as_str(), transfer_time(size), call).await?;
        etag(key, output.e_tag)
    }

    async fn copy(
        &self,
        from: &ObjectKey,
        from_etag: &Etag,
        to: &ObjectKey,
        headers: Option<&Headers>,
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        let (if_match, if_none_match) = conditions(condition);
        let directive = if headers.is_some() { MetadataDirective::Replace } else { MetadataDirective::Copy };
        let headers = headers.map(|headers| headers_of(to, headers)).transpose()?.unwrap_or_default();
        self.counts.copy.add();
        let call = self
            .client
            .copy_object()
            .bucket(&self.bucket)
            .key(self.key(to))
            .copy_source(copy_source(&self.bucket, &self.key(from)))
            .copy_source_if_match(&from_etag.0)
            .metadata_directive(directive)
            .set_content_type(headers.content_type)
            .set_metadata(Some(headers.metadata))
            .set_cache_control(headers.cache_control)
            .set_content_encoding(headers.content_encoding)
            .set_content_disposition(headers.content_disposition)
            .set_content_language(headers.content_language)
            .set_storage_class(self.uploads.storage_class())
            .set_server_side_encryption(self.uploads.encryption())
            .set_ssekms_key_id(self.uploads.kms_key())
            .set_acl(self.uploads.acl())
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .set_request_payer(self.payer.clone())
            .send();
        let output = answer(to.as_str(), LONG, call).await?;
        etag(to, output.copy_object_result.and_then(|result| result.e_tag))
    }

    async fn delete(&self, key: &ObjectKey, condition: &Condition) -> Result<(), StoreError> {
        let if_match = match condition {
            Condition::Always => None,
            Condition::Matches(etag) => Some(etag.0.clone()),
            Condition::Absent => {
                let why = "what is absent cannot be deleted".to_owned();
                return Err(StoreError::Refused(key.to_string(), why));
            }
        };
        self.counts.delete.add();
        let call = self.client.delete_object().bucket(&self.bucket).key(self.key(key)).set_if_match(if_match);
        let call = call.set_request_payer(self.payer.clone()).send();
        answer(key.as_str(), SHORT, call).await.map(drop)
    }

    /// With a checksum of the whole object (CRC-64/NVME): S3 then needs no checksums of parts when it completes.
    async fn multipart_begin(&self, key: &ObjectKey, headers: &Headers) -> Result<String, StoreError> {
        let headers = headers_of(key, headers)?;
        self.counts.multipart.add();
        let call = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(key))
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_type(ChecksumType::FullObject)
            .set_content_type(headers.content_type)
            .set_metadata(Some(headers.metadata))
            .set_cache_control(headers.cache_control)
            .set_content_encoding(headers.content_encoding)
            .set_content_disposition(headers.content_disposition)
            .set_content_language(headers.content_language)
            .set_storage_class(self.uploads.storage_class())
            .set_server_side_encryption(self.uploads.encryption())
            .set_ssekms_key_id(self.uploads.kms_key())
            .set_acl(self.uploads.acl())
            .set_request_payer(self.payer.clone())
            .send();
        let output = answer(key.as_str(), SHORT, call).await?;
        output.upload_id.ok_or_else(|| StoreError::Transient(key.to_string(), "no upload id in the reply".to_owned()))
    }

    async fn multipart_put(&self, key: &ObjectKey, upload: &str, number: i32, body: Body) -> Result<Part, StoreError> {
        let (stream, size) = body_stream(body).await?;
        self.counts.part.add();
        let call = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(self.key(key))
            .upload_id(upload)
            .part_number(number)
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .body(stream)
            .set_request_payer(self.payer.clone())
            .send();
        let output = answer(key.as_str(), transfer_time(size), call).await?;
        Ok(Part { number, etag: etag(key, output.e_tag)? })
    }

    async fn multipart_copy(
        &self,
        key: &ObjectKey,
        upload: &str,
        number: i32,
        from: (&ObjectKey, &Etag),
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.counts.part.add();
        let call = self
            .client
            .upload_part_copy()
            .bucket(&self.bucket)
            .key(self.key(key))
            .upload_id(upload)
            .part_number(number)
            .copy_source(copy_source(&self.bucket, &self.key(from.0)))
            .copy_source_if_match(&from.1.0)
            .copy_source_range(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))
            .send();
        let output = answer(key.as_str(), LONG, call).await?;
        Ok(Part { number, etag: etag(key, output.copy_part_result.and_then(|result| result.e_tag))? })
    }

    async fn multipart_complete(
        &self,
        key: &ObjectKey,
        upload: &str,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        let (if_match, if_none_match) = conditions(condition);
        let part = |part: &Part| CompletedPart::builder().part_number(part.number).e_tag(&part.etag.0).build();
        let parts = parts.iter().map(part).collect();
        self.counts.multipart.add();
        let call = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.key(key))
            .upload_id(upload)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .checksum_type(ChecksumType::FullObject)
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .set_request_payer(self.payer.clone())
            .send();
        let output = answer(key.as_str(), LONG, call).await?;
        etag(key, output.e_tag)
    }

    async fn multipart_abort(&self, key: &ObjectKey, upload: &str) -> Result<(), StoreError> {
        self.counts.multipart.add();
        let call = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.key(key)).upload_id(upload);
        let call = call.set_request_payer(self.payer.clone()).send();
        answer(key.as_str(), SHORT, call).await.map(drop)
    }

    async fn multipart_list(&self, prefix: &str) -> Result<Vec<ListedUpload>, StoreError> {
        let (mut uploads, mut after) = (Vec::new(), None::<(String, String)>);
        loop {
            let (key, id) = after.unzip();
            self.counts.list.add();
            let call = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(self.prefix.full_text(prefix))
                .encoding_type(EncodingType::Url)
                .set_key_marker(key)
                .set_upload_id_marker(id);
            let output = answer(prefix, SHORT, call.send()).await?;
            for upload in output.uploads() {
                uploads.push(self.prefix.upload(upload)?);
            }
            after = output.next_key_marker.zip(output.next_upload_id_marker);
            if !output.is_truncated.unwrap_or(false) || after.is_none() {
                return Ok(uploads);
            }
        }
    }
}

#[cfg(test)]
mod tests;
