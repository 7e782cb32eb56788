//! What is tried again: the one place that decides it.
//!
//! [`Retrying`] repeats a call that failed as transient when doing it twice is the same as doing it once. A
//! conditional write is not such a call: its first attempt may have been the one that made the condition false. Its
//! caller gets [`StoreError::Transient`], looks with HEAD for the UUID it wrote, and decides.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::Rng;

use super::{
    Body, Condition, Etag, Headers, ListedUpload, ObjectInfo, ObjectKey, ObjectStore, Page, Part, Requests, Sink,
    StoreError,
};

/// How often, and how long in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; at least one is made.
    pub attempts: u32,
    /// The longest pause after the first attempt; it doubles with every further one.
    pub base: Duration,
    /// No pause is longer.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 4, base: Duration::from_millis(100), cap: Duration::from_secs(2) }
    }
}

impl RetryPolicy {
    /// The longest pause after attempt `attempt` (1 and up) failed as `error`; none when it is final.
    fn pause_after(&self, attempt: u32, error: &StoreError) -> Option<Duration> {
        let transient = matches!(error, StoreError::Transient(..));
        (transient && attempt < self.attempts).then(|| {
            let doubled = self.base.saturating_mul(2_u32.saturating_pow(attempt - 1));
            doubled.min(self.cap)
        })
    }
}

/// A random part of the longest pause, so that clients that failed together do not come back together.
fn jittered(longest: Duration) -> Duration {
    longest.mul_f64(rand::thread_rng().gen_range(0.0..=1.0))
}

/// A store that repeats what can be repeated.
#[derive(Debug, Clone)]
pub struct Retrying<S> {
    store: S,
    policy: RetryPolicy,
}

impl<S: ObjectStore> Retrying<S> {
    /// Repeats calls of `store` as `policy` says.
    pub fn new(store: S, policy: RetryPolicy) -> Self {
        Self { store, policy }
    }

    /// Repeats `call` until it succeeds, fails for good, or the attempts are used up.
    async fn repeat<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut attempt = 1;
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(longest) = self.policy.pause_after(attempt, &error) else { return Err(error) };
            tracing::debug!(attempt, %error, "a call to the store is tried again");
            tokio::time::sleep(jittered(longest)).await;
            attempt += 1;
        }
    }

    /// Repeats `call` if it does not depend on what is there.
    async fn repeat_unless<T, F>(&self, conditional: bool, mut call: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        if conditional { call().await } else { self.repeat(call).await }
    }
}

fn is_conditional(condition: &Condition) -> bool {
    *condition != Condition::Always
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for Retrying<S> {
    fn requests(&self) -> Requests {
        self.store.requests()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        self.repeat(|| self.store.head(key)).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<(ObjectInfo, Bytes), StoreError> {
        self.repeat(|| self.store.get(key)).await
    }

    async fn get_within(&self, key: &ObjectKey, limit: u64) -> Result<(ObjectInfo, Option<Bytes>), StoreError> {
        self.repeat(|| self.store.get_within(key, limit)).await
    }

    async fn get_range(&self, key: &ObjectKey, etag: &Etag, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.repeat(|| self.store.get_range(key, etag, range.clone())).await
    }

    /// Not repeated: whoever takes the bytes knows how far they came.
    async fn read_range(
        &self,
        key: &ObjectKey,
        etag: &Etag,
        range: Range<u64>,
        sink: &dyn Sink,
    ) -> Result<(), StoreError> {
        self.store.read_range(key, etag, range, sink).await
    }

    async fn list(
        &self,
        prefix: &str,
        delimiter: Option<char>,
        token: Option<&str>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        self.repeat(|| self.store.list(prefix, delimiter, token, limit)).await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Body,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        let call = || self.store.put(key, body.clone(), headers, condition);
        self.repeat_unless(is_conditional(condition), call).await
    }

    /// A copy onto itself is conditional by its source: the first attempt may have changed it.
    async fn copy(
        &self,
        from: &ObjectKey,
        from_etag: &Etag,
        to: &ObjectKey,
        headers: Option<&Headers>,
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        let call = || self.store.copy(from, from_etag, to, headers, condition);
        self.repeat_unless(is_conditional(condition) || from == to, call).await
    }

    async fn delete(&self, key: &ObjectKey, condition: &Condition) -> Result<(), StoreError> {
        self.repeat_unless(is_conditional(condition), || self.store.delete(key, condition)).await
    }

    /// A begin whose answer was lost leaves an upload that nobody knows; the bucket's lifecycle rules remove it.
    async fn multipart_begin(&self, key: &ObjectKey, headers: &Headers) -> Result<String, StoreError> {
        self.repeat(|| self.store.multipart_begin(key, headers)).await
    }

    async fn multipart_put(&self, key: &ObjectKey, upload: &str, number: i32, body: Body) -> Result<Part, StoreError> {
        self.repeat(|| self.store.multipart_put(key, upload, number, body.clone())).await
    }

    async fn multipart_copy(
        &self,
        key: &ObjectKey,
        upload: &str,
        number: i32,
        from: (&ObjectKey, &Etag),
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        self.repeat(|| self.store.multipart_copy(key, upload, number, from, range.clone())).await
    }

    /// Not repeated: a second attempt after one that worked finds no upload.
    async fn multipart_complete(
        &self,
        key: &ObjectKey,
        upload: &str,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        self.store.multipart_complete(key, upload, parts, condition).await
    }

    /// An upload that is gone is given up.
    async fn multipart_abort(&self, key: &ObjectKey, upload: &str) -> Result<(), StoreError> {
        match self.repeat(|| self.store.multipart_abort(key, upload)).await {
            Err(StoreError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    async fn multipart_list(&self, prefix: &str) -> Result<Vec<ListedUpload>, StoreError> {
        self.repeat(|| self.store.multipart_list(prefix)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::store::memory::{MemoryStore, Operation};

    fn quick(store: &MemoryStore, attempts: u32) -> Retrying<MemoryStore> {
        let policy = RetryPolicy { attempts, base: Duration::from_millis(1), cap: Duration::from_millis(2) };
        Retrying::new(store.clone(), policy)
    }

    fn key() -> ObjectKey {
        ObjectKey::new("k")
    }

    async fn put(store: &impl ObjectStore, condition: &Condition) -> Result<Etag, StoreError> {
        store.put(&key(), Body::Bytes("v".into()), &Headers::default(), condition).await
    }

    #[test]
    fn pauses_double_up_to_the_cap_and_end() {
        let policy = RetryPolicy { attempts: 4, base: Duration::from_secs(1), cap: Duration::from_secs(3) };
        let transient = StoreError::Transient("k".into(), "w".into());
        let pauses = [1, 2, 3, 4].map(|attempt| policy.pause_after(attempt, &transient).map(|p| p.as_secs()));
        assert_eq!(pauses, [Some(1), Some(2), Some(3), None]);
        for last in [
            StoreError::NotFound("k".into()),
            StoreError::Conflict("k".into()),
            StoreError::Denied("k".into(), "w".into()),
            StoreError::Refused("k".into(), "w".into()),
            StoreError::Local("w".into()),
        ] {
            assert_eq!(policy.pause_after(1, &last), None, "{last}");
        }
        assert!((0..100).all(|_| jittered(Duration::from_secs(1)) <= Duration::from_secs(1)));
    }

    #[tokio::test]
    async fn plain_calls_are_repeated_and_the_attempts_bounded() {
        let store = MemoryStore::new();
        store.fail_next(Operation::Put, 2);
        put(&quick(&store, 3), &Condition::Always).await.unwrap();
        assert_eq!(store.calls(Operation::Put), 3);
        store.fail_next(Operation::Head, 9);
        assert!(matches!(quick(&store, 3).head(&key()).await, Err(StoreError::Transient(..))));
        assert_eq!(store.calls(Operation::Head), 3);
        store.fail_next_with(Operation::Get, 1, StoreError::Denied("k".into(), "w".into()));
        assert!(matches!(quick(&store, 3).get(&key()).await, Err(StoreError::Denied(..))));
        assert_eq!(store.calls(Operation::Get), 1);
    }

    #[tokio::test]
    async fn conditional_calls_are_not_repeated() {
        let store = MemoryStore::new();
        let retrying = quick(&store, 3);
        store.apply_then_fail(Operation::Put);
        assert!(matches!(put(&retrying, &Condition::Absent).await, Err(StoreError::Transient(..))));
        assert_eq!((store.calls(Operation::Put), store.keys()), (1, vec!["k".to_owned()]));
        let etag = store.object("k").unwrap().0.etag;
        store.fail_next(Operation::Copy, 1);
        let copied = retrying.copy(&key(), &etag, &key(), Some(&Headers::default()), &Condition::Always).await;
        assert!(matches!(copied, Err(StoreError::Transient(..))));
        store.fail_next(Operation::Delete, 1);
        let deleted = retrying.delete(&key(), &Condition::Matches(etag)).await;
        assert!(matches!(deleted, Err(StoreError::Transient(..))));
        assert_eq!((store.calls(Operation::Copy), store.calls(Operation::Delete)), (1, 1));
    }

    #[tokio::test]
    async fn giving_up_twice_is_giving_up() {
        let store = MemoryStore::new();
        let upload = store.multipart_begin(&key(), &Headers::default()).await.unwrap();
        store.apply_then_fail(Operation::MultipartAbort);
        quick(&store, 3).multipart_abort(&key(), &upload).await.unwrap();
        assert_eq!(store.calls(Operation::MultipartAbort), 2);
    }
}
