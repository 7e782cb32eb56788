//! What `s3s` leaves out of replies and S3 has in them: the request's id, the namespace of copy results, the messages
//! of errors that `s3s` makes by itself, and the word that a connection ends because a body was not read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderValue;
use http::header::{CONNECTION, CONTENT_TYPE};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::service::Service;
use s3s::service::S3Service;
use s3s::{Body, HttpError, HttpRequest, HttpResponse};
use uuid::Uuid;

/// No error and no copy result is longer.
const SHORT: usize = 16 << 10;

/// S3 numbers every reply.
pub(super) const REQUEST_ID: &str = "x-amz-request-id";

/// Roots that `s3s` writes without their namespace.
const BARE_ROOTS: [&str; 2] = ["CopyObjectResult", "CopyPartResult"];

/// What S3 says where `s3s` gives a code alone.
const MESSAGES: &[(&str, &str)] = &[
    ("InvalidBucketName", "The specified bucket is not valid."),
    ("InvalidURI", "Couldn't parse the specified URI."),
    ("KeyTooLongError", "Your key is too long"),
    ("MethodNotAllowed", "The specified method is not allowed against this resource."),
    ("MissingContentLength", "You must provide the Content-Length HTTP header."),
    (
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your key and signing \
         method.",
    ),
];

/// The protocol with complete replies.
#[derive(Debug, Clone)]
pub(super) struct Completed(pub(super) S3Service);

impl Service<http::Request<Incoming>> for Completed {
    type Response = HttpResponse;
    type Error = HttpError;
    type Future = BoxFuture<'static, Result<HttpResponse, HttpError>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let watched = |body| Body::http_body_unsync(Watched { body, read: Arc::clone(&read) });
        let request: HttpRequest = request.map(watched);
        let service = self.0.clone();
        Box::pin(async move {
            let mut response = complete(service.call(request).await?);
            if !read.load(Ordering::Relaxed) {
                // What is left of the body stands where the next request would begin.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

/// A request's body that tells when it was read to its end.
struct Watched {
    body: Incoming,
    read: Arc<AtomicBool>,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.read.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn complete(mut response: HttpResponse) -> HttpResponse {
    let id = Uuid::new_v4().simple().to_string()[..16].to_ascii_uppercase();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let is_xml = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/xml");
    if let Some(bytes) = response.body().bytes().filter(|bytes| is_xml && bytes.len() <= SHORT)
        && let Some(text) = completed(&String::from_utf8_lossy(&bytes), &id)
    {
        *response.body_mut() = Body::from(text);
    }
    response
}

/// The whole of a reply; none if nothing is missing.
fn completed(xml: &str, id: &str) -> Option<String> {
    if let Some((head, rest)) = xml.split_once("<Error><Code>") {
        let (code, rest) = rest.split_once("</Code>")?;
        let message = if rest.contains("<Message>") { String::new() } else { message(code) };
        let rest = rest.strip_suffix("</Error>")?;
        return Some(format!("{head}<Error><Code>{code}</Code>{message}{rest}<RequestId>{id}</RequestId></Error>"));
    }
    let root = BARE_ROOTS.iter().find(|root| xml.contains(&format!("<{root}>")))?;
    let whole = format!("<{root} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    Some(xml.replacen(&format!("<{root}>"), &whole, 1))
}

fn message(code: &str) -> String {
    let known = MESSAGES.iter().find(|(name, _)| *name == code).map(|(_, message)| *message);
    format!("<Message>{}</Message>", known.unwrap_or("The request was refused."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_get_their_message_and_id() {
        let error = completed("<?xml?><Error><Code>KeyTooLongError</Code></Error>", "1").unwrap();
        let whole = "<Message>Your key is too long</Message><RequestId>1</RequestId></Error>";
        assert_eq!(error, format!("<?xml?><Error><Code>KeyTooLongError</Code>{whole}"));
        let error = completed("<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>", "1").unwrap();
        assert_eq!(error, "<Error><Code>NoSuchKey</Code><Message>gone</Message><RequestId>1</RequestId></Error>");
    }

    #[test]
    fn copy_results_get_their_namespace() {
        let result = completed("<CopyObjectResult><ETag>x</ETag></CopyObjectResult>", "1").unwrap();
        let whole = "<CopyObjectResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";
        assert_eq!(result, format!("{whole}<ETag>x</ETag></CopyObjectResult>"));
        assert_eq!(completed("<ListBucketResult xmlns=\"x\"></ListBucketResult>", "1"), None);
    }
}
