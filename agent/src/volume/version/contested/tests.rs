use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::volume::Options;
use crate::volume::cache::Cache;
use crate::volume::journal::Journal;
use crate::volume::passthrough::{Access, Backing};
use crate::volume::store::Headers;
use crate::volume::store::memory::{MemoryStore, Operation};

struct Mounted {
    store: MemoryStore,
    volume: Arc<Volume>,
    _dir: tempfile::TempDir,
}

/// With `--attr-ttl 0`.
fn mounted() -> Mounted {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let mut options = Options::new(dir.path().join("none"), dir.path().join("cache"));
    options.attr_ttl = Duration::ZERO;
    let cache = Cache::open(&options.cache_dir).unwrap();
    let (journal, _) = Journal::open(&options.cache_dir).unwrap();
    let volume = Volume::new(Arc::new(store.clone()), options, cache, journal).unwrap();
    Mounted { store, volume: Arc::new(volume), _dir: dir }
}

/// There is no kernel that could read cache files.
fn refuse(_: &std::fs::File) -> std::io::Result<Backing> {
    Err(std::io::ErrorKind::Unsupported.into())
}

impl Mounted {
    fn insert(&self, bytes: impl Into<Bytes>) {
        self.store.insert("f", bytes, Headers::default());
    }

    async fn lookup(&self) -> Ino {
        self.volume.lookup(Ino::ROOT, "f").await.unwrap().ino
    }

    async fn open(&self, ino: Ino, access: Access) -> Result<u64> {
        self.volume.open(ino, access, &refuse).await.map(|opened| opened.handle)
    }

    async fn read(&self, handle: u64) -> Vec<u8> {
        let bytes = self.volume.read(handle, 0, 4096).await.unwrap();
        self.volume.release(handle).await.unwrap();
        bytes.to_vec()
    }

    /// What the kernel does in one open(2) of a program.
    async fn walk(&self) -> Result<u64> {
        match self.open(self.lookup().await, Access::READ).await {
            Err(VolumeError::Stale) => {
                // It finds that its inode is not the name's any more, and looks once more for the one that is.
                self.lookup().await;
                self.open(self.lookup().await, Access::READ).await
            }
            result => result,
        }
    }
}

#[tokio::test]
async fn the_second_lookup_brings_what_the_second_open_needs() {
    let mount = mounted();
    mount.insert("one");
    let first = mount.lookup().await;
    mount.insert("two");
    assert!(matches!(mount.open(first, Access::READ).await, Err(VolumeError::Stale)));
    let gets = mount.store.calls(Operation::Get);
    let second = mount.lookup().await;
    assert_eq!(mount.store.calls(Operation::Get), gets + 1);
    mount.insert("three");
    let handle = mount.open(second, Access::READ).await.unwrap();
    assert_eq!(mount.read(handle).await, b"two");
    // An open that begins now must see what was there before it.
    let handle = mount.open(mount.lookup().await, Access::READ).await.unwrap();
    assert_eq!(mount.read(handle).await, b"three");
}

#[tokio::test]
async fn a_name_that_nobody_replaces_is_not_fetched_at_its_lookup() {
    let mount = mounted();
    mount.insert("one");
    let ino = mount.lookup().await;
    assert_eq!((mount.store.calls(Operation::Get), mount.store.calls(Operation::GetRange)), (0, 0));
    mount.insert("two");
    assert_ne!(mount.lookup().await, ino);
    assert_eq!(mount.store.calls(Operation::Get), 0);
}

#[tokio::test]
async fn what_is_large_or_to_be_written_is_opened_though_it_was_replaced_again() {
    for (size, access) in [(2 << 20, Access::READ), (2 << 20, Access::WRITE), (5, Access::WRITE)] {
        let mount = mounted();
        let version = |byte: u8| vec![byte; size];
        mount.insert(version(1));
        let first = mount.lookup().await;
        mount.insert(version(2));
        mount.lookup().await;
        // Somebody else's lookup found the second version: the first is not opened, or it would be a conflict for sure.
        assert!(matches!(mount.open(first, access).await, Err(VolumeError::Stale)));
        let second = mount.lookup().await;
        mount.insert(version(3));
        let third = mount.lookup().await;
        assert!(second != third && mount.open(second, access).await.is_ok(), "{size} {access:?}");
    }
}

#[tokio::test]
async fn what_was_opened_to_be_changed_is_changed_though_it_was_replaced_before_the_first_write() {
    let mount = mounted();
    mount.insert("one");
    let handle = mount.open(mount.lookup().await, Access::WRITE).await.unwrap();
    mount.insert("two");
    mount.volume.write(handle, 0, b"O", false).await.unwrap();
    assert_eq!(mount.read(handle).await, b"One");
}

#[tokio::test]
async fn no_program_sees_estale_however_often_the_file_is_replaced() {
    let mount = Arc::new(mounted());
    mount.store.set_turns(3);
    mount.insert("0");
    let (written, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (mount, written, over) = (mount.clone(), written.clone(), over.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let before = written.load(Ordering::SeqCst);
                    let handle = mount.walk().await.unwrap();
                    let seen: u64 = String::from_utf8(mount.read(handle).await).unwrap().trim().parse().unwrap();
                    assert!((before..=written.load(Ordering::SeqCst)).contains(&seen), "{before} was there: {seen}");
                }
            })
        })
        .collect();
    for value in 1..2000 {
        mount.insert(format!("{value:>9}"));
        written.store(value, Ordering::SeqCst);
        for _ in 0..value % 7 {
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}

#[test]
fn names_are_forgotten_and_bounded() {
    let (contested, now) = (Contested::default(), Instant::now());
    for number in 0..=MOST {
        contested.note(Ino::ROOT, &number.to_string(), now);
    }
    assert_eq!(contested.names.lock().len(), MOST);
    assert!(contested.has(Ino::ROOT, "0", now) && !contested.has(Ino::ROOT, &MOST.to_string(), now));
    let later = now + WALK;
    assert!(!contested.has(Ino::ROOT, "0", later));
    contested.note(Ino::ROOT, "new", later);
    assert!(contested.has(Ino::ROOT, "new", later) && contested.names.lock().len() == 1);
}
