//! The service with more keys than a test can put.

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../../tests/bucket/client.rs"]
mod client;

use std::time::Instant;

use super::index::Object;
use super::*;

const KEYS: usize = 100_000;

struct OneKey;

impl KeySource for OneKey {
    fn secret(&self, _: &str) -> Option<KeyGrant> {
        Some(KeyGrant { secret: "secret".into(), session_token: None, expires_at: None })
    }
}

fn put(number: usize) -> Record {
    let object = Object { etag: format!("{number:032x}"), ..Object::default() };
    Record::Put { bucket: "bkt".into(), key: format!("{:03}/{number:07}", number % 100), object }
}

/// Opens a directory that was left with all those keys, and lists it over HTTP, whole and a directory of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    let service = open(directory.path(), Arc::new(OneKey)).unwrap();
    service.create_bucket_if_absent("bkt").unwrap();
    service.store.commit(|_| Ok((0..KEYS).map(put).collect())).unwrap();
    drop(service);

    let start = Instant::now();
    let service = open(directory.path(), Arc::new(OneKey)).unwrap();
    let opened = start.elapsed();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = client::Client { address, access_key: "a".into(), secret: "secret".into(), token: None };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, service, async { drop(stopped.await) }));
    let listing = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let listed = client.list(1000);
        let whole = start.elapsed();
        let groups = client.send("GET", "/bkt", "delimiter=%2F&list-type=2", &[], b"").unwrap();
        (listed, whole, groups.all("Prefix"), start.elapsed() - whole)
    });
    let (listed, whole, groups, grouped) = listing.await.unwrap();
    println!("{KEYS} keys: opened in {opened:.1?}, listed in {whole:.1?}, their 100 directories in {grouped:.1?}");
    drop(stop);
    server.await.unwrap().unwrap();

    assert_eq!(listed.len(), KEYS);
    assert!(listed.is_sorted_by(|a, b| a.0 < b.0));
    assert!(listed.iter().all(|(key, tag)| key[4..].parse() == usize::from_str_radix(tag, 16)));
    let expected: Vec<String> = std::iter::once(String::new()).chain((0..100).map(|n| format!("{n:03}/"))).collect();
    assert_eq!(groups, expected);
}
