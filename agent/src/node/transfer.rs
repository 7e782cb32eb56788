//! The bytes of one copy, on a call of their own: between the coordinator and a child that packs or unpacks as the
//! user of the jobs, so that the kernel judges what may be read and written.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use ec2mpi_proto::CHUNK_BYTES;
use ec2mpi_proto::v1::{self, TransferFrame, transfer::Direction};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::client::Contact;
use super::exec::Executor;

const QUEUE: usize = 16;
/// No frame for so long: the copy is dead.
const IDLE_LIMIT: Duration = Duration::from_secs(300);
/// The beginning and the end of a call.
const END_LIMIT: Duration = Duration::from_secs(15);
/// What is kept of the child's complaint, bytes.
const COMPLAINT: u64 = 4096;

/// Carries out one copy; an error says what the child or the stream complained of. It has a connection of its own: a
/// copy that nobody takes must not fill the window of the connection that carries the heartbeats.
pub async fn run(contact: Contact, executor: Executor, transfer: v1::Transfer) -> anyhow::Result<()> {
    let direction = transfer.direction();
    let verb = match direction {
        Direction::In => "unpack",
        Direction::Out => "pack",
        Direction::Unspecified => bail!("a copy without a direction"),
    };
    if !transfer.path.starts_with('/') {
        bail!("{:?} is not an absolute path", transfer.path);
    }
    let (outgoing, mut incoming) = call(&contact, transfer.transfer_id).await?;
    let outcome = match spawn(&executor, verb, &transfer.path) {
        Err(error) => Err(error),
        Ok(mut child) => {
            let moved = match direction {
                Direction::In => receive(&mut child, &mut incoming).await,
                _ => send(&mut child, &outgoing).await,
            };
            finish(child, moved).await
        }
    };
    let error = outcome.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    let last = outgoing.send(TransferFrame { error, end: true, ..TransferFrame::default() });
    let _ = tokio::time::timeout(END_LIMIT, last).await;
    drop(outgoing);
    // The other side ends the call when it has taken the last frame.
    let _ = tokio::time::timeout(END_LIMIT, drained(incoming)).await;
    outcome
}

/// Begins the call; its first frame tells which copy it carries.
async fn call(
    contact: &Contact,
    transfer_id: String,
) -> anyhow::Result<(mpsc::Sender<TransferFrame>, Streaming<TransferFrame>)> {
    let mut client = contact.member().await?;
    let (outgoing, stream) = mpsc::channel(QUEUE);
    outgoing.send(TransferFrame { transfer_id, ..TransferFrame::default() }).await?;
    let answer = tokio::time::timeout(END_LIMIT, client.transfer(ReceiverStream::new(stream))).await;
    Ok((outgoing, answer.context("the coordinator does not answer")??.into_inner()))
}

async fn drained(mut incoming: Streaming<TransferFrame>) {
    while let Ok(Some(_)) = incoming.message().await {}
}

fn spawn(executor: &Executor, verb: &str, path: &str) -> anyhow::Result<Child> {
    let user = executor.user();
    let mut command = Command::new(executor.agent_binary());
    command
        .arg(verb)
        .arg(path)
        .env_clear()
        .env("HOME", &user.home)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if nix::unistd::Uid::effective().is_root() {
        // Setting the uid clears the supplementary groups too (std::os::unix::process::CommandExt::uid).
        command.uid(user.id).gid(user.id);
    }
    command.spawn().context("cannot start the copy")
}

async fn receive(child: &mut Child, incoming: &mut Streaming<TransferFrame>) -> anyhow::Result<()> {
    let mut stdin = child.stdin.take().context("no pipe")?;
    loop {
        let frame = tokio::time::timeout(IDLE_LIMIT, incoming.message()).await.context("the copy stalled")??;
        let frame = frame.context("the copy broke off")?;
        if !frame.error.is_empty() {
            bail!("{}", frame.error);
        }
        stdin.write_all(&frame.data).await.context("the copy's receiver closed")?;
        if frame.end {
            stdin.shutdown().await?;
            return Ok(());
        }
    }
}

async fn send(child: &mut Child, outgoing: &mpsc::Sender<TransferFrame>) -> anyhow::Result<()> {
    drop(child.stdin.take());
    let mut stdout = child.stdout.take().context("no pipe")?;
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        (&mut stdout).take(CHUNK_BYTES as u64).read_to_end(&mut data).await?;
        if data.is_empty() {
            return Ok(());
        }
        let frame = TransferFrame { data, ..TransferFrame::default() };
        let sent = tokio::time::timeout(IDLE_LIMIT, outgoing.send(frame)).await.context("the copy stalled")?;
        sent.context("nobody takes the copy")?;
    }
}

/// The child's own complaint says more than the broken pipe that it left.
async fn finish(mut child: Child, moved: anyhow::Result<()>) -> anyhow::Result<()> {
    drop(child.stdin.take());
    drop(child.stdout.take());
    let mut complaint = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(COMPLAINT).read_to_string(&mut complaint).await;
    }
    let status = tokio::time::timeout(IDLE_LIMIT, child.wait()).await.context("the copy does not end")??;
    match (status.success(), complaint.trim()) {
        (false, complaint) if !complaint.is_empty() => bail!("{complaint}"),
        (false, _) => moved.and(Err(anyhow::anyhow!("the copy ended with {status}"))),
        (true, _) => moved,
    }
}
