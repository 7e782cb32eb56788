//! What every object store must do: the same suite on the fake and, when the environment names one, on an S3 server
//! (`EC2MPI_TEST_S3=ENDPOINT/BUCKET`, credentials as for any AWS program).

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use ec2mpi_agent::volume::store::memory::MemoryStore;
use ec2mpi_agent::volume::store::s3::{S3Settings, S3Store};
use ec2mpi_agent::volume::store::{Body, Condition, Etag, Headers, ObjectKey, ObjectStore, Part, StoreError};

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text)
}

fn body(text: &'static str) -> Body {
    Body::Bytes(Bytes::from_static(text.as_bytes()))
}

fn stale() -> Etag {
    Etag("\"00000000000000000000000000000000\"".into())
}

fn headers() -> Headers {
    Headers {
        content_type: Some("text/plain".into()),
        metadata: [("mode".into(), "33188".into()), ("uid".into(), "2009".into())].into(),
        foreign: [("Cache-Control".into(), "no-store".into())].into(),
    }
}

async fn suite(store: &dyn ObjectStore) {
    reads(store).await;
    conditions(store).await;
    copies(store).await;
    listings(store).await;
    multipart(store).await;
    files(store).await;
}

async fn reads(store: &dyn ObjectStore) {
    let name = key("reads/a b+c%é");
    assert_eq!(store.head(&name).await, Err(StoreError::NotFound(name.to_string())));
    let etag = store.put(&name, body("0123456789"), &headers(), &Condition::Absent).await.unwrap();
    let info = store.head(&name).await.unwrap();
    assert_eq!((&info.etag, info.size, &info.headers), (&etag, 10, &headers()));
    assert_eq!(store.get(&name).await.unwrap(), (info, Bytes::from_static(b"0123456789")));
    assert_eq!(store.get_range(&name, &etag, 2..5).await.unwrap(), "234");
    assert_eq!(store.get_range(&name, &etag, 8..99).await.unwrap(), "89");
    assert!(matches!(store.get_range(&name, &etag, 10..11).await, Err(StoreError::Refused(..))));
    assert_eq!(store.get_range(&name, &stale(), 0..1).await, Err(StoreError::Conflict(name.to_string())));
    let empty = key("reads/empty");
    store.put(&empty, body(""), &Headers::default(), &Condition::Always).await.unwrap();
    assert_eq!(store.get(&empty).await.unwrap().1, "");
}

async fn conditions(store: &dyn ObjectStore) {
    let name = key("conditions");
    let put = |text, condition| {
        let name = name.clone();
        async move { store.put(&name, body(text), &Headers::default(), &condition).await }
    };
    let conflict = || StoreError::Conflict(name.to_string());
    let first = put("1", Condition::Absent).await.unwrap();
    assert_eq!(put("2", Condition::Absent).await, Err(conflict()));
    let second = put("2", Condition::Matches(first.clone())).await.unwrap();
    assert_eq!(put("3", Condition::Matches(first.clone())).await, Err(conflict()));
    assert_eq!(store.delete(&name, &Condition::Matches(first.clone())).await, Err(conflict()));
    store.delete(&name, &Condition::Matches(second)).await.unwrap();
    store.delete(&name, &Condition::Always).await.unwrap();
    assert_eq!(put("4", Condition::Matches(first)).await, Err(StoreError::NotFound(name.to_string())));
}

async fn copies(store: &dyn ObjectStore) {
    let (from, to) = (key("copies/a b+c"), key("copies/to"));
    let etag = store.put(&from, body("text"), &Headers::default(), &Condition::Always).await.unwrap();
    let copied = store.copy(&from, &etag, &to, Some(&headers()), &Condition::Absent).await.unwrap();
    let (info, bytes) = store.get(&to).await.unwrap();
    assert_eq!((info.etag, info.headers, bytes), (copied, headers(), "text".into()));
    let again = store.copy(&from, &etag, &to, Some(&headers()), &Condition::Absent).await;
    assert_eq!(again, Err(StoreError::Conflict(to.to_string())));
    assert!(store.copy(&from, &stale(), &to, Some(&headers()), &Condition::Always).await.is_err());
    assert!(store.copy(&key("copies/none"), &etag, &to, Some(&headers()), &Condition::Always).await.is_err());
    store.copy(&from, &etag, &from, Some(&headers()), &Condition::Matches(etag.clone())).await.unwrap();
    assert_eq!(store.head(&from).await.unwrap().headers, headers());
    let as_it_is = key("copies/as it is");
    let copied = store.copy(&from, &etag, &as_it_is, None, &Condition::Absent).await.unwrap();
    let info = store.head(&as_it_is).await.unwrap();
    assert_eq!((info.etag, info.headers), (copied, headers()), "with its own headers");
    assert!(store.copy(&from, &etag, &as_it_is, None, &Condition::Absent).await.is_err());
}

async fn listings(store: &dyn ObjectStore) {
    let names = ["list/a", "list/a b+%é", "list/d/1", "list/d/2", "list/d-", "list/e/"];
    for name in names {
        store.put(&key(name), body("x"), &Headers::default(), &Condition::Always).await.unwrap();
    }
    let (mut keys, mut groups, mut token) = (vec![], vec![], None);
    loop {
        let page = store.list("list/", Some('/'), token.as_deref(), 2).await.unwrap();
        keys.extend(page.objects.into_iter().map(|object| object.key.to_string()));
        groups.extend(page.prefixes);
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(
        (keys, groups),
        (
            ["list/a", "list/a b+%é", "list/d-"].map(String::from).to_vec(),
            vec!["list/d/".to_owned(), "list/e/".to_owned()]
        )
    );
    let page = store.list("list/d", None, None, 1000).await.unwrap();
    let info = store.head(&key("list/d-")).await.unwrap();
    let first = &page.objects[0];
    assert_eq!((&first.key, &first.etag, first.size), (&key("list/d-"), &info.etag, info.size));
    assert_eq!(first.last_modified, info.last_modified);
    assert_eq!((page.objects.len(), page.next), (3, None));
}

async fn multipart(store: &dyn ObjectStore) {
    let name = key("multipart");
    let upload = store.multipart_begin(&name, &headers()).await.unwrap();
    let big = Body::Bytes(Bytes::from(vec![7; 5 << 20]));
    let second = store.multipart_put(&name, &upload, 2, body("end")).await.unwrap();
    let first = store.multipart_put(&name, &upload, 1, big).await.unwrap();
    let wrong = [first.clone(), Part { number: 2, etag: stale() }];
    let refused = store.multipart_complete(&name, &upload, &wrong, &Condition::Always).await;
    assert!(matches!(refused, Err(StoreError::Refused(..))), "{refused:?}");
    let parts = [first, second];
    let etag = store.multipart_complete(&name, &upload, &parts, &Condition::Absent).await.unwrap();
    let info = store.head(&name).await.unwrap();
    assert_eq!((&info.etag, info.size, info.headers), (&etag, (5 << 20) + 3, headers()));
    assert_eq!(store.get_range(&name, &etag, (5 << 20) - 1..info.size).await.unwrap(), "\u{7}end");
    let gone = store.multipart_complete(&name, &upload, &parts, &Condition::Always).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");

    let upload = store.multipart_begin(&name, &headers()).await.unwrap();
    let part = store.multipart_put(&name, &upload, 1, body("x")).await.unwrap();
    let late = store.multipart_complete(&name, &upload, &[part], &Condition::Absent).await;
    assert_eq!(late, Err(StoreError::Conflict(name.to_string())));
    store.multipart_abort(&name, &upload).await.unwrap();
    assert!(matches!(store.multipart_put(&name, &upload, 1, body("x")).await, Err(StoreError::NotFound(_))));
}

async fn files(store: &dyn ObjectStore) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    let bytes: Vec<u8> = (0..=250).cycle().take(3_000_000).collect();
    std::fs::write(&path, &bytes).unwrap();
    store.put(&key("file"), Body::file(&path, 1000..2_500_000), &headers(), &Condition::Always).await.unwrap();
    assert_eq!(store.get(&key("file")).await.unwrap().1, bytes[1000..2_500_000]);
}

#[tokio::test]
async fn the_fake_is_a_store() {
    suite(&MemoryStore::new()).await;
}

#[tokio::test]
#[ignore = "needs an S3 server: EC2MPI_TEST_S3=ENDPOINT/BUCKET"]
async fn a_server_is_a_store() {
    let place = std::env::var("EC2MPI_TEST_S3").expect("EC2MPI_TEST_S3=ENDPOINT/BUCKET");
    let (endpoint, bucket) = place.rsplit_once('/').expect("ENDPOINT/BUCKET");
    let prefix = format!("suite {}/", uuid::Uuid::new_v4());
    let settings =
        S3Settings { bucket: bucket.to_owned(), prefix, endpoint: Some(endpoint.to_owned()), ..S3Settings::default() };
    suite(&S3Store::connect(settings).await.unwrap()).await;
}
