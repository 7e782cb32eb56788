//! Hands the agent's executable to new nodes over plain HTTP. They know its SHA-256 from their user-data.

use std::path::Path;

use anyhow::Context;
use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The executable as it was when the coordinator started, so that what is served is what was hashed.
#[derive(Debug, Clone)]
pub(super) struct AgentFile {
    content: Bytes,
    sha256: String,
}

impl AgentFile {
    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        let content = std::fs::read(path).with_context(|| {
            format!("cannot read the agent {}; build it, or name it with EC2MPI_AGENT", path.display())
        })?;
        Ok(Self { sha256: hex::encode(Sha256::digest(&content)), content: content.into() })
    }

    /// 64 hexadecimal digits.
    pub(super) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Where it is on the listener.
    pub(super) fn path(&self) -> String {
        format!("/agent/{}", self.sha256)
    }

    pub(super) async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
        let router = Router::new().route("/agent/{sha256}", get(answer)).with_state(self);
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        served.context("the listener for the agent's executable failed")
    }
}

async fn answer(State(file): State<AgentFile>, UrlPath(sha256): UrlPath<String>) -> Response {
    if sha256 == file.sha256 {
        ([(header::CONTENT_TYPE, "application/octet-stream")], file.content).into_response()
    } else {
        (StatusCode::NOT_FOUND, "this coordinator has another agent\n").into_response()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_agent_is_served_under_its_hash_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ec2mpi-agent");
        std::fs::write(&path, "agent").unwrap();
        let file = AgentFile::load(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(file.clone().serve(listener, shutdown.clone()));
        let answer = fetch(address, &file.path()).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nagent"), "{answer}");
        assert!(fetch(address, "/agent/0000").await.starts_with("HTTP/1.1 404"));
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }

    #[test]
    fn a_missing_agent_is_named() {
        let error = AgentFile::load(Path::new("/nonexistent/ec2mpi-agent")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ec2mpi-agent") && error.contains("EC2MPI_AGENT"), "{error}");
    }
}
