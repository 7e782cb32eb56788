//! The answering side of the control socket.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Answer, Request, Status};
use crate::volume::Volume;
use crate::volume::error::VolumeError;
use crate::volume::tree::Place;

const MAX_REQUEST_BYTES: u64 = 64 * 1024;
/// How long a client may take to say what it wants.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// How long a drain waits, in the end, for spilled parts of what was uploaded to be deleted.
const SWEEP_PATIENCE: Duration = Duration::from_secs(5);

/// Listens at `path`, for its owner only. A socket that a dead process left is replaced.
pub(crate) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replacing {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listening at {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Volume {
    /// Answers until the volume closes. `umount` ends it from the outside.
    pub(crate) async fn serve_control(self: Arc<Self>, listener: UnixListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.closing.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => drop(tokio::spawn(self.clone().answer_client(stream))),
                Err(error) => {
                    tracing::warn!(%error, "the control socket does not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn answer_client(self: Arc<Self>, stream: UnixStream) {
        if let Err(error) = self.answer_one(stream).await {
            tracing::debug!(%error, "a control client went away");
        }
    }

    async fn answer_one(&self, stream: UnixStream) -> anyhow::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        let mut reader = BufReader::new(reader.take(MAX_REQUEST_BYTES));
        tokio::time::timeout(REQUEST_PATIENCE, reader.read_line(&mut line)).await??;
        let request = serde_json::from_str(&line);
        let leave = matches!(request, Ok(Request::Umount));
        let answer = match request {
            Ok(request) => self.answer(&request).await,
            Err(error) => Answer::failed(format!("not a request: {error}"), self.status()),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
        writer.shutdown().await?;
        if leave {
            self.leave.cancel();
        }
        Ok(())
    }

    /// Carries a request out. `Umount` is carried out after its answer was sent.
    pub(crate) async fn answer(&self, request: &Request) -> Answer {
        match request {
            Request::Status | Request::Umount => Answer::done(self.status()),
            Request::Epoch => {
                self.raise_epoch();
                Answer::done(self.status())
            }
            Request::Drain { timeout_seconds } => match self.drain(Duration::from_secs(*timeout_seconds)).await {
                Ok(()) => Answer::done(self.status()),
                Err(error) => Answer::failed(error, self.status()),
            },
        }
    }

    /// Returns when everything written before the call is in S3; files that are open for writing go up as they are. An
    /// error names what is not there.
    pub(crate) async fn drain(&self, timeout: Duration) -> Result<(), String> {
        match tokio::time::timeout(timeout, self.drain_all(timeout)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {
                let left = self.queue.unsent();
                return Err(format!("{left} operations are not in S3 after {} s", timeout.as_secs()));
            }
        }
        let failures = self.failures.lock();
        if failures.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = failures.iter().map(|failure| failure.path.as_str()).collect();
        Err(format!("not uploaded: {}", names.join(", ")))
    }

    async fn drain_all(&self, patience: Duration) -> Result<(), VolumeError> {
        self.seal_all().await?;
        for seq in self.queue.outstanding(|_| true) {
            self.wait_for(seq, patience).await?;
        }
        // Parts that S3 does not delete now are deleted later; everything is in S3 all the same.
        let _ = tokio::time::timeout(SWEEP_PATIENCE, self.spills.swept()).await;
        Ok(())
    }

    /// What is not in S3, and what went wrong.
    pub(crate) fn status(&self) -> Status {
        let count = self.count_files();
        let failures = self.failures.lock().clone();
        Status {
            mount_point: self.options.dir.display().to_string(),
            dirty_files: self.queue.unsent() as u64 + count.open_files,
            dirty_bytes: self.queue.unsent_bytes() + count.open_bytes,
            failed_files: failures.len() as u64,
            conflicts: self.conflicts.load(Ordering::Relaxed),
            failures,
            source: self.options.source.clone(),
            pid: std::process::id(),
            running: self.queue.running() as u64,
            s3_away: self.breaker.is_open(),
            cache_dir: self.options.cache_dir.clone(),
            lost_found_files: self.cache.lost_files(),
            cached_files: count.cached_files,
            cached_bytes: count.cached_bytes,
            read_hits: self.reads.hits.load(Ordering::Relaxed),
            read_misses: self.reads.misses.load(Ordering::Relaxed),
            requests: self.store.requests(),
        }
    }

    fn count_files(&self) -> Count {
        let mut count = Count::default();
        let tree = self.tree();
        for (_, node) in tree.nodes() {
            if node.dirty && node.place != Place::Gone {
                count.open_files += 1;
                count.open_bytes += node.size;
            }
            // A file that is being changed at this moment is counted the next time.
            let content = node.content().ok();
            let Some(state) = content.as_ref().and_then(|content| content.state.try_read().ok()) else { continue };
            if state.data.is_some() {
                count.cached_files += 1;
                count.cached_bytes += state.present.total();
            }
        }
        count
    }
}

#[derive(Debug, Default)]
struct Count {
    open_files: u64,
    open_bytes: u64,
    cached_files: u64,
    cached_bytes: u64,
}
