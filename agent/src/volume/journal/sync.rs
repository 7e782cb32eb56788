//! Group commit: one thread syncs the journal for everybody who waits.

use std::fs::File;
use std::io;
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Position;

/// How far the journal is on disk, or why it cannot be.
type Progress = Result<Position, String>;

/// The thread's handle; the thread ends with it.
#[derive(Debug)]
pub(super) struct Syncer {
    wanted: mpsc::Sender<Position>,
    synced: watch::Receiver<Progress>,
    file: Arc<Mutex<Arc<File>>>,
}

impl Syncer {
    pub(super) fn start(file: File) -> io::Result<Self> {
        let (wanted, requests) = mpsc::channel::<Position>();
        let (progress, synced) = watch::channel(Ok(Position::default()));
        let file = Arc::new(Mutex::new(Arc::new(file)));
        let served = file.clone();
        let serve = move || serve(&served, &requests, &progress);
        std::thread::Builder::new().name("journal-sync".to_owned()).spawn(serve)?;
        Ok(Self { wanted, synced, file })
    }

    /// The journal is another file now, which is on disk with all that was appended before.
    pub(super) fn replace(&self, file: File) {
        *self.file.lock() = Arc::new(file);
    }

    /// Whether everything up to `position` is known to be on disk.
    pub(super) fn has_synced(&self, position: Position) -> bool {
        self.synced.borrow().as_ref().is_ok_and(|synced| *synced >= position)
    }

    pub(super) async fn sync(&self, position: Position) -> io::Result<()> {
        let mut synced = self.synced.clone();
        if !reached(&synced.borrow(), position) {
            self.wanted.send(position).map_err(io::Error::other)?;
        }
        let progress = synced.wait_for(|progress| reached(progress, position)).await.map_err(io::Error::other)?;
        progress.clone().map(drop).map_err(io::Error::other)
    }
}

/// A failed sync is final: the kernel may have dropped the pages, so a later success would prove nothing.
fn reached(progress: &Progress, position: Position) -> bool {
    progress.as_ref().map_or(true, |synced| *synced >= position)
}

fn serve(file: &Mutex<Arc<File>>, requests: &mpsc::Receiver<Position>, progress: &watch::Sender<Progress>) {
    while let Ok(first) = requests.recv() {
        let target = requests.try_iter().fold(first, Position::max);
        let file = file.lock().clone();
        let result = match file.sync_data() {
            Ok(()) => Ok(target),
            Err(error) => Err(format!("the journal cannot be synced: {error}")),
        };
        progress.send_modify(|progress| {
            if progress.is_ok() {
                *progress = result;
            }
        });
    }
}
