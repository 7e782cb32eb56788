//! Names about which S3 is being asked ahead: whoever looks one up waits for that answer instead of asking again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};

use crate::volume::error::{Result, VolumeError};
use crate::volume::tree::Ino;

/// After this a name is asked about again.
const PATIENCE: Duration = Duration::from_millis(500);
/// Names at a time, of all walkers.
pub(super) const PARALLEL: usize = 48;
/// Steps of walkers that are worked at.
const STEPS: usize = 8;

/// All of them.
#[derive(Debug)]
pub(crate) struct Asking {
    names: Mutex<HashMap<(Ino, String), watch::Receiver<()>>>,
    parallel: Semaphore,
    steps: Arc<Semaphore>,
}

/// A question on its way.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    all: &'a Asking,
    name: (Ino, String),
    /// Dropped last: then those who wait go on.
    _answered: watch::Sender<()>,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.all.names.lock().remove(&self.name);
    }
}

impl Default for Asking {
    fn default() -> Self {
        let (parallel, steps) = (Semaphore::new(PARALLEL), Arc::new(Semaphore::new(STEPS)));
        Self { names: Mutex::default(), parallel, steps }
    }
}

impl Asking {
    /// None when there is enough to do.
    pub(super) fn step(&self) -> Option<OwnedSemaphorePermit> {
        self.steps.clone().try_acquire_owned().ok()
    }

    /// Waits until one more name may be asked about.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        self.parallel.acquire().await.map_err(|_| VolumeError::Closing)
    }

    /// None when somebody asks already.
    pub(crate) fn begin(&self, parent: Ino, name: &str) -> Option<Question<'_>> {
        let name = (parent, name.to_owned());
        let mut names = self.names.lock();
        if names.contains_key(&name) {
            return None;
        }
        let (answered, waiting) = watch::channel(());
        names.insert(name.clone(), waiting);
        Some(Question { all: self, name, _answered: answered })
    }

    fn waiter(&self, parent: Ino, name: &str) -> Option<watch::Receiver<()>> {
        let names = self.names.lock();
        // Most of the time, and for every lookup.
        if names.is_empty() { None } else { names.get(&(parent, name.to_owned())).cloned() }
    }

    pub(crate) fn has(&self, parent: Ino, name: &str) -> bool {
        self.waiter(parent, name).is_some()
    }

    /// Waits for the answer, if there is a question; not longer than an answer takes when all is well.
    pub(crate) async fn wait(&self, parent: Ino, name: &str) {
        if let Some(mut waiting) = self.waiter(parent, name) {
            // The sender is dropped with the question.
            let _ = tokio::time::timeout(PATIENCE, waiting.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_asks_and_the_others_wait() {
        let asking = Asking::default();
        let question = asking.begin(Ino(1), "a").unwrap();
        assert!(asking.begin(Ino(1), "a").is_none() && asking.has(Ino(1), "a") && !asking.has(Ino(2), "a"));
        let wait = asking.wait(Ino(1), "a");
        tokio::pin!(wait);
        assert!(tokio::time::timeout(Duration::from_millis(20), wait.as_mut()).await.is_err());
        drop(question);
        wait.await;
        assert!(!asking.has(Ino(1), "a"));
    }

    #[test]
    fn steps_are_few() {
        let asking = Asking::default();
        let steps: Vec<_> = (0..20).filter_map(|_| asking.step()).collect();
        assert_eq!(steps.len(), STEPS);
    }
}
