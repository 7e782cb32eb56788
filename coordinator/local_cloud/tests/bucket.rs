//! The bucket service as a process of its own, over HTTP: races, keys, credentials, and being killed.

#![allow(clippy::unwrap_used)]

#[path = "bucket/client.rs"]
mod client;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ec2mpi_local_cloud::bucket::{self, KeyGrant, KeySource};
use md5::{Digest, Md5};

use client::{Client, Reply};

/// Tells the service process its directory.
const DIRECTORY: &str = "EC2MPI_TEST_BUCKET";

struct Keys;

impl KeySource for Keys {
    fn secret(&self, access_key: &str) -> Option<KeyGrant> {
        let now = SystemTime::now();
        let (token, expires_at) = match access_key {
            "permanent" => (None, None),
            "temporary" => (Some("token/+="), Some(now + Duration::from_secs(600))),
            "expired" => (Some("token/+="), Some(now - Duration::from_secs(1))),
            _ => return None,
        };
        Some(KeyGrant { secret: "secret".into(), session_token: token.map(str::to_owned), expires_at })
    }
}

/// Not a test: the service, as a child process of the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests"]
async fn service_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let service = bucket::open(&directory.join("s3"), Arc::new(Keys)).unwrap();
    service.create_bucket_if_absent("bkt").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    fs::write(directory.join("address.new"), listener.local_addr().unwrap().to_string()).unwrap();
    fs::rename(directory.join("address.new"), directory.join("address")).unwrap();
    bucket::serve(listener, service, std::future::pending()).await.unwrap();
}

/// The service on a directory; killed with SIGKILL when dropped.
struct Service {
    child: Child,
    client: Client,
}

impl Service {
    fn start(directory: &Path) -> Self {
        let address = directory.join("address");
        let _ = fs::remove_file(&address);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service_process", "--ignored"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nowhere = ([127, 0, 0, 1], 0).into();
        let client = Client { address: nowhere, access_key: "permanent".into(), secret: "secret".into(), token: None };
        let mut service = Self { child, client };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !address.exists() {
            assert!(service.child.try_wait().unwrap().is_none(), "the service ended");
            assert!(Instant::now() < deadline, "the service did not start");
            thread::sleep(Duration::from_millis(5));
        }
        service.client.address = fs::read_to_string(&address).unwrap().parse().unwrap();
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The statuses of 16 requests sent at once, sorted.
fn race(request: impl Fn(usize) -> Reply + Sync) -> Vec<u16> {
    let barrier = Barrier::new(16);
    let mut statuses: Vec<u16> = thread::scope(|scope| {
        let racers: Vec<_> = (0..16)
            .map(|racer| {
                let (barrier, request) = (&barrier, &request);
                scope.spawn(move || {
                    barrier.wait();
                    request(racer).status
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    statuses
}

fn one_winner(won: u16, lost: u16) -> Vec<u16> {
    [vec![won], vec![lost; 15]].concat()
}

#[test]
fn every_race_has_one_winner() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path());
    let client = &service.client;
    let body = |racer: usize| vec![b"abcdefghijklmnop"[racer]; 20_000];
    for round in 0..10 {
        let (key, copy, parts) = (format!("put{round}"), format!("copy{round}"), format!("complete{round}"));
        let put = race(|racer| client.put(&key, &[("if-none-match", "*")], &body(racer)).unwrap());
        assert_eq!(put, one_winner(200, 412), "PUT If-None-Match, round {round}");
        let winner = client.get(&key).unwrap();
        let etag = winner.headers["etag"].clone();
        assert_eq!(etag, format!("\"{}\"", hex::encode(Md5::digest(&winner.body))));

        let source = format!("/bkt/{key}");
        let headers = [("x-amz-copy-source", source.as_str()), ("if-none-match", "*")];
        let copied = race(|_| client.put(&copy, &headers, b"").unwrap());
        assert_eq!(copied, one_winner(200, 412), "COPY If-None-Match, round {round}");

        let replaced = race(|racer| client.put(&key, &[("if-match", &etag)], &[b'x'; 99][..=racer]).unwrap());
        assert_eq!(replaced, one_winner(200, 412), "PUT If-Match, round {round}");

        let uploads: Vec<_> = (0..16).map(|racer| upload_of_one_part(client, &parts, &body(racer))).collect();
        let completed = race(|racer| {
            let (id, xml) = &uploads[racer];
            let query = format!("uploadId={id}");
            client.send("POST", &format!("/bkt/{parts}"), &query, &[("if-none-match", "*")], xml.as_bytes()).unwrap()
        });
        assert_eq!(completed, one_winner(200, 412), "COMPLETE If-None-Match, round {round}");

        let etag = client.get(&copy).unwrap().headers["etag"].clone();
        let path = format!("/bkt/{copy}");
        let deleted = race(|_| client.send("DELETE", &path, "", &[("if-match", &etag)], b"").unwrap());
        assert_eq!(deleted, one_winner(204, 404), "DELETE If-Match, round {round}");
    }
}

/// An upload with one part: its id, and what completes it.
fn upload_of_one_part(client: &Client, key: &str, body: &[u8]) -> (String, String) {
    let path = format!("/bkt/{key}");
    let id = client.send("POST", &path, "uploads", &[], b"").unwrap().one("UploadId");
    let part = client.send("PUT", &path, &format!("partNumber=1&uploadId={id}"), &[], body).unwrap();
    let etag = part.headers["etag"].replace('"', "&quot;");
    let xml = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    (id, xml)
}

#[test]
fn any_key_keeps_its_object_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let long = "n".repeat(1024);
    let mut keys = vec![
        "a",
        "a/b",
        "a/",
        "a//b",
        "/a",
        "a/../b",
        "..",
        "%",
        "%2F",
        "a%20b",
        "a b",
        "a+b",
        "é日本",
        "q?x=1&y#z",
        "back\\slash",
        "tab\tnew\nline",
        ".hidden",
        "trail.",
        "A",
        "\u{1}",
        "<&>\"'",
        &long,
    ];
    {
        let service = Service::start(directory.path());
        for key in &keys {
            let reply = service.client.put(key, &[("x-amz-meta-name", "x")], key.as_bytes()).unwrap();
            assert_eq!(reply.status, 200, "{key:?}: {}", reply.text());
        }
        let too_long = service.client.put(&format!("{long}n"), &[], b"").unwrap();
        assert_eq!((too_long.status, too_long.one("Code").as_str()), (400, "KeyTooLongError"));
    }
    let service = Service::start(directory.path());
    keys.sort_unstable();
    let expected: Vec<_> = keys.iter().map(|key| ((*key).to_owned(), hex::encode(Md5::digest(key)))).collect();
    assert_eq!(service.client.list(), expected);
    for key in &keys {
        let reply = service.client.get(key).unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, *key));
        assert_eq!(reply.headers["x-amz-meta-name"], "x");
        assert_eq!(service.client.send("DELETE", &format!("/bkt/{key}"), "", &[], b"").unwrap().status, 204);
    }
    assert_eq!(service.client.list(), []);
}

#[test]
fn temporary_keys_need_their_token() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path());
    let code = |access_key: &str, secret: &str, token: Option<&str>| {
        let client = Client {
            access_key: access_key.into(),
            secret: secret.into(),
            token: token.map(str::to_owned),
            ..service.client.clone()
        };
        let reply = client.send("GET", "/bkt", "list-type=2", &[], b"").unwrap();
        (reply.status, reply.all("Code").concat())
    };
    assert_eq!(code("temporary", "secret", Some("token/+=")), (200, String::new()));
    assert_eq!(code("temporary", "secret", None), (400, "InvalidToken".into()));
    assert_eq!(code("temporary", "secret", Some("other")), (400, "InvalidToken".into()));
    assert_eq!(code("permanent", "secret", Some("token/+=")), (400, "InvalidToken".into()));
    assert_eq!(code("expired", "secret", Some("token/+=")), (400, "ExpiredToken".into()));
    assert_eq!(code("temporary", "wrong", Some("token/+=")), (403, "SignatureDoesNotMatch".into()));
    assert_eq!(code("nobody", "secret", None), (403, "InvalidAccessKeyId".into()));
}

/// A body that says what it is in every line, so that a torn or mixed one shows.
fn lines(writer: usize, version: usize) -> Vec<u8> {
    format!("{writer:04} {version:08}\n").repeat(1 + (writer * 7919 + version * 104_729) % 9_000).into_bytes()
}

/// What each key is known to hold: acknowledged, or sent when the service was killed.
type Written = BTreeMap<String, Vec<Vec<u8>>>;

/// Writes and deletes until the service is killed. Kept of each key: the last state acknowledged, and all sent since.
fn write_until_killed(client: &Client, writer: usize, first: usize, stop: &AtomicBool, written: &Mutex<Written>) {
    for version in first.. {
        let key = format!("{writer}/{}", version % 5);
        let body = if version % 11 == 10 { Vec::new() } else { lines(writer, version) };
        let absent = || vec![Vec::new()];
        written.lock().unwrap().entry(key.clone()).or_insert_with(absent).push(body.clone());
        let reply = if body.is_empty() {
            client.send("DELETE", &format!("/bkt/{key}"), "", &[], b"")
        } else {
            client.put(&key, &[], &body)
        };
        match reply {
            Ok(reply) if (200..300).contains(&reply.status) => {
                written.lock().unwrap().insert(key, vec![body]);
            }
            Ok(reply) => panic!("{} {}", reply.status, reply.text()),
            Err(_) => break,
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
}

#[test]
fn nothing_is_torn_or_lost_by_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let written = Mutex::new(Written::new());
    let rounds: usize = std::env::var("EC2MPI_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    for round in 0..rounds {
        let service = Service::start(directory.path());
        let stop = AtomicBool::new(false);
        let client = service.client.clone();
        thread::scope(|scope| {
            for writer in 0..4 {
                let (client, stop, written) = (&client, &stop, &written);
                scope.spawn(move || write_until_killed(client, writer, round * 10_000, stop, written));
            }
            thread::sleep(Duration::from_millis(60 + (round as u64 * 37) % 90));
            drop(service);
            stop.store(true, Ordering::Relaxed);
        });
        let service = Service::start(directory.path());
        let mut written = written.lock().unwrap();
        let listed: BTreeMap<String, String> = service.client.list().into_iter().collect();
        for (key, states) in written.iter_mut() {
            let reply = service.client.get(key).unwrap();
            let found = if reply.status == 404 { Vec::new() } else { reply.body };
            assert!(states.contains(&found), "round {round}: {key} holds what was never written, or has lost a write");
            let tag = (!found.is_empty()).then(|| hex::encode(Md5::digest(&found)));
            assert_eq!(listed.get(key), tag.as_ref(), "round {round}: {key}");
            *states = vec![found];
        }
        let blobs = walk(&directory.path().join("s3/blobs"));
        assert_eq!(blobs, listed.len(), "round {round}: one file an object, and no others");
    }
}

/// Files below a directory.
fn walk(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.file_type().unwrap().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}
