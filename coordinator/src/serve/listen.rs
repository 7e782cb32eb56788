//! Listeners: where agents and users find the coordinator again after a restart.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::stat::{Mode, umask};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::state::State;

const AGENTS_PORT: &str = "agents_port";
const AGENT_FILES_PORT: &str = "agent_files_port";

/// A predecessor's port may take a moment to become free.
const PORT_PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// The agents' TLS listener.
pub(super) async fn agents(state: &State, address: IpAddr, port: Option<u16>) -> anyhow::Result<TcpListener> {
    bind(state, AGENTS_PORT, address, port).await
}

/// The plain HTTP listener that hands out the agent's executable.
pub(super) async fn agent_files(state: &State, address: IpAddr, port: Option<u16>) -> anyhow::Result<TcpListener> {
    bind(state, AGENT_FILES_PORT, address, port).await
}

/// On the port that the user chose; else on the one that nodes were told, or a free one the first time. A port that
/// somebody else took is given up only when nobody chose it and no cluster depends on it.
async fn bind(state: &State, name: &'static str, address: IpAddr, chosen: Option<u16>) -> anyhow::Result<TcpListener> {
    let stored: Option<u16> = state.setting(name)?.and_then(|port| port.parse().ok());
    let has_clusters = !state.clusters()?.is_empty();
    if let (Some(chosen), Some(stored), true) = (chosen, stored, has_clusters)
        && chosen != stored
    {
        bail!("the nodes of the clusters that exist know port {stored}, not {chosen}: keep it, or destroy them first");
    }
    let port = chosen.or(stored);
    let bound = match port {
        Some(port) => bind_patiently(SocketAddr::new(address, port)).await,
        None => TcpListener::bind((address, 0)).await,
    };
    let listener = match bound {
        Err(error) if error.kind() == ErrorKind::AddrInUse && chosen.is_none() && !has_clusters => {
            TcpListener::bind((address, 0)).await
        }
        bound => bound,
    };
    let listener = listener.with_context(|| match port {
        Some(port) => format!("cannot listen on {address}:{port}, where nodes expect the coordinator"),
        None => format!("cannot listen on {address}"),
    })?;
    state.set_setting(name, &listener.local_addr()?.port().to_string())?;
    Ok(listener)
}

async fn bind_patiently(address: SocketAddr) -> std::io::Result<TcpListener> {
    let begun = tokio::time::Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begun.elapsed() < PORT_PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            bound => return bound,
        }
    }
}

/// Removes the socket at the end, so that nobody waits for an answer.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed it before us meant the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The control socket, mode 0600. One that nobody answers at is left over from a killed coordinator and goes; the
/// caller holds the state directory's lock.
pub(super) async fn control(path: &Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    if let Some(directory) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.with_context(|| format!("cannot make the socket's directory {}", directory.display()))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        bail!("another coordinator answers at {}; choose another place with --socket", path.display());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old socket {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    // The socket must never exist with another mode, not even for a moment.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.with_context(|| format!("cannot make the control socket {}", path.display()))?;
    Ok((listener, SocketFile { path: path.to_owned() }))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_port_is_the_same_after_a_restart() {
        let state = State::in_memory().unwrap();
        let first = agents(&state, HERE, None).await.unwrap().local_addr().unwrap();
        assert_eq!(agents(&state, HERE, None).await.unwrap().local_addr().unwrap(), first);
    }

    #[tokio::test]
    async fn a_chosen_port_is_taken_unless_nodes_know_another() {
        let state = State::in_memory().unwrap();
        let free = TcpListener::bind((HERE, 0)).await.unwrap().local_addr().unwrap();
        let bound = agents(&state, HERE, Some(free.port())).await.unwrap();
        assert_eq!(bound.local_addr().unwrap(), free);
        crate::state::sample_cluster(&state, "demo", 1);
        let error = agents(&state, HERE, Some(free.port() ^ 1)).await.unwrap_err().to_string();
        assert!(error.contains(&free.port().to_string()), "{error}");
    }

    #[tokio::test]
    async fn the_socket_is_private_taken_over_when_stale_and_respected_when_alive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/control.sock");
        let (listener, file) = control(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(control(&path).await.unwrap_err().to_string().contains("--socket"));
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = control(&path).await.unwrap();
        drop(file);
        assert!(!path.exists());
    }
}
