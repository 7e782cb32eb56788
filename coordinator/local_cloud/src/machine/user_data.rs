//! A booting machine's one question to the instance metadata service: what shall I do?

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// User-data is at most 16 KiB.
const BODY_LIMIT: usize = 64 * 1024;

/// Fetches the user-data with a session token (IMDSv2), within `limit`; none where there is none.
pub(super) fn fetch(endpoint: &str, limit: Duration) -> anyhow::Result<Option<Bytes>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(limit, fetch_async(endpoint)).await.context("no answer")? })
}

async fn fetch_async(endpoint: &str) -> anyhow::Result<Option<Bytes>> {
    let token = Request::builder()
        .method(Method::PUT)
        .uri(format!("{endpoint}/latest/api/token"))
        .header("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let (status, token) = send(token).await.context("session token")?;
    anyhow::ensure!(status == StatusCode::OK, "session token: {status}");
    let user_data = Request::builder()
        .uri(format!("{endpoint}/latest/user-data"))
        .header("x-aws-ec2-metadata-token", token.as_ref());
    match send(user_data).await.context("user-data")? {
        (StatusCode::OK, body) => Ok(Some(body)),
        (StatusCode::NOT_FOUND, _) => Ok(None),
        (status, _) => anyhow::bail!("user-data: {status}"),
    }
}

async fn send(request: http::request::Builder) -> anyhow::Result<(StatusCode, Bytes)> {
    let mut request = request.body(Empty::<Bytes>::new())?;
    let authority = request.uri().authority().context("no address in the endpoint")?.to_string();
    request.headers_mut().insert(http::header::HOST, authority.parse()?);
    let stream = TcpStream::connect(&authority).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await.map_err(anyhow::Error::from_boxed)?;
    connection.abort();
    Ok((status, body.to_bytes()))
}
