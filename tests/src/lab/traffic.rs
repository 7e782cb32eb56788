//! What passes through the lab, by kind: the requests are what S3 bills.

use std::sync::{Mutex, PoisonError};

use hyper::body::Body;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use serde::Serialize;

/// Requests and bytes since the start. A request counts when its headers are there, whatever becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Traffic {
    /// Whole objects, and parts.
    pub put: u64,
    /// Copies on the server, of objects or parts.
    pub copy: u64,
    /// Uploads begun, completed or given up.
    pub multipart: u64,
    pub get: u64,
    pub head: u64,
    pub list: u64,
    pub delete: u64,
    /// Whatever is asked of buckets and of settings.
    pub other: u64,
    /// Bytes of bodies to the server, as announced.
    pub sent: u64,
    /// Bytes of bodies from the server, as announced.
    pub received: u64,
}

impl Traffic {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.put + self.copy + self.multipart + self.get + self.head + self.list + self.delete + self.other
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            put: self.put - before.put,
            copy: self.copy - before.copy,
            multipart: self.multipart - before.multipart,
            get: self.get - before.get,
            head: self.head - before.head,
            list: self.list - before.list,
            delete: self.delete - before.delete,
            other: self.other - before.other,
            sent: self.sent - before.sent,
            received: self.received - before.received,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Copy,
    Multipart,
    Get,
    Head,
    List,
    Delete,
    Other,
}

/// Counts; shared by all connections.
#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<Traffic>);

impl Counter {
    pub(super) fn read(&self) -> Traffic {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn asked<B: Body>(&self, request: &Request<B>) {
        let kind = kind(request.method(), request.uri(), request.headers());
        let mut traffic = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.sent += request.body().size_hint().exact().unwrap_or(0);
        let count = match kind {
            Kind::Put => &mut traffic.put,
            Kind::Copy => &mut traffic.copy,
            Kind::Multipart => &mut traffic.multipart,
            Kind::Get => &mut traffic.get,
            Kind::Head => &mut traffic.head,
            Kind::List => &mut traffic.list,
            Kind::Delete => &mut traffic.delete,
            Kind::Other => &mut traffic.other,
        };
        *count += 1;
    }

    pub(super) fn answered<B: Body>(&self, answer: &Response<B>) {
        let bytes = answer.body().size_hint().exact().unwrap_or(0);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).received += bytes;
    }
}

/// Buckets are named in the path: `/BUCKET/KEY`.
fn kind(method: &Method, uri: &Uri, headers: &HeaderMap) -> Kind {
    let has_key = uri.path().trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let asks = |name: &str| {
        let parts = uri.query().unwrap_or_default().split('&');
        parts.into_iter().any(|part| part.split('=').next() == Some(name))
    };
    match (method, has_key) {
        (&Method::PUT, true) if headers.contains_key("x-amz-copy-source") => Kind::Copy,
        (&Method::PUT, true) if asks("acl") || asks("tagging") => Kind::Other,
        (&Method::PUT, true) => Kind::Put,
        (&Method::POST, true) if asks("uploads") || asks("uploadId") => Kind::Multipart,
        (&Method::DELETE, true) if asks("uploadId") => Kind::Multipart,
        (&Method::DELETE, true) => Kind::Delete,
        (&Method::POST, false) if asks("delete") => Kind::Delete,
        (&Method::HEAD, true) => Kind::Head,
        (&Method::GET, true) if asks("uploadId") => Kind::Other,
        (&Method::GET, true) => Kind::Get,
        (&Method::GET, false) if asks("location") || asks("versioning") => Kind::Other,
        (&Method::GET, false) => Kind::List,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;

    #[test]
    fn kinds() {
        let table = [
            ("PUT", "/b/k", Kind::Put),
            ("PUT", "/b/k?partNumber=1&uploadId=x", Kind::Put),
            ("PUT", "/b", Kind::Other),
            ("POST", "/b/k?uploads", Kind::Multipart),
            ("POST", "/b/k?uploadId=x", Kind::Multipart),
            ("DELETE", "/b/k?uploadId=x", Kind::Multipart),
            ("DELETE", "/b/k", Kind::Delete),
            ("POST", "/b?delete", Kind::Delete),
            ("HEAD", "/b/k", Kind::Head),
            ("HEAD", "/b", Kind::Other),
            ("GET", "/b/k/l", Kind::Get),
            ("GET", "/b/?list-type=2&prefix=k", Kind::List),
            ("GET", "/b?delimiter=/", Kind::List),
            ("GET", "/b?location", Kind::Other),
        ];
        for (method, uri, expected) in table {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let found = kind(&method, &uri.parse().expect("a path"), &HeaderMap::new());
            assert_eq!(found, expected, "{method} {uri}");
        }
        let headers =
            HeaderMap::from_iter([("x-amz-copy-source".parse().expect("a name"), "/b/l".parse().expect("a value"))]);
        assert_eq!(kind(&Method::PUT, &"/b/k".parse().expect("a path"), &headers), Kind::Copy);
    }

    #[test]
    fn counts_and_differences() {
        let counter = Counter::default();
        let put = Request::put("/b/k").body(Full::new(Bytes::from_static(b"four"))).expect("a request");
        counter.asked(&put);
        let before = counter.read();
        counter.asked(&put);
        counter.answered(&Response::new(Full::new(Bytes::from_static(b"12345"))));
        assert_eq!(counter.read().since(&before), Traffic { put: 1, sent: 4, received: 5, ..Traffic::default() });
        assert_eq!((counter.read().requests(), counter.read().sent), (2, 8));
    }
}
