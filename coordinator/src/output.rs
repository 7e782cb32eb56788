//! The output of jobs: spooled to files as it comes, read from there by everyone who listens.
//!
//! A byte is in the spool before any listener sees it. Listeners read the files up to the length that was announced,
//! so a slow one holds nothing in memory and keeps nobody waiting.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ec2mpi_proto::CHUNK_BYTES;
use ec2mpi_proto::id::JobId;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::error::Error;
use crate::job::JobRecord;

/// One of a program's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    fn file_name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A position in each stream, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offsets {
    pub stdout: u64,
    pub stderr: u64,
}

impl Offsets {
    fn of(self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    fn of_mut(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// The directory with one job's output.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
}

impl Spool {
    /// `parent` holds a directory a job.
    pub fn new(parent: &Path, job: &JobId) -> Self {
        Self { directory: parent.join(job.as_str()) }
    }

    /// Opens the spool for appending; makes it where it is missing.
    pub async fn writer(&self) -> std::io::Result<SpoolWriter> {
        tokio::fs::create_dir_all(&self.directory).await?;
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let stdout = options.open(self.directory.join(Stream::Stdout.file_name())).await?;
        let stderr = options.open(self.directory.join(Stream::Stderr.file_name())).await?;
        let lengths = Offsets { stdout: stdout.metadata().await?.len(), stderr: stderr.metadata().await?.len() };
        Ok(SpoolWriter { stdout, stderr, lengths })
    }

    /// How much there is; nothing where the spool is missing.
    pub async fn lengths(&self) -> std::io::Result<Offsets> {
        let mut lengths = Offsets::default();
        for stream in Stream::BOTH {
            match tokio::fs::metadata(self.directory.join(stream.file_name())).await {
                Ok(metadata) => *lengths.of_mut(stream) = metadata.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(lengths)
    }

    /// Removes the spool; a missing one is no error.
    pub async fn remove(&self) -> std::io::Result<()> {
        match tokio::fs::remove_dir_all(&self.directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// At most one chunk from `from`, not beyond `end`.
    async fn read(&self, stream: Stream, from: u64, end: u64) -> std::io::Result<Bytes> {
        let mut file = File::open(self.directory.join(stream.file_name())).await?;
        file.seek(SeekFrom::Start(from)).await?;
        let wanted = usize::try_from(end.saturating_sub(from)).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let mut data = vec![0; wanted];
        file.read_exact(&mut data).await?;
        Ok(data.into())
    }
}

/// What became of a piece of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is in the spool, or was there already.
    Stored,
    /// What comes before it is missing: ask again from the end of the spool.
    Gap,
}

/// Appends to a spool; the one writer of a job.
#[derive(Debug)]
pub struct SpoolWriter {
    stdout: File,
    stderr: File,
    lengths: Offsets,
}

impl SpoolWriter {
    /// The end of each stream.
    pub fn lengths(&self) -> Offsets {
        self.lengths
    }

    /// Appends what is new of `data`, which begins at `offset` of its stream.
    pub async fn append(&mut self, stream: Stream, offset: u64, data: &[u8]) -> std::io::Result<Appended> {
        let have = self.lengths.of(stream);
        let Some(known) = have.checked_sub(offset) else { return Ok(Appended::Gap) };
        let new = usize::try_from(known).ok().and_then(|known| data.get(known..)).unwrap_or_default();
        let file = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if let Err(error) = write_all(file, new).await {
            // A part may have been written: back to the length that listeners and the agent count from.
            file.set_len(have).await?;
            return Err(error);
        }
        *self.lengths.of_mut(stream) += new.len() as u64;
        Ok(Appended::Stored)
    }

    /// Returns when all of it is on disk.
    pub async fn sync(&self) -> std::io::Result<()> {
        self.stdout.sync_data().await?;
        self.stderr.sync_data().await
    }
}

async fn write_all(file: &mut File, data: &[u8]) -> std::io::Result<()> {
    file.write_all(data).await?;
    file.flush().await
}

/// A job as its listeners see it: always the latest, never a queue.
#[derive(Debug, Clone)]
pub struct Progress {
    pub record: Arc<JobRecord>,
    /// What may be read of the spool.
    pub lengths: Offsets,
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEvent {
    Started(Arc<JobRecord>),
    Output { stream: Stream, offset: u64, data: Bytes },
    Ended(Arc<JobRecord>),
}

/// One reader of a job's output.
#[derive(Debug)]
pub struct Listener {
    spool: Spool,
    progress: watch::Receiver<Progress>,
    position: Offsets,
    follow: bool,
    stage: Stage,
    /// Which stream comes first in the next look, so that neither starves the other.
    first: Stream,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Begin,
    Output,
    Over,
}

impl Listener {
    /// Reads from `position` on; with `follow`, until the job ends.
    pub fn new(spool: Spool, progress: watch::Receiver<Progress>, position: Offsets, follow: bool) -> Self {
        Self { spool, progress, position, follow, stage: Stage::Begin, first: Stream::Stdout }
    }

    /// The next event: `Started`, output, and last `Ended`. Without `follow` it is over at the end of what there is.
    pub async fn next(&mut self) -> Option<Result<JobEvent, Error>> {
        match self.stage {
            Stage::Over => None,
            Stage::Begin => {
                self.stage = Stage::Output;
                Some(Ok(JobEvent::Started(self.progress.borrow().record.clone())))
            }
            Stage::Output => {
                let event = self.output_or_end().await;
                if !matches!(event, Some(Ok(JobEvent::Output { .. }))) {
                    self.stage = Stage::Over;
                }
                event
            }
        }
    }

    async fn output_or_end(&mut self) -> Option<Result<JobEvent, Error>> {
        loop {
            let progress = self.progress.borrow_and_update().clone();
            if let Some(stream) = self.unread(progress.lengths) {
                return Some(self.read(stream, progress.lengths).await);
            }
            if progress.record.state.is_final() {
                return Some(Ok(JobEvent::Ended(progress.record)));
            }
            if !self.follow {
                return None;
            }
            if self.progress.changed().await.is_err() {
                return Some(Err(Error::Unreachable("the coordinator stopped following the job: ask again".into())));
            }
        }
    }

    fn unread(&mut self, lengths: Offsets) -> Option<Stream> {
        let order = match self.first {
            Stream::Stdout => [Stream::Stdout, Stream::Stderr],
            Stream::Stderr => [Stream::Stderr, Stream::Stdout],
        };
        let found = order.into_iter().find(|stream| self.position.of(*stream) < lengths.of(*stream));
        self.first = if found == Some(Stream::Stdout) { Stream::Stderr } else { Stream::Stdout };
        found
    }

    async fn read(&mut self, stream: Stream, lengths: Offsets) -> Result<JobEvent, Error> {
        let offset = self.position.of(stream);
        let data = self.spool.read(stream, offset, lengths.of(stream)).await.map_err(|error| {
            Error::NotFound(format!("the output of job {} cannot be read: {error}", self.progress.borrow().record.id))
        })?;
        *self.position.of_mut(stream) += data.len() as u64;
        Ok(JobEvent::Output { stream, offset, data })
    }
}
