//! The HTTP side: every request asks the faults first what is to happen to it.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::Service;
use jiff::Timestamp;
use s3s::{Body, HttpResponse};
use tokio::net::TcpListener;

use super::BucketService;
use super::reply::{Completed, REQUEST_ID};
use crate::faults::{Faults, S3Effect, S3Failure};
use crate::http_server::{self, Answers};

/// Serves until `shutdown` is done, then lets requests in progress end for a few seconds.
///
/// # Errors
///
/// None yet: a connection that fails is logged, and the others go on.
pub async fn serve(
    listener: TcpListener,
    service: BucketService,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let edge = Edge { protocol: service.protocol, faults: service.faults };
    http_server::serve(listener, edge, shutdown).await
}

/// The protocol behind the faults.
#[derive(Clone)]
struct Edge {
    protocol: Completed,
    faults: Option<Arc<Faults>>,
}

/// The connection is closed without an answer: a fault wants it so.
#[derive(Debug, thiserror::Error)]
#[error("closed by a fault")]
struct HungUp;

type BoxError = Box<dyn Error + Send + Sync>;

impl Service<Request<Incoming>> for Edge {
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<HttpResponse, BoxError>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let edge = self.clone();
        Box::pin(async move {
            let effect = edge.effect(&request);
            tokio::time::sleep(effect.wait).await;
            match effect.failure {
                None | Some(S3Failure::Slow { .. }) => Ok(Service::call(&edge.protocol, request).await?),
                Some(S3Failure::Outage) => Err(HungUp.into()),
                Some(S3Failure::Unanswered) => {
                    Service::call(&edge.protocol, request).await?;
                    Err(HungUp.into())
                }
                Some(S3Failure::Refused { code }) => Ok(refuse(request, &code).await),
            }
        })
    }
}

impl Answers for Edge {
    type Out = Body;

    fn accepts(&self) -> bool {
        self.faults.as_ref().is_none_or(|faults| !faults.is_s3_away(Timestamp::now()))
    }
}

impl Edge {
    fn effect(&self, request: &Request<Incoming>) -> S3Effect {
        let Some(faults) = &self.faults else { return S3Effect::default() };
        faults.of_s3(request.method().as_str(), request.uri().path(), Timestamp::now())
    }
}

/// An error of S3, after the whole request was read: an answer before that would reach few clients.
async fn refuse(request: Request<Incoming>, code: &str) -> HttpResponse {
    let is_head = request.method() == Method::HEAD;
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let (status, message) = match code {
        "SlowDown" => (StatusCode::SERVICE_UNAVAILABLE, "Please reduce your request rate."),
        "ServiceUnavailable" => (StatusCode::SERVICE_UNAVAILABLE, "Service is unable to handle request."),
        "AccessDenied" => (StatusCode::FORBIDDEN, "Access Denied"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "We encountered an internal error. Please try again."),
    };
    let id = uuid::Uuid::new_v4().to_string();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{message}</Message><RequestId>{id}\
         </RequestId></Error>",
        quick_xml::escape::escape(code),
    );
    let body = if is_head { Bytes::new() } else { Bytes::from(text) };
    let mut response = HttpResponse::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
