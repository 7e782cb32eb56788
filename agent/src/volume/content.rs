//! The bytes of one inode: which cache file has them, which of them it has, and whether S3 has them too.
//!
//! A [`State`] that is not clean has all of its bytes. A sealed cache file is not written to any more while its upload
//! is not done: the next write takes a copy.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, RwLock};

use super::cache::DataFile;
use super::cache::extents::Extents;
use super::journal::Seq;

/// The bytes of one inode. Lock order: `fetching`, then `state`, then the tree.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) state: RwLock<State>,
    /// Held while bytes are fetched, so that each is fetched once.
    pub(crate) fetching: Mutex<Window>,
    /// When it was last read or opened.
    pub(crate) used: parking_lot::Mutex<Instant>,
}

/// How far sequential readers are read ahead for.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Where the last fetch ended.
    pub(crate) end: u64,
    /// Bytes of the last fetch.
    pub(crate) length: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    /// The cache file, once there is a byte in it.
    pub(crate) data: Option<Arc<DataFile>>,
    /// What the cache file has.
    pub(crate) present: Extents,
    /// The length of the file.
    pub(crate) size: u64,
    /// There are bytes in no operation yet.
    pub(crate) dirty: bool,
    /// The last upload that reads `data`.
    pub(crate) sealed: Option<Seq>,
    /// The journal's `Open` of the unsealed bytes.
    pub(crate) open: Option<Seq>,
}

impl Content {
    fn new(state: State) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(state),
            fetching: Mutex::default(),
            used: parking_lot::Mutex::new(Instant::now()),
        })
    }

    /// All in S3.
    pub(crate) fn remote(size: u64) -> Arc<Self> {
        Self::new(State::remote(size))
    }

    /// All in the cache, and in the upload `sealed` if there is one; else dirty, with the journal's `open`.
    pub(crate) fn local(data: Arc<DataFile>, size: u64, sealed: Option<Seq>, open: Option<Seq>) -> Arc<Self> {
        let present = Extents::whole(size);
        Self::new(State { data: Some(data), present, size, dirty: sealed.is_none(), sealed, open })
    }
}

impl State {
    /// All in S3.
    pub(crate) fn remote(size: u64) -> Self {
        Self { data: None, present: Extents::default(), size, dirty: false, sealed: None, open: None }
    }

    /// `range` as far as the file has it.
    pub(crate) fn clamp(&self, range: Range<u64>) -> Range<u64> {
        range.start.min(self.size)..range.end.min(self.size)
    }

    /// Whether all of the file is in the cache.
    pub(crate) fn is_complete(&self) -> bool {
        self.dirty || self.present.contains(0..self.size)
    }
}
