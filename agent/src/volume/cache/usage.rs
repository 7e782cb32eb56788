//! How much of the local disk the data files take: what S3 has too, and what only this node has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Whether bytes may be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// S3 has them.
    Clean,
    /// S3 does not have them yet.
    Dirty,
}

/// The sums, over all data files of a volume.
#[derive(Debug, Default)]
pub struct Usage {
    clean: AtomicU64,
    dirty: AtomicU64,
    exposed: AtomicU64,
}

impl Usage {
    /// Bytes on disk that S3 has too.
    pub fn clean(&self) -> u64 {
        self.clean.load(Ordering::Relaxed)
    }

    /// Bytes on disk that S3 does not have.
    pub fn dirty(&self) -> u64 {
        self.dirty.load(Ordering::Relaxed)
    }

    /// Bytes of files that the kernel reads by itself.
    pub fn exposed(&self) -> u64 {
        self.exposed.load(Ordering::Relaxed)
    }

    pub(super) fn expose(&self, before: u64, now: u64) {
        self.exposed.fetch_add(now, Ordering::Relaxed);
        self.exposed.fetch_sub(before, Ordering::Relaxed);
    }

    fn of(&self, hold: Hold) -> &AtomicU64 {
        match hold {
            Hold::Clean => &self.clean,
            Hold::Dirty => &self.dirty,
        }
    }
}

/// One file's share of the sums; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    usage: Arc<Usage>,
    now: Mutex<(Hold, u64)>,
}

impl Charge {
    pub(super) fn none(usage: Arc<Usage>) -> Self {
        Self { usage, now: Mutex::new((Hold::Clean, 0)) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.now.lock().1
    }

    pub(super) fn hold(&self) -> Hold {
        self.now.lock().0
    }

    pub(super) fn set(&self, hold: Hold, bytes: u64) {
        let mut now = self.now.lock();
        self.usage.of(now.0).fetch_sub(now.1, Ordering::Relaxed);
        self.usage.of(hold).fetch_add(bytes, Ordering::Relaxed);
        *now = (hold, bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(Hold::Clean, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let usage = Arc::new(Usage::default());
        let (one, two) = (Charge::none(usage.clone()), Charge::none(usage.clone()));
        one.set(Hold::Dirty, 10);
        two.set(Hold::Clean, 5);
        one.set(Hold::Dirty, 7);
        assert_eq!((usage.clean(), usage.dirty(), one.bytes()), (5, 7, 7));
        one.set(Hold::Clean, 7);
        assert_eq!((usage.clean(), usage.dirty()), (12, 0));
        drop((one, two));
        assert_eq!((usage.clean(), usage.dirty()), (0, 0));
    }
}
