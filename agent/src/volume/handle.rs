//! Open files and directories.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::content::Content;
use super::error::{Result, VolumeError};
use super::ops::directory::Reading;
use super::tree::Ino;

/// What the kernel holds open.
#[derive(Debug, Clone)]
pub(crate) enum Handle {
    File { ino: Ino, content: Arc<Content>, write: bool },
    Dir(Arc<tokio::sync::Mutex<Reading>>),
}

/// All of them, by number.
#[derive(Debug)]
pub(crate) struct Handles {
    open: Mutex<(u64, HashMap<u64, Handle>)>,
    limit: usize,
}

impl Handles {
    pub(crate) fn new(limit: usize) -> Self {
        Self { open: Mutex::default(), limit }
    }

    pub(crate) fn insert(&self, handle: Handle) -> Result<u64> {
        let (next, open) = &mut *self.open.lock();
        if open.len() >= self.limit {
            return Err(VolumeError::TooManyHandles);
        }
        *next += 1;
        open.insert(*next, handle);
        Ok(*next)
    }

    pub(crate) fn get(&self, number: u64) -> Result<Handle> {
        self.open.lock().1.get(&number).cloned().ok_or(VolumeError::BadHandle)
    }

    pub(crate) fn remove(&self, number: u64) -> Option<Handle> {
        self.open.lock().1.remove(&number)
    }
}
