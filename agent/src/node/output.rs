//! Following a process: its spooled output from given offsets on, then its end.

use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ec2mpi_proto::CHUNK_BYTES;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::exec::Executor;
use super::spool::{Exit, ProcessId, Spool, State};

/// How often a quiet process is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Chunks of one stream that go out before the other one is looked at.
const BURST: usize = 8;

/// One of the two outputs of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// What a follower tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// At most [`CHUNK_BYTES`]; `offset` is that of the first byte.
    Output { stream: Stream, offset: u64, data: Bytes },
    /// After the last byte.
    Exit(Exit),
}

/// Sends the output of a process from the offsets on and then its end. Ends early when nobody listens.
///
/// The receiver sets the pace: a full channel makes the follower wait, so output never takes more memory than that.
pub async fn follow(executor: Executor, id: ProcessId, from: [u64; 2], to: mpsc::Sender<Followed>) {
    let end = match follow_to_end(&executor, &id, from, &to).await {
        Ok(None) => return,
        Ok(Some(exit)) => exit,
        Err(error) => Exit { code: 1, signal: 0, error: complaint(&id, &error) },
    };
    let _ = to.send(Followed::Exit(end)).await;
}

fn complaint(id: &ProcessId, error: &anyhow::Error) -> String {
    let is_full = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::StorageFull;
    if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_full) {
        return "the node's disk is full, so neither the program's output nor its end could be stored: free some space \
                on it (`ec2mpi ssh`), then run it again"
            .to_owned();
    }
    format!("cannot follow process {id}: {error:#}")
}

/// `None`: nobody listens any more.
async fn follow_to_end(
    executor: &Executor,
    id: &ProcessId,
    from: [u64; 2],
    to: &mpsc::Sender<Followed>,
) -> anyhow::Result<Option<Exit>> {
    let spool = executor.spool(id);
    let mut tails = tails(&spool, from);
    loop {
        // The state before the read: what was written before the end is read after the end was seen.
        let state = spool.state()?;
        let mut moved = false;
        for tail in &mut tails {
            match tail.send_some(to).await? {
                Sent::Nothing => {}
                Sent::Some => moved = true,
                Sent::NobodyListens => return Ok(None),
            }
        }
        match state {
            _ if moved => continue,
            State::Ended(exit) => return Ok(Some(exit)),
            State::Lost => return Ok(Some(executor.settle_lost(id).await?)),
            State::Unknown => anyhow::bail!("no such process on this node"),
            State::Idle => anyhow::bail!("the process was never started"),
            State::Running => {}
        }
        if to.is_closed() {
            return Ok(None);
        }
        sleep(POLL).await;
    }
}

fn tails(spool: &Spool, from: [u64; 2]) -> [Tail; 2] {
    [Tail::new(Stream::Stdout, &spool.stdout(), from[0]), Tail::new(Stream::Stderr, &spool.stderr(), from[1])]
}

enum Sent {
    Nothing,
    Some,
    NobodyListens,
}

/// The unread rest of one file.
struct Tail {
    stream: Stream,
    path: std::path::PathBuf,
    offset: u64,
    file: Option<File>,
}

impl Tail {
    fn new(stream: Stream, path: &Path, offset: u64) -> Self {
        Self { stream, path: path.to_owned(), offset, file: None }
    }

    async fn send_some(&mut self, to: &mpsc::Sender<Followed>) -> anyhow::Result<Sent> {
        let mut sent = Sent::Nothing;
        for _ in 0..BURST {
            let data = self.read().await?;
            if data.is_empty() {
                break;
            }
            let (offset, length) = (self.offset, data.len() as u64);
            if to.send(Followed::Output { stream: self.stream, offset, data }).await.is_err() {
                return Ok(Sent::NobodyListens);
            }
            self.offset += length;
            sent = Sent::Some;
        }
        Ok(sent)
    }

    /// The next bytes; empty at the present end, and while there is no file yet.
    async fn read(&mut self) -> anyhow::Result<Bytes> {
        if self.file.is_none() {
            self.file = open_at(&self.path, self.offset).await?;
        }
        let Some(file) = &mut self.file else { return Ok(Bytes::new()) };
        let mut buffer = Vec::with_capacity(CHUNK_BYTES);
        file.take(CHUNK_BYTES as u64).read_to_end(&mut buffer).await?;
        Ok(Bytes::from(buffer))
    }
}

async fn open_at(path: &Path, offset: u64) -> std::io::Result<Option<File>> {
    match File::open(path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(mut file) => {
            file.seek(SeekFrom::Start(offset)).await?;
            Ok(Some(file))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::membership::User;
    use crate::node::paths::Paths;
    use std::io::Write;

    fn setup() -> (tempfile::TempDir, Executor, ProcessId, Spool) {
        let dir = tempfile::tempdir().unwrap();
        // A user id that has no process on any machine.
        let user = User { name: "nobody-here".into(), id: 3_999_999_999, home: "/".into() };
        let executor = Executor::new(Paths::new(dir.path()), user, "/bin/true".into());
        let id: ProcessId = "j-1".parse().unwrap();
        let spool = executor.spool(&id);
        std::fs::create_dir_all(spool.dir()).unwrap();
        (dir, executor, id, spool)
    }

    async fn collect(mut from: mpsc::Receiver<Followed>) -> (Vec<u8>, Vec<u8>, Exit) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match from.recv().await.unwrap() {
                Followed::Output { stream: Stream::Stdout, offset, data } => {
                    assert!(data.len() <= CHUNK_BYTES);
                    assert_eq!(offset, 7 + out.len() as u64);
                    out.extend_from_slice(&data);
                }
                Followed::Output { stream: Stream::Stderr, data, .. } => err.extend_from_slice(&data),
                Followed::Exit(exit) => return (out, err, exit),
            }
        }
    }

    #[tokio::test]
    async fn output_from_an_offset_arrives_whole_and_before_the_end() {
        let (_dir, executor, id, spool) = setup();
        let lock = spool.try_lock().unwrap().unwrap();
        let text: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
        std::fs::write(spool.stdout(), &text[..1000]).unwrap();
        let (to, from) = mpsc::channel(2);
        let following = tokio::spawn(follow(executor, id, [7, 0], to));
        let writer = spool.clone();
        let rest = text[1000..].to_vec();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(120));
            let mut file = std::fs::File::options().append(true).open(writer.stdout()).unwrap();
            file.write_all(&rest).unwrap();
            std::fs::write(writer.stderr(), b"warning\n").unwrap();
            writer.write_exit(&Exit { code: 7, signal: 0, error: String::new() }).unwrap();
            drop(lock);
        });
        let (out, err, exit) = collect(from).await;
        following.await.unwrap();
        assert_eq!(out, &text[7..]);
        assert_eq!(err, b"warning\n");
        assert_eq!((exit.code, exit.error.as_str()), (7, ""));
    }

    #[tokio::test]
    async fn a_lost_and_an_unknown_process_end_with_an_error() {
        let (_dir, executor, id, spool) = setup();
        std::fs::write(spool.stdout(), b"0123456789").unwrap();
        spool.write_started().unwrap();
        let (to, from) = mpsc::channel(2);
        follow(executor.clone(), id, [7, 0], to).await;
        let (out, _, exit) = collect(from).await;
        assert_eq!(out, b"789");
        assert!(exit.error.contains("restarted"), "{}", exit.error);
        assert_eq!(spool.exit().unwrap(), Some(exit));

        let (to, from) = mpsc::channel(2);
        follow(executor, "j-2".parse().unwrap(), [0, 0], to).await;
        assert!(collect(from).await.2.error.contains("no such process"));
    }
}
