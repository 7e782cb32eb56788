//! How the command line reaches the faults of a running cloud: a Unix socket in the cloud's directory, one line of JSON
//! each way. The process that serves is the only one that writes the table.

use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{Bounds, Fault, FaultId, Faults, Kind, Target};
use crate::durable;
use crate::fleet::Fleet;
use crate::layout::Layout;

/// For one exchange.
const LIMIT: Duration = Duration::from_secs(10);
/// A request is a few hundred bytes.
const LINE_LIMIT: u64 = 64 * 1024;

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    Add {
        kind: Kind,
        bounds: Bounds,
    },
    List,
    /// All of them when none is named.
    Clear {
        ids: Vec<FaultId>,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Those that were added, are there, or were cleared.
    Faults(Vec<Fault>),
    Refused(String),
}

/// A socket's path may be about a hundred bytes long; through the directory's descriptor any directory will do.
fn short_path(directory: &File, socket: &Path) -> PathBuf {
    let name = socket.file_name().unwrap_or_default();
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

/// Makes the socket, for the owner only.
pub(crate) fn bind(layout: &Layout) -> io::Result<UnixListener> {
    let socket = layout.admin();
    durable::remove_file(&socket)?;
    let directory = File::open(layout.root())?;
    let listener = UnixListener::bind(short_path(&directory, &socket))?;
    std::fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until told to stop, one at a time.
pub(crate) async fn serve(listener: UnixListener, fleet: Arc<Fleet>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let result = match accepted {
            Ok((stream, _)) => tokio::time::timeout(LIMIT, answer(stream, &fleet)).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "a question about faults was not answered");
        }
    }
}

async fn answer(stream: tokio::net::UnixStream, fleet: &Fleet) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader.take(LINE_LIMIT)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(ask) => carry_out(ask, fleet).unwrap_or_else(Answer::Refused),
        Err(error) => Answer::Refused(format!("not understood (is the running cloud of another version?): {error}")),
    };
    writer.write_all(&line_of(&answer)?).await
}

fn carry_out(ask: Ask, fleet: &Fleet) -> Result<Answer, String> {
    let faults = fleet.faults();
    match ask {
        Ask::Add { kind, bounds } => {
            check(&kind, fleet)?;
            let fault = faults.add(kind, bounds).map_err(|error| error.to_string())?;
            Ok(Answer::Faults(vec![fault]))
        }
        Ask::List => Ok(Answer::Faults(faults.list())),
        Ask::Clear { ids } => clear(faults, &ids).map(Answer::Faults),
    }
}

fn check(kind: &Kind, fleet: &Fleet) -> Result<(), String> {
    let Kind::Machine(fault) = kind else { return Ok(()) };
    let Target::Instance { id } = &fault.target else { return Ok(()) };
    match fleet.get(id) {
        Some(instance) if instance.state.is_alive() => Ok(()),
        Some(instance) => Err(format!("instance {id} is {}", instance.state.name())),
        None => Err(format!("there is no instance {id}: `ec2mpi cloud status` lists those there are")),
    }
}

fn clear(faults: &Faults, ids: &[FaultId]) -> Result<Vec<Fault>, String> {
    let known = faults.list();
    if let Some(id) = ids.iter().find(|id| !known.iter().any(|fault| fault.id == **id)) {
        return Err(format!("there is no fault {id}: `ec2mpi cloud fault list` lists those there are"));
    }
    faults.clear(ids).map_err(|error| format!("the faults cannot be written down: {error}"))
}

fn line_of<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Asks the running cloud of a directory.
pub(crate) fn ask(layout: &Layout, ask: &Ask) -> anyhow::Result<Vec<Fault>> {
    let directory = File::open(layout.root())?;
    let mut stream = UnixStream::connect(short_path(&directory, &layout.admin()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(&line_of(ask)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line)? {
        Answer::Faults(faults) => Ok(faults),
        Answer::Refused(why) => anyhow::bail!(why),
    }
}
