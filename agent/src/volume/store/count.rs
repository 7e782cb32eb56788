//! How many requests were sent to S3: they are the user's bill.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Requests by kind. What S3 charges for PUT, COPY, POST and LIST is one price, for GET and HEAD another, for DELETE none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Whole objects written.
    #[serde(default)]
    pub put: u64,
    /// Objects read, whole or in part.
    #[serde(default)]
    pub get: u64,
    /// Objects looked at.
    #[serde(default)]
    pub head: u64,
    /// Pages of listings, of keys and of unfinished uploads.
    #[serde(default)]
    pub list: u64,
    /// Objects copied on the server.
    #[serde(default)]
    pub copy: u64,
    /// Objects deleted.
    #[serde(default)]
    pub delete: u64,
    /// Parts of objects sent, or copied on the server.
    #[serde(default)]
    pub part: u64,
    /// Uploads in parts begun, ended and given up.
    #[serde(default)]
    pub multipart: u64,
}

impl std::fmt::Display for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { put, get, head, list, copy, delete, part, multipart } = self;
        write!(f, "{put} PUT, {get} GET, {head} HEAD, {list} LIST, {copy} COPY, {delete} DELETE, {part} parts, ")?;
        write!(f, "{multipart} for uploads in parts")
    }
}

/// [`Requests`] that go on being counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) put: Count,
    pub(super) get: Count,
    pub(super) head: Count,
    pub(super) list: Count,
    pub(super) copy: Count,
    pub(super) delete: Count,
    pub(super) part: Count,
    pub(super) multipart: Count,
}

#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    pub(super) fn now(&self) -> Requests {
        Requests {
            put: self.put.now(),
            get: self.get.now(),
            head: self.head.now(),
            list: self.list.now(),
            copy: self.copy.now(),
            delete: self.delete.now(),
            part: self.part.now(),
            multipart: self.multipart.now(),
        }
    }
}
