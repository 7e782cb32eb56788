use super::*;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text)
}

fn bytes(text: &'static str) -> Body {
    Body::Bytes(Bytes::from_static(text.as_bytes()))
}

async fn put(store: &MemoryStore, name: &str, condition: &Condition) -> Result<Etag, StoreError> {
    store.put(&key(name), bytes("x"), &Headers::default(), condition).await
}

#[tokio::test]
async fn conditions_decide_who_writes() {
    let store = MemoryStore::new();
    let first = put(&store, "a", &Condition::Absent).await.unwrap();
    assert_eq!(put(&store, "a", &Condition::Absent).await, Err(StoreError::Conflict("a".into())));
    assert_eq!(put(&store, "a", &Condition::Matches(first.clone())).await, Ok(first));
    let stale = Condition::Matches(Etag("\"00\"".into()));
    assert_eq!(put(&store, "a", &stale).await, Err(StoreError::Conflict("a".into())));
    assert_eq!(put(&store, "b", &stale).await, Err(StoreError::NotFound("b".into())));
    assert_eq!(store.delete(&key("a"), &stale).await, Err(StoreError::Conflict("a".into())));
    assert_eq!(store.keys(), ["a"]);
}

#[tokio::test]
async fn listing_groups_and_pages_in_byte_order() {
    let store = MemoryStore::new();
    for name in ["p/b/2", "p/a", "p/b/1", "p/b-", "q", "p/c/"] {
        store.insert(name, "v", Headers::default());
    }
    let (mut objects, mut prefixes, mut token, mut pages) = (vec![], vec![], None::<String>, 0);
    loop {
        let page = store.list("p/", Some('/'), token.as_deref(), 1).await.unwrap();
        objects.extend(page.objects.into_iter().map(|object| object.key.to_string()));
        prefixes.extend(page.prefixes);
        pages += 1;
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!((objects, prefixes, pages), (vec!["p/a".into(), "p/b-".into()], vec!["p/b/".into(), "p/c/".into()], 4));
    let flat = store.list("p/", None, None, 1000).await.unwrap();
    let names: Vec<_> = flat.objects.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(names, ["p/a", "p/b-", "p/b/1", "p/b/2", "p/c/"]);
    assert_eq!(flat.next, None);
}

#[tokio::test]
async fn ranges_are_pinned_to_a_version() {
    let store = MemoryStore::new();
    let etag = store.insert("a", "0123456789", Headers::default());
    assert_eq!(store.get_range(&key("a"), &etag, 2..4).await.unwrap(), "23");
    assert_eq!(store.get_range(&key("a"), &etag, 8..99).await.unwrap(), "89");
    assert!(matches!(store.get_range(&key("a"), &etag, 10..11).await, Err(StoreError::Refused(..))));
    store.insert("a", "other", Headers::default());
    assert_eq!(store.get_range(&key("a"), &etag, 0..1).await, Err(StoreError::Conflict("a".into())));
}

#[tokio::test]
async fn multipart_makes_one_object_of_its_parts() {
    let store = MemoryStore::new();
    let id = store.multipart_begin(&key("m"), &Headers::default()).await.unwrap();
    let big = Body::Bytes(Bytes::from(vec![7; 5 << 20]));
    let parts = vec![
        store.multipart_put(&key("m"), &id, 1, big).await.unwrap(),
        store.multipart_put(&key("m"), &id, 2, bytes("end")).await.unwrap(),
    ];
    assert_eq!(store.keys(), Vec::<String>::new());
    let etag = store.multipart_complete(&key("m"), &id, &parts, &Condition::Absent).await.unwrap();
    assert!(etag.0.ends_with("-2\""), "{etag:?}");
    assert_eq!(store.object("m").unwrap().0.size, (5 << 20) + 3);
    assert_eq!(store.open_uploads(), 0);
    assert!(matches!(store.multipart_abort(&key("m"), &id).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn faults_come_as_asked() {
    let store = MemoryStore::new();
    store.fail_next(Operation::Put, 1);
    store.apply_then_fail(Operation::Put);
    assert!(matches!(put(&store, "a", &Condition::Always).await, Err(StoreError::Transient(..))));
    assert_eq!(store.keys(), Vec::<String>::new());
    assert!(matches!(put(&store, "a", &Condition::Always).await, Err(StoreError::Transient(..))));
    assert_eq!(store.keys(), ["a"]);
    store.set_outage(true);
    assert!(matches!(store.head(&key("a")).await, Err(StoreError::Transient(..))));
    store.set_outage(false);
    assert!(store.head(&key("a")).await.is_ok());
    assert_eq!((store.calls(Operation::Put), store.calls(Operation::Head)), (2, 2));
}

#[tokio::test]
async fn a_body_can_be_a_range_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    std::fs::write(&path, "0123456789").unwrap();
    let store = MemoryStore::new();
    store.put(&key("a"), Body::file(&path, 3..6), &Headers::default(), &Condition::Always).await.unwrap();
    assert_eq!(store.object("a").unwrap().1, "345");
    let short = store.put(&key("b"), Body::file(&path, 3..60), &Headers::default(), &Condition::Always).await;
    assert!(matches!(short, Err(StoreError::Local(_))), "{short:?}");
}
