//! The bytes of one copy, between the caller of the control API (through the registry) and the agent.

use std::time::Duration;

use bytes::Bytes;
use ec2mpi_proto::CHUNK_BYTES;
use ec2mpi_proto::v1::TransferFrame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::Outgoing;
use crate::registry::{AgentEnd, Direction, Registry};

/// How long an agent may take for its first frame.
const FIRST_FRAME_DEADLINE: Duration = Duration::from_secs(10);

/// Frames on their way to the agent.
const OUTGOING_QUEUE: usize = 16;

type Frames = mpsc::Sender<Result<TransferFrame, Status>>;

/// Pairs the call with its registered copy and pumps both ways.
pub(super) async fn begin(
    registry: &Registry,
    mut incoming: Streaming<TransferFrame>,
) -> Result<Response<Outgoing<TransferFrame>>, Status> {
    let first = tokio::time::timeout(FIRST_FRAME_DEADLINE, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no first frame came"))??;
    let id = first.map(|frame| frame.transfer_id).unwrap_or_default();
    let end = registry.take_transfer(&id).ok_or_else(|| Status::not_found("nobody waits for this copy (any more)"))?;
    let (outgoing, stream) = mpsc::channel(OUTGOING_QUEUE);
    tokio::spawn(pump(id, end, incoming, outgoing));
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

async fn pump(id: String, end: AgentEnd, incoming: Streaming<TransferFrame>, outgoing: Frames) {
    let AgentEnd { direction, to_node, from_node } = end;
    let head = TransferFrame { transfer_id: id, ..TransferFrame::default() };
    if outgoing.send(Ok(head)).await.is_err() {
        return;
    }
    match direction {
        // Both at a time: an agent that cannot write says so before it has taken everything.
        Direction::In => {
            let receive = receive(incoming, &from_node);
            tokio::pin!(receive);
            tokio::select! {
                () = &mut receive => {}
                () = send(to_node, &outgoing) => receive.await,
            }
        }
        Direction::Out => {
            receive(incoming, &from_node).await;
            // Tells the agent that everything was taken.
            let _ = outgoing.send(Ok(last_frame(String::new()))).await;
        }
    }
}

/// From the caller to the node, in frames of at most a chunk.
async fn send(mut to_node: mpsc::Receiver<Result<Bytes, String>>, outgoing: &Frames) {
    while let Some(part) = to_node.recv().await {
        let mut data = match part {
            Ok(data) => data,
            Err(error) => {
                let _ = outgoing.send(Ok(last_frame(error))).await;
                return;
            }
        };
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK_BYTES));
            let frame = TransferFrame { data: chunk.to_vec(), ..TransferFrame::default() };
            if outgoing.send(Ok(frame)).await.is_err() {
                return;
            }
        }
    }
    let _ = outgoing.send(Ok(last_frame(String::new()))).await;
}

/// From the node to the caller, until its last frame. A caller that went away ends the call.
async fn receive(mut incoming: Streaming<TransferFrame>, from_node: &mpsc::Sender<Result<Bytes, String>>) {
    loop {
        let frame = tokio::select! {
            frame = incoming.message() => frame,
            () = from_node.closed() => return,
        };
        let last = match frame {
            Ok(Some(frame)) if !frame.error.is_empty() => Some(Err(frame.error)),
            Ok(Some(frame)) => {
                if !frame.data.is_empty() && from_node.send(Ok(Bytes::from(frame.data))).await.is_err() {
                    return;
                }
                if frame.end {
                    return;
                }
                None
            }
            Ok(None) => Some(Err("the node ended the copy before its end".to_owned())),
            Err(status) => Some(Err(format!("the connection to the node broke: {}", status.message()))),
        };
        if let Some(last) = last {
            // The caller may be gone.
            let _ = from_node.send(last).await;
            return;
        }
    }
}

fn last_frame(error: String) -> TransferFrame {
    TransferFrame { end: error.is_empty(), error, ..TransferFrame::default() }
}
