//! The instance metadata service, version 2, on the bridge's address. Who asks is told by the peer's address.

mod token;
mod tree;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use crate::document::DocumentSigner;
use crate::fleet::{Fleet, Instance, Tokens};
use crate::keys::Keys;
use token::TokenKey;
pub(crate) use tree::{profile_arn, profile_id};

const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TTL_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const FORWARDED_HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What the answers are made of.
#[derive(Debug)]
pub(crate) struct Imds {
    fleet: Arc<Fleet>,
    keys: Arc<Keys>,
    signer: DocumentSigner,
    tokens: TokenKey,
}

impl Imds {
    /// `token_key` makes session tokens outlive this process.
    pub(crate) fn new(fleet: Arc<Fleet>, keys: Arc<Keys>, signer: DocumentSigner, token_key: &str) -> Self {
        Self { fleet, keys, signer, tokens: TokenKey::new(token_key) }
    }
}

/// Serves the metadata service on every path; needs the peer's address as connect info.
pub(crate) fn router(imds: Arc<Imds>) -> Router {
    Router::new().fallback(handle).with_state(imds)
}

async fn handle(State(imds): State<Arc<Imds>>, peer: ConnectInfo<SocketAddr>, request: Request) -> Response {
    let IpAddr::V4(address) = peer.0.ip() else { return StatusCode::FORBIDDEN.into_response() };
    let Some(instance) = imds.fleet.by_address(address) else { return StatusCode::FORBIDDEN.into_response() };
    let answered = tokio::task::spawn_blocking(move || answer(&imds, &instance, &request, Timestamp::now())).await;
    answered.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn answer(imds: &Imds, instance: &Instance, request: &Request, now: Timestamp) -> Response {
    let options = &instance.spec().metadata;
    let headers = request.headers();
    // Both as AWS has it: an instance may switch the service off, and a proxy must not pass requests on.
    if !options.enabled || headers.contains_key(FORWARDED_HEADER) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let path = request.uri().path();
    if path == "/latest/api/token" {
        return give_token(imds, instance, request.method(), headers, now);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    match headers.get(TOKEN_HEADER) {
        None if options.tokens == Tokens::Optional => {}
        Some(token) if imds.tokens.is_valid(token.as_bytes(), &instance.id, now) => {}
        _ => return StatusCode::UNAUTHORIZED.into_response(),
    }
    let spot_notice = imds.fleet.faults().spot_notice(&instance.id);
    match tree::find(&tree::Source { instance, keys: &imds.keys, signer: &imds.signer, now, spot_notice }, path) {
        Ok(Some(bytes)) => plain(bytes),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => {
            tracing::error!(instance = %instance.id, path, error = format!("{error:#}"), "no metadata answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn give_token(imds: &Imds, instance: &Instance, method: &Method, headers: &HeaderMap, now: Timestamp) -> Response {
    if method != Method::PUT {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let ttl = headers.get(TTL_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let Some(ttl) = ttl.filter(|ttl| (1..=token::LONGEST).contains(ttl)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut response = plain(imds.tokens.issue(&instance.id, ttl, now).into_bytes());
    response.headers_mut().insert(TTL_HEADER, HeaderValue::from(ttl));
    response
}

fn plain(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))], bytes).into_response()
}

#[cfg(test)]
mod tests;
