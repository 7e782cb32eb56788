//! A bucket by the AWS SDK, many requests at a time: for seeding, for looking at what arrived, and as the limit that a
//! file system can reach.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, bail};
use aws_credential_types::Credentials;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MetadataDirective};
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Requests of whole small objects at a time.
const SMALL_AT_ONCE: usize = 64;
/// Parts or ranges at a time.
const LARGE_AT_ONCE: usize = 12;
/// Bytes of a part that is sent.
const PART: u64 = 16 << 20;
/// Bytes of a range that is fetched.
const RANGE: u64 = 8 << 20;
const SERVER_REGION: &str = "us-east-1";

/// How to reach an S3 server.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) endpoint: String,
    pub(crate) key: String,
    pub(crate) secret: String,
}

/// A client of one bucket.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    runtime: Arc<Runtime>,
    client: aws_sdk_s3::Client,
    pub(crate) name: String,
}

impl Bucket {
    pub(crate) fn new(runtime: &Arc<Runtime>, access: &Access, name: &str) -> Self {
        let credentials = Credentials::new(&access.key, &access.secret, None, None, "bench");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().pool_max_idle_per_host(SMALL_AT_ONCE).build_http())
            .endpoint_url(&access.endpoint)
            .region(Region::new(SERVER_REGION))
            .credentials_provider(credentials)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .force_path_style(true);
        let client = aws_sdk_s3::Client::from_conf(config.build());
        Self { runtime: Arc::clone(runtime), client, name: name.to_owned() }
    }

    pub(crate) fn create(&self) -> anyhow::Result<()> {
        self.wait(self.client.create_bucket().bucket(&self.name).send()).map(drop)
    }

    /// The bucket and all in it.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        if self.wait(self.client.delete_bucket().bucket(&self.name).send()).is_ok() {
            return Ok(());
        }
        self.delete_all(self.list("")?.into_iter().map(|(key, _)| key).collect())?;
        self.wait(self.client.delete_bucket().bucket(&self.name).send()).map(drop)
    }

    pub(crate) fn put_all(&self, objects: Vec<(String, Vec<u8>)>, mode: u32) -> anyhow::Result<()> {
        let metadata = s3fs_metadata(mode);
        self.each(SMALL_AT_ONCE, objects, move |bucket, (key, bytes)| {
            let metadata = metadata.clone();
            async move { bucket.put(&key, bytes.into(), metadata).await }
        })
        .map(drop)
    }

    /// In parts, many at a time; a small one by a single PUT.
    pub(crate) fn upload(&self, key: &str, bytes: Bytes, mode: u32) -> anyhow::Result<()> {
        if bytes.len() as u64 <= PART {
            return self.runtime.block_on(self.put(key, bytes, s3fs_metadata(mode)));
        }
        let begin = self.client.create_multipart_upload().bucket(&self.name).key(key);
        let begun = self.wait(begin.set_metadata(Some(s3fs_metadata(mode))).send())?;
        let upload = begun.upload_id.context("an upload without id")?;
        let parts = (1..).zip(ranges(bytes.len() as u64, PART)).map(|(number, range)| {
            let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
            anyhow::Ok((number, bytes.slice(range)))
        });
        let (key, id) = (key.to_owned(), upload.clone());
        let mut done = self.each(LARGE_AT_ONCE, parts.collect::<Result<Vec<_>, _>>()?, {
            let key = key.clone();
            move |bucket, (number, bytes)| {
                let call = bucket.client.upload_part().bucket(&bucket.name).key(&key).upload_id(&id);
                let call = call.part_number(number).body(ByteStream::from(bytes));
                async move { Ok((number, call.send().await.map_err(told)?.e_tag)) }
            }
        })?;
        done.sort_by_key(|(number, _)| *number);
        let part = |(number, etag): (i32, Option<String>)| {
            CompletedPart::builder().part_number(number).set_e_tag(etag).build()
        };
        let parts = CompletedMultipartUpload::builder().set_parts(Some(done.into_iter().map(part).collect())).build();
        let call = self.client.complete_multipart_upload().bucket(&self.name).key(key).upload_id(upload);
        self.wait(call.multipart_upload(parts).send()).map(drop)
    }

    /// In ranges, many at a time.
    pub(crate) fn download(&self, key: &str, bytes: u64) -> anyhow::Result<Vec<Bytes>> {
        let key = key.to_owned();
        let mut parts = self.each(LARGE_AT_ONCE, ranges(bytes, RANGE), move |bucket, range| {
            let key = key.clone();
            async move { Ok((range.start, bucket.get_range(&key, range).await?)) }
        })?;
        parts.sort_by_key(|(start, _)| *start);
        Ok(parts.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// Ranges of one object in any order, many at a time.
    pub(crate) fn get_ranges(&self, key: &str, ranges: Vec<Range<u64>>) -> anyhow::Result<Vec<(u64, Bytes)>> {
        let key = key.to_owned();
        self.each(SMALL_AT_ONCE, ranges, move |bucket, range| {
            let key = key.clone();
            async move { Ok((range.start, bucket.get_range(&key, range).await?)) }
        })
    }

    /// One GET.
    pub(crate) fn get(&self, key: &str, range: Range<u64>) -> anyhow::Result<Bytes> {
        self.runtime.block_on(self.get_range(key, range))
    }

    pub(crate) fn get_all(&self, keys: Vec<String>) -> anyhow::Result<Vec<(String, Bytes)>> {
        self.each(SMALL_AT_ONCE, keys, |bucket, key| async move {
            let answer = bucket.client.get_object().bucket(&bucket.name).key(&key).send().await.map_err(told)?;
            Ok((key, answer.body.collect().await?.into_bytes()))
        })
    }

    pub(crate) fn head_all(&self, keys: Vec<String>) -> anyhow::Result<usize> {
        let heads = self.each(SMALL_AT_ONCE, keys, |bucket, key| async move {
            bucket.client.head_object().bucket(&bucket.name).key(&key).send().await.map_err(told)
        })?;
        Ok(heads.len())
    }

    pub(crate) fn copy_all(&self, pairs: Vec<(String, String)>) -> anyhow::Result<()> {
        self.each(SMALL_AT_ONCE, pairs, |bucket, (from, to)| async move {
            let call = bucket.client.copy_object().bucket(&bucket.name).key(to);
            let call = call.copy_source(format!("{}/{from}", bucket.name)).metadata_directive(MetadataDirective::Copy);
            call.send().await.map_err(told)?;
            bucket.client.delete_object().bucket(&bucket.name).key(from).send().await.map_err(told)
        })
        .map(drop)
    }

    pub(crate) fn delete_all(&self, keys: Vec<String>) -> anyhow::Result<()> {
        self.each(SMALL_AT_ONCE, keys, |bucket, key| async move {
            bucket.client.delete_object().bucket(&bucket.name).key(key).send().await.map_err(told)
        })
        .map(drop)
    }

    /// Keys and sizes below a prefix.
    pub(crate) fn list(&self, prefix: &str) -> anyhow::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let call = self.client.list_objects_v2().bucket(&self.name).prefix(prefix).set_continuation_token(token);
            let page = self.wait(call.send())?;
            for object in page.contents.unwrap_or_default() {
                found.push((object.key.unwrap_or_default(), u64::try_from(object.size.unwrap_or(0))?));
            }
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    async fn put(&self, key: &str, bytes: Bytes, metadata: HashMap<String, String>) -> anyhow::Result<()> {
        let call = self.client.put_object().bucket(&self.name).key(key).set_metadata(Some(metadata));
        let call = if key.ends_with('/') { call.content_type("application/x-directory") } else { call };
        call.body(ByteStream::from(bytes)).send().await.map_err(told)?;
        Ok(())
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> anyhow::Result<Bytes> {
        let call = self.client.get_object().bucket(&self.name).key(key);
        let call = call.range(format!("bytes={}-{}", range.start, range.end - 1));
        let bytes = call.send().await.map_err(told)?.body.collect().await?.into_bytes();
        if bytes.len() as u64 != range.end - range.start {
            bail!("{key}: {} bytes in the place of {}", bytes.len(), range.end - range.start);
        }
        Ok(bytes)
    }

    fn wait<T, E>(&self, call: impl Future<Output = Result<T, SdkError<E>>>) -> anyhow::Result<T>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        self.runtime.block_on(call).map_err(told)
    }

    /// `work` for each item, so many at once; what they gave, in any order.
    fn each<I, T, F>(
        &self,
        at_once: usize,
        items: Vec<I>,
        work: impl Fn(Self, I) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<T>>
    where
        I: Send + 'static,
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + Send + 'static,
    {
        let (slots, work) = (Arc::new(Semaphore::new(at_once)), Arc::new(work));
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for item in items {
                let slot = Arc::clone(&slots).acquire_owned().await?;
                let (bucket, work) = (self.clone(), Arc::clone(&work));
                tasks.spawn(async move {
                    let done = work(bucket, item).await;
                    drop(slot);
                    done
                });
            }
            let mut found = Vec::new();
            while let Some(done) = tasks.join_next().await {
                found.push(done??);
            }
            Ok(found)
        })
    }
}

/// What s3fs stores with a file of this mode.
fn s3fs_metadata(mode: u32) -> HashMap<String, String> {
    let fields = [("mode", mode.to_string()), ("uid", "0".into()), ("gid", "0".into())];
    let times = ["mtime", "ctime", "atime"].map(|name| (name, "1700000000".to_owned()));
    fields.into_iter().chain(times).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn ranges(bytes: u64, step: u64) -> Vec<Range<u64>> {
    (0..bytes.div_ceil(step)).map(|index| index * step..(index * step + step).min(bytes)).collect()
}

fn told<E: std::error::Error + Send + Sync + 'static>(error: SdkError<E>) -> anyhow::Error {
    anyhow::anyhow!("S3: {}", DisplayErrorContext(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_all() {
        assert_eq!(ranges(10, 4), [0..4, 4..8, 8..10]);
        assert_eq!(ranges(8, 4), [0..4, 4..8]);
        assert!(ranges(0, 4).is_empty());
    }
}
