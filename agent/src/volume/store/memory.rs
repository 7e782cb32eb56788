//! A working object store in memory, for tests of everything above [`ObjectStore`].
//!
//! It keeps S3's promises (conditions are atomic, a listing shows every finished write, entity tags are MD5) and
//! breaks them on request: [`MemoryStore::fail_next`], [`MemoryStore::apply_then_fail`], [`MemoryStore::set_latency`],
//! [`MemoryStore::set_outage`], [`MemoryStore::set_turns`].

mod content;
mod faults;

pub use faults::Operation;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use self::content::Content;
use self::faults::{Faults, Verdict};
use super::{
    Body, Condition, Etag, Headers, ListedUpload, ObjectInfo, ObjectKey, ObjectStore, Page, Part, Requests, Sink,
    StoreError,
};

/// Bytes that are handed over at a time.
const CHUNK: usize = 128 << 10;

/// An object store in memory. Clones share the same objects and the same faults.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    content: Arc<Mutex<Content>>,
    faults: Arc<Mutex<Faults>>,
}

impl MemoryStore {
    /// An empty store without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next `calls` calls of `operation` fail as transient and do nothing.
    pub fn fail_next(&self, operation: Operation, calls: usize) {
        let error = StoreError::Transient(operation.to_string(), "injected".to_owned());
        self.fail_next_with(operation, calls, error);
    }

    /// The next `calls` calls of `operation` fail with `error` and do nothing.
    pub fn fail_next_with(&self, operation: Operation, calls: usize, error: StoreError) {
        self.faults.lock().push(operation, calls, Verdict::Fail(error));
    }

    /// The next call of `operation` takes effect, and its answer is lost (transient).
    pub fn apply_then_fail(&self, operation: Operation) {
        self.faults.lock().push(operation, 1, Verdict::LoseReply);
    }

    /// Every call takes at least this long from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.faults.lock().latency = latency;
    }

    /// Every call lets other tasks go on before and after its effect, up to so many times: what runs side by side meets
    /// in many ways.
    pub fn set_turns(&self, most: u32) {
        self.faults.lock().most_turns = most;
    }

    /// Parts may be as small as this, other than in S3.
    pub fn set_min_part(&self, bytes: usize) {
        self.content.lock().min_part = bytes;
    }

    /// While `away`, every call fails as transient and does nothing.
    pub fn set_outage(&self, away: bool) {
        self.faults.lock().outage = away;
    }

    /// How often `operation` was called so far, failed calls included.
    pub fn calls(&self, operation: Operation) -> usize {
        self.faults.lock().calls(operation)
    }

    /// Stores an object as another client of the bucket would: unconditional, past all faults.
    pub fn insert(&self, key: &str, bytes: impl Into<Bytes>, headers: Headers) -> Etag {
        self.content.lock().insert(ObjectKey::new(key), bytes.into(), headers)
    }

    /// Removes an object as another client of the bucket would; past all faults. False when there was none.
    pub fn remove(&self, key: &str) -> bool {
        self.content.lock().remove(&ObjectKey::new(key))
    }

    /// What is stored under `key`, past all faults.
    pub fn object(&self, key: &str) -> Option<(ObjectInfo, Bytes)> {
        self.content.lock().get(&ObjectKey::new(key)).ok()
    }

    /// All keys, in byte order.
    pub fn keys(&self) -> Vec<String> {
        self.content.lock().keys()
    }

    /// Multipart uploads begun and neither completed nor given up.
    pub fn open_uploads(&self) -> usize {
        self.content.lock().open_uploads()
    }

    /// One call: counted, delayed, and failed before or after its effect as the faults say.
    async fn call<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&mut Content) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (latency, verdict) = self.faults.lock().begin(operation);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        self.turns().await;
        let result = match verdict {
            Verdict::Pass => work(&mut self.content.lock()),
            Verdict::Fail(error) => Err(error),
            Verdict::LoseReply => work(&mut self.content.lock()).and_then(|_| {
                Err(StoreError::Transient(operation.to_string(), "the reply was lost (injected)".to_owned()))
            }),
        };
        self.turns().await;
        result
    }

    async fn turns(&self) {
        let turns = self.faults.lock().turns();
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn requests(&self) -> Requests {
        let faults = self.faults.lock();
        let calls = |kinds: &[Operation]| kinds.iter().map(|kind| faults.calls(*kind) as u64).sum();
        Requests {
            put: calls(&[Operation::Put]),
            get: calls(&[Operation::Get, Operation::GetRange]),
            head: calls(&[Operation::Head]),
            list: calls(&[Operation::List, Operation::MultipartList]),
            copy: calls(&[Operation::Copy]),
            delete: calls(&[Operation::Delete]),
            part: calls(&[Operation::MultipartPut, Operation::MultipartCopy]),
            multipart: calls(&[Operation::MultipartBegin, Operation::MultipartComplete, Operation::MultipartAbort]),
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        self.call(Operation::Head, |content| Ok(content.get(key)?.0)).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<(ObjectInfo, Bytes), StoreError> {
        self.call(Operation::Get, |content| content.get(key)).await
    }

    async fn get_within(&self, key: &ObjectKey, limit: u64) -> Result<(ObjectInfo, Option<Bytes>), StoreError> {
        let (info, bytes) = self.get(key).await?;
        let small = info.size <= limit;
        Ok((info, small.then_some(bytes)))
    }

    async fn get_range(&self, key: &ObjectKey, etag: &Etag, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.call(Operation::GetRange, |content| content.get_range(key, etag, range)).await
    }

    async fn read_range(
        &self,
        key: &ObjectKey,
        etag: &Etag,
        range: Range<u64>,
        sink: &dyn Sink,
    ) -> Result<(), StoreError> {
        let mut bytes = self.get_range(key, etag, range).await?;
        while !bytes.is_empty() && sink.take(vec![bytes.split_to(bytes.len().min(CHUNK))]).await {}
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        delimiter: Option<char>,
        token: Option<&str>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        self.call(Operation::List, |content| Ok(content.list(prefix, delimiter, token, limit))).await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Body,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        let bytes = read_body(body).await?;
        self.call(Operation::Put, |content| {
            content.check(key, condition)?;
            Ok(content.insert(key.clone(), bytes, headers.clone()))
        })
        .await
    }

    async fn copy(
        &self,
        from: &ObjectKey,
        from_etag: &Etag,
        to: &ObjectKey,
        headers: Option<&Headers>,
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        self.call(Operation::Copy, |content| {
            content.check(from, &Condition::Matches(from_etag.clone()))?;
            content.check(to, condition)?;
            let (info, bytes) = content.get(from)?;
            Ok(content.insert(to.clone(), bytes, headers.cloned().unwrap_or(info.headers)))
        })
        .await
    }

    async fn delete(&self, key: &ObjectKey, condition: &Condition) -> Result<(), StoreError> {
        self.call(Operation::Delete, |content| {
            content.check(key, condition)?;
            content.remove(key);
            Ok(())
        })
        .await
    }

    async fn multipart_begin(&self, key: &ObjectKey, headers: &Headers) -> Result<String, StoreError> {
        self.call(Operation::MultipartBegin, |content| Ok(content.begin(key, headers))).await
    }

    async fn multipart_put(&self, key: &ObjectKey, upload: &str, number: i32, body: Body) -> Result<Part, StoreError> {
        let bytes = read_body(body).await?;
        self.call(Operation::MultipartPut, |content| content.put_part(key, upload, number, bytes)).await
    }

    async fn multipart_copy(
        &self,
        key: &ObjectKey,
        upload: &str,
        number: i32,
        from: (&ObjectKey, &Etag),
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.call(Operation::MultipartCopy, |content| {
            let bytes = content.get_range(from.0, from.1, range)?;
            content.put_part(key, upload, number, bytes)
        })
        .await
    }

    async fn multipart_complete(
        &self,
        key: &ObjectKey,
        upload: &str,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        self.call(Operation::MultipartComplete, |content| content.complete(key, upload, parts, condition)).await
    }

    async fn multipart_abort(&self, key: &ObjectKey, upload: &str) -> Result<(), StoreError> {
        self.call(Operation::MultipartAbort, |content| content.abort(key, upload)).await
    }

    async fn multipart_list(&self, prefix: &str) -> Result<Vec<ListedUpload>, StoreError> {
        self.call(Operation::MultipartList, |content| Ok(content.uploads(prefix))).await
    }
}

/// The bytes of an upload, read as they are now.
async fn read_body(body: Body) -> Result<Bytes, StoreError> {
    match body {
        Body::Bytes(bytes) => Ok(bytes),
        Body::File { path, range } => tokio::task::spawn_blocking(move || read_file(&path, range))
            .await
            .map_err(|error| StoreError::Local(error.to_string()))?
            .map_err(|error| StoreError::Local(error.to_string())),
    }
}

fn read_file(path: &std::path::Path, range: Range<u64>) -> std::io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    std::fs::File::open(path)?.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests;
