//! The store against a server that answers every request with a fixed reply and keeps what it was sent.

use super::*;
use aws_sdk_s3::config::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn store(endpoint: &str) -> S3Store {
    let config = aws_sdk_s3::config::Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("AK", "SK", None, None, "test"))
        .http_client(transport::client());
    let client = Client::from_conf(configured(config, Some(endpoint)).build());
    let uploads = Uploads { storage_class: Some("STANDARD_IA".into()), encryption: Some(S3_KEYS.into()), acl: None };
    S3Store {
        client,
        bucket: "bucket".into(),
        prefix: Prefix("vol/".into()),
        uploads,
        payer: None,
        counts: Arc::default(),
    }
}

/// A server for one request: answers `reply`, gives what it was sent.
async fn server(reply: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        stream.write_all(reply.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        request
    });
    (endpoint, task)
}

/// Headers, and as much of a body as they say.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        text.extend_from_slice(&buffer[..read]);
        let so_far = String::from_utf8_lossy(&text).to_ascii_lowercase();
        let Some((headers, body)) = so_far.split_once("\r\n\r\n") else { continue };
        let length = headers.lines().find_map(|line| line.strip_prefix("content-length: "));
        if read == 0 || body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return String::from_utf8_lossy(&text).into_owned();
        }
    }
}

#[tokio::test]
async fn a_conditional_put_as_it_is_sent() {
    let (endpoint, sent) = server("HTTP/1.1 200 OK\r\nETag: \"ab\"\r\nContent-Length: 0\r\n\r\n").await;
    let headers = Headers {
        content_type: Some("text/x".into()),
        metadata: [("mode".into(), "420".into())].into(),
        foreign: [("Cache-Control".into(), "no-store".into())].into(),
    };
    let (key, body) = (ObjectKey::new("a b/c+d"), Body::Bytes(Bytes::from_static(b"hello")));
    let etag = store(&endpoint).put(&key, body, &headers, &Condition::Absent).await.unwrap();
    assert_eq!(etag, Etag("\"ab\"".into()));
    let sent = sent.await.unwrap().to_ascii_lowercase();
    assert!(sent.starts_with("put /bucket/vol/a%20b/c%2bd?x-id=putobject http/1.1\r\n"), "{sent}");
    for line in ["if-none-match: *", "x-amz-meta-mode: 420", "content-type: text/x", "cache-control: no-store"]
        .into_iter()
        .chain(["x-amz-storage-class: standard_ia", "x-amz-server-side-encryption: aes256"])
    {
        assert!(sent.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {sent}");
    }
    assert!(!sent.contains("\r\nif-match:"));
}

#[tokio::test]
async fn answers_mean_what_the_table_says() {
    let head = |reply| async move {
        let (endpoint, _) = server(reply).await;
        store(&endpoint).head(&ObjectKey::new("k")).await
    };
    let gone = head("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(gone, Err(StoreError::NotFound("k".into())));
    let busy = head("HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n").await;
    assert!(matches!(busy, Err(StoreError::Transient(..))), "{busy:?}");
    let partial = head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").await;
    assert!(matches!(partial, Err(StoreError::Transient(..))), "no tag, no time: {partial:?}");
    let cut = head("HTTP/1.1 200").await;
    assert!(matches!(cut, Err(StoreError::Transient(..))), "{cut:?}");
}

#[tokio::test]
async fn a_changed_version_is_a_conflict() {
    const REPLY: &str = "HTTP/1.1 412 Precondition Failed\r\nContent-Length: 68\r\n\r\n\
         <Error><Code>PreconditionFailed</Code><Message>no</Message></Error>\n";
    let (endpoint, sent) = server(REPLY).await;
    let range = store(&endpoint).get_range(&ObjectKey::new("k"), &Etag("\"ab\"".into()), 5..10).await;
    assert_eq!(range, Err(StoreError::Conflict("k".into())));
    let sent = sent.await.unwrap().to_ascii_lowercase();
    assert!(sent.contains("\r\nif-match: \"ab\"\r\n") && sent.contains("\r\nrange: bytes=5-9\r\n"), "{sent}");
}

#[tokio::test]
async fn a_cut_body_is_transient() {
    const REPLY: &str = "HTTP/1.1 206 Partial Content\r\nETag: \"ab\"\r\nContent-Length: 5\r\n\r\n01";
    let (endpoint, _) = server(REPLY).await;
    let range = store(&endpoint).get_range(&ObjectKey::new("k"), &Etag("\"ab\"".into()), 0..5).await;
    assert!(matches!(range, Err(StoreError::Transient(..))), "{range:?}");
}

#[tokio::test]
async fn nobody_there_is_transient_and_quick() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let begun = std::time::Instant::now();
    let head = store(&endpoint).head(&ObjectKey::new("k")).await;
    assert!(matches!(head, Err(StoreError::Transient(..))), "{head:?}");
    assert!(begun.elapsed() < SHORT);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let limit = Duration::from_millis(200);
    let call = store(&endpoint).client.head_bucket().bucket("b").send();
    let result = answer("b", limit, call).await;
    assert_eq!(result.err(), Some(StoreError::Transient("b".into(), "no answer within 0 s".into())));
}

#[tokio::test]
async fn tls_is_spoken_where_the_url_asks_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let first = tokio::spawn(async move { listener.accept().await.unwrap().0.read_u8().await.unwrap() });
    let answer = store(&endpoint).head(&ObjectKey::new("k")).await;
    assert!(matches!(answer, Err(StoreError::Transient(..))), "{answer:?}");
    // The type of a TLS handshake record.
    assert_eq!(first.await.unwrap(), 22);
}
