//! `ec2mpi cp`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use bytes::Bytes;
use ec2mpi_proto::v1::{CopyInRequest, CopyOutRequest, CopyTarget, copy_in_request};
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::OK;
use super::archive::{self, Chunks};
use super::connect::{Client, Coordinator, told};
use super::parse::Place;

/// Chunks that may wait for the wire.
const QUEUE: usize = 16;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
One of the two is NAME:/path on a node; names come out as with cp. On the node, files belong to user mpi.

Examples:
  ec2mpi cp program.c demo:/shared/
  ec2mpi cp -r demo:/shared/results ./results")]
pub(super) struct Args {
    /// Copy directories with all that is in them.
    #[arg(short, long)]
    recursive: bool,
    /// The node's index, for paths outside /shared.
    #[arg(long, value_name = "I", default_value_t = 0)]
    node: u32,
    from: Place,
    to: Place,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let Args { recursive, node, from, to } = args;
    match (from, to) {
        (Place::Local(source), Place::Remote { cluster, path }) => {
            archive::check_source(&source, recursive)?;
            let target = CopyTarget { cluster: cluster.into(), node, path };
            upload(coordinator.connect().await?, target, source).await?;
        }
        (Place::Remote { cluster, path }, Place::Local(target)) => {
            let source = CopyOutRequest { cluster: cluster.into(), node, path };
            download(coordinator.connect().await?, source, target, recursive).await?;
        }
        (Place::Local(_), Place::Local(_)) => bail!("neither side is on a cluster: write NAME:/path for one of them"),
        (Place::Remote { .. }, Place::Remote { .. }) => {
            bail!("both sides are on a cluster: copy to this machine first, or use `ec2mpi exec NAME -- cp`")
        }
    }
    Ok(OK)
}

/// The call ends well only when all was packed: where packing fails it is dropped, which the coordinator sees as broken.
async fn upload(mut client: Client, target: CopyTarget, source: PathBuf) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let message = |message| CopyInRequest { message: Some(message) };
    sender.send(message(copy_in_request::Message::Target(target))).await?;
    let chunks = sender.clone();
    let packing = spawn_blocking(move || {
        let send = |data: Bytes| chunks.blocking_send(message(copy_in_request::Message::Data(data.to_vec()))).is_ok();
        archive::pack(&source, Chunks::new(send))
    });
    let call = client.copy_in(ReceiverStream::new(receiver));
    tokio::pin!(call);
    tokio::select! {
        // An answer before the end of the data is a refusal.
        answer = &mut call => { answer.map_err(told)?; bail!("the coordinator ended the copy early") }
        packed = packing => match packed.context("packing broke off")? {
            Ok(()) => {}
            // Nobody takes the data: the answer says why.
            Err(error) if archive::is_unsendable(&error) => {}
            Err(error) => return Err(error),
        },
    }
    drop(sender);
    call.await.map_err(told)?;
    Ok(())
}

async fn download(mut client: Client, source: CopyOutRequest, target: PathBuf, recursive: bool) -> anyhow::Result<()> {
    let chunks = client.copy_out(source).await.map_err(told)?.into_inner();
    let bytes = chunks
        .map_ok(|chunk| Bytes::from(chunk.data))
        .map_err(|status| std::io::Error::other(format!("{:#}", told(status))));
    let reader = SyncIoBridge::new(StreamReader::new(bytes));
    spawn_blocking(move || archive::unpack(reader, &target, recursive)).await.context("unpacking broke off")?
}
