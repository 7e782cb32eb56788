//! The index, its log and the blobs together. Every change goes through [`Store::commit`]: decided, logged and made
//! under one lock, so that a precondition and the change it guards are one step.

use std::io;
use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use super::blob::{Blobs, Pin};
use super::index::{self, Index, Object, Record};
use super::log::Log;

/// The log is rewritten when it has more records than this and four times more than the index needs.
const MIN_RECORDS_TO_REWRITE: usize = 10_000;

/// All buckets of one directory.
#[derive(Debug)]
pub(super) struct Store {
    state: Mutex<State>,
    blobs: Arc<Blobs>,
}

#[derive(Debug)]
struct State {
    index: Index,
    log: Log,
}

impl Store {
    /// Opens the directory (made when absent). It must not be open anywhere else.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut index = Index::default();
        let log = Log::open(&directory.join("index.log"), |record: Record| index.apply(record).map(drop))?;
        let blobs = Blobs::open(&directory.join("blobs"), index.blobs().into_iter())?;
        Ok(Self { state: Mutex::new(State { index, log }), blobs })
    }

    pub(super) fn blobs(&self) -> &Arc<Blobs> {
        &self.blobs
    }

    /// Looks at the index.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.state.lock().index)
    }

    /// An object as it is now; its bytes stay readable while the pin lives.
    pub(super) fn object(&self, bucket: &str, key: &str) -> S3Result<(Arc<Object>, Pin)> {
        self.read(|index| {
            let object = Arc::clone(index.bucket(bucket)?.object(key)?);
            let pin = self.blobs.pin(index::blobs(&object.extents));
            Ok((object, pin))
        })
    }

    /// Makes the changes that `decide` asks for, all or none; nothing changes in between. New blobs must be pinned by
    /// the caller until this returns.
    pub(super) fn commit(&self, decide: impl FnOnce(&Index) -> S3Result<Vec<Record>>) -> S3Result<()> {
        let mut freed = Vec::new();
        {
            let mut state = self.state.lock();
            let records = decide(&state.index)?;
            if !records.iter().all(Record::frees) {
                state.log.set_aside().map_err(internal)?;
            }
            state.log.append(&records).map_err(internal)?;
            for record in records {
                self.blobs.retain(&record.blobs());
                freed.extend(state.index.apply(record).map_err(internal)?);
            }
            state.rewrite_if_long();
        }
        self.blobs.release(&freed);
        Ok(())
    }
}

impl State {
    /// Keeps the log in proportion to the index. A log that cannot be rewritten goes on growing.
    fn rewrite_if_long(&mut self) {
        if self.log.records() < MIN_RECORDS_TO_REWRITE || self.log.records() < 4 * self.index.len() {
            return;
        }
        if let Err(error) = self.log.rewrite(self.index.snapshot()) {
            tracing::error!(%error, "the bucket log was not rewritten");
        }
    }
}

/// A failure of the disk, as the client sees it.
pub(super) fn internal(error: io::Error) -> S3Error {
    tracing::error!(%error, "bucket directory failed");
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        let message = "The disk under the buckets is full. Delete objects, or make room on it.";
        return refusal("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE, message);
    }
    s3_error!(error, InternalError, "We encountered an internal error. Please try again.")
}

/// An error whose code `s3s` does not know.
pub(super) fn refusal(code: &'static str, status: StatusCode, message: &'static str) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> Record {
        Record::Put { bucket: "b".into(), key: key.into(), object: Object::default() }
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let create = Record::CreateBucket { bucket: "b".into(), created: 1 };
        store.commit(|_| Ok(vec![create, put("a")])).unwrap();
        store.commit(|_| Err(s3_error!(PreconditionFailed))).unwrap_err();
        for _ in 0..MIN_RECORDS_TO_REWRITE {
            store.commit(|_| Ok(vec![put("a/b")])).unwrap();
        }
        assert!(store.state.lock().log.records() < 10, "the log was not rewritten");
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        let keys = store.read(|index| index.bucket("b").unwrap().objects.keys().cloned().collect::<Vec<_>>());
        assert_eq!(keys, ["a", "a/b"]);
    }
}
