use super::*;
use crate::volume::Options;
use crate::volume::cache::Cache;
use crate::volume::journal::{Base, Journal, file};
use crate::volume::ops::Caller;
use crate::volume::ops::namespace::IfThere;
use crate::volume::passthrough::{Access, Backing};
use crate::volume::store::memory::MemoryStore;
use crate::volume::tree::Ino;

struct Mounted {
    volume: Arc<Volume>,
    dir: tempfile::TempDir,
}

/// Nothing comes to the disk by itself, nor to S3 before [`Mounted::upload`].
fn mounted() -> Mounted {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path().join("none"), dir.path().join("cache"));
    let cache = Cache::open(&options.cache_dir).unwrap();
    let (journal, _) = Journal::open(&options.cache_dir).unwrap();
    let volume = Volume::new(Arc::new(MemoryStore::new()), options, cache, journal).unwrap().share();
    Mounted { volume, dir }
}

fn refuse(_: &std::fs::File) -> std::io::Result<Backing> {
    Err(std::io::ErrorKind::Unsupported.into())
}

impl Mounted {
    /// Writes a new file and closes it.
    async fn write(&self, name: &str) -> Ino {
        let caller = Caller { uid: 1, gid: 1, umask: 0 };
        let how = (IfThere::Open, Access::WRITE);
        let made = self.volume.create(Ino::ROOT, name, 0o644, caller, how, &refuse).await.unwrap();
        self.change(made.opened.handle).await;
        made.stat.ino
    }

    async fn change(&self, handle: u64) {
        self.volume.write(handle, 0, b"bytes", false).await.unwrap();
        self.volume.flush(handle).await.unwrap();
        self.volume.release(handle).await.unwrap();
    }

    /// On disk, and uploaded since, which the disk does not know.
    async fn upload(&self, name: &str) -> Ino {
        let ino = self.write(name).await;
        self.volume.settle_group().await.unwrap();
        tokio::spawn(self.volume.clone().write_back());
        self.drain().await;
        assert!(!self.is_all_on_disk());
        ino
    }

    async fn drain(&self) {
        self.volume.drain(Duration::from_secs(10)).await.unwrap();
    }

    fn cache_files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("cache/data")).unwrap().count()
    }

    fn is_all_on_disk(&self) -> bool {
        self.volume.journal.has_synced(self.volume.journal.position())
    }

    fn synced(&self) -> Vec<Seq> {
        let (records, _) = file::look(&self.dir.path().join("cache/journal")).unwrap();
        let seqs = records.into_iter().filter_map(|record| match record {
            Record::Synced { seqs } => Some(seqs),
            _ => None,
        });
        seqs.flatten().collect()
    }
}

#[tokio::test]
async fn a_group_says_what_it_brought_to_the_disk() {
    let mount = mounted();
    mount.write("a").await;
    mount.write("b").await;
    assert!(mount.synced().is_empty() && !mount.is_all_on_disk());
    mount.volume.settle_group().await.unwrap();
    assert!(mount.is_all_on_disk());
    let unfinished = mount.volume.queue.outstanding(|_| true);
    assert_eq!((unfinished.len(), unfinished), (2, mount.synced()));
    // There is nothing more to do.
    let before = mount.volume.journal.position();
    mount.volume.settle_group().await.unwrap();
    assert_eq!(mount.volume.journal.position(), before);
}

#[tokio::test]
async fn a_cache_file_stays_as_long_as_the_journal_on_disk_names_it() {
    let mount = mounted();
    let ino = mount.upload("f").await;
    mount.volume.truncate(ino, 0).await.unwrap();
    assert_eq!(mount.cache_files(), 2, "the old bytes and the new ones");
    mount.volume.settle_group().await.unwrap();
    assert_eq!(mount.cache_files(), 1);
}

#[tokio::test]
async fn bytes_that_the_journal_on_disk_needs_are_not_changed() {
    let mount = mounted();
    let ino = mount.upload("f").await;
    let content = mount.volume.tree().get(ino).unwrap().content().unwrap();
    let data = content.state.read().await.data.clone().unwrap();
    assert!(!mount.volume.is_released(&data));
    let opened = mount.volume.open(ino, Access::WRITE, &refuse).await.unwrap();
    mount.volume.write(opened.handle, 0, b"other", false).await.unwrap();
    assert!(mount.volume.is_released(&data), "the end of the upload is on disk before the first new byte");
}

#[tokio::test]
async fn what_is_evicted_is_not_named_on_disk() {
    let mount = mounted();
    mount.upload("f").await;
    mount.volume.evict_all().await;
    assert!(mount.is_all_on_disk());
    assert_eq!(mount.cache_files(), 0);
}

#[tokio::test]
async fn an_operation_that_builds_on_another_waits_until_that_is_remembered() {
    let mount = mounted();
    mount.upload("f").await;
    let ended = mount.volume.journal.position();
    mount.write("g").await;
    let other = Op::Delete { path: "h".into(), base: Base::Absent };
    mount.volume.remember_before(&other).await;
    assert!(!mount.volume.journal.has_synced(ended), "another name has nothing to wait for");
    mount.volume.unlink(Ino::ROOT, "f").await.unwrap();
    mount.drain().await;
    assert!(mount.volume.journal.has_synced(ended));
}
