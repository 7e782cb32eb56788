//! The bucket service as a process of its own, over HTTP: races, keys, credentials, strangers as clients, size, a full
//! disk, and being killed.

#![allow(clippy::unwrap_used)]

#[path = "bucket/client.rs"]
mod client;
#[path = "bucket/full_disk.rs"]
mod full_disk;
#[path = "bucket/killed.rs"]
mod killed;
#[path = "bucket/service.rs"]
mod service;
#[path = "bucket/strangers.rs"]
mod strangers;
#[path = "bucket/streams.rs"]
mod streams;

use std::sync::Barrier;
use std::thread;

use md5::{Digest, Md5};

use client::{Client, Reply};
use service::Service;

/// Whether the long forms of tests are asked for.
fn is_soak() -> bool {
    std::env::var_os("EC2MPI_SOAK").is_some()
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
    assert_eq!(service.client.list(7), expected);
    for key in &keys {
        let reply = service.client.get(key).unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, *key));
        assert_eq!(reply.headers["x-amz-meta-name"], "x");
        assert_eq!(service.client.delete(key).unwrap().status, 204);
    }
    assert_eq!(service.client.list(7), []);
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
