//! `repair`: what dead nodes and other programs left in a bucket prefix, and what a dead node still has in its cache
//! directory. It lists; with `--delete` it removes what nobody can need any more.
//!
//! - multipart uploads that were begun and not ended (they cost money and are in no listing);
//! - spilled parts of files that were never finished;
//! - objects that a move copied and did not delete: both names have the same write id;
//! - attribute records of directories that are gone;
//! - conflict copies, for somebody to look at;
//! - `.fuse_hidden*`, files that were deleted while open on an s3fs mount.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::attr;
use super::cache::lost_notes;
use super::journal::{self, Op};
use super::records;
use super::replay::named_spills;
use super::spill;
use super::store::retry::{RetryPolicy, Retrying};
use super::store::s3::S3Store;
use super::store::{Condition, ListedObject, ListedUpload, ObjectKey, ObjectStore, StoreError};
use super::version::directory_key;

/// Objects asked about at a time.
const PARALLEL: usize = 16;

/// `repair BUCKET[/PREFIX]`.
#[derive(Debug, Clone, clap::Args)]
pub struct RepairArgs {
    /// The bucket, with a prefix if only a part of it is to be looked at.
    pub bucket: String,
    /// URL of the S3 server, for one that is not AWS.
    #[arg(long)]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long)]
    pub region: Option<String>,
    /// A cache directory of which no volume is mounted: list what its journal has not brought to S3, and keep the spilled
    /// parts that it needs for that.
    #[arg(long)]
    pub cache_dir: Option<PathBuf>,
    /// Remove unfinished uploads, spilled parts, files hidden by s3fs and records of directories that are gone, where they are
    /// older than --older-than-hours.
    #[arg(long)]
    pub delete: bool,
    /// What is younger may belong to a volume that is mounted somewhere.
    #[arg(long, default_value_t = 24)]
    pub older_than_hours: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Findings {
    /// Keys and ids.
    uploads: Vec<(String, String)>,
    spilled: Vec<String>,
    spilled_bytes: u64,
    hidden: Vec<String>,
    /// Attribute records of directories that are gone.
    records: Vec<String>,
    conflicts: Vec<String>,
    /// Names of one and the same write.
    copied_twice: Vec<Vec<String>>,
    /// What a journal has not brought to S3.
    unfinished: Vec<String>,
    /// Files that could not be uploaded.
    lost: Vec<String>,
    /// Bytes at the journal's end that are no whole record.
    torn_bytes: usize,
    deleted: usize,
}

/// What a cache directory says.
#[derive(Debug, Default)]
struct Cached {
    unfinished: Vec<String>,
    lost: Vec<String>,
    torn_bytes: usize,
    /// Objects that its journal and its lost+found name.
    spilled: HashSet<String>,
}

/// Looks, prints, and removes what it was told to.
pub fn run(args: &RepairArgs) -> anyhow::Result<()> {
    let settings = super::mount::bucket_settings(&args.bucket, args.region.clone(), args.endpoint.clone())?;
    // First: what cannot be read must not lose what it needs.
    let cached = args.cache_dir.as_deref().map(look_at_cache).transpose()?.unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(async {
        let store = S3Store::connect(settings).await.context("setting up the S3 client")?;
        let store: Arc<dyn ObjectStore> = Arc::new(Retrying::new(store, RetryPolicy::default()));
        let before = SystemTime::now() - Duration::from_secs(args.older_than_hours * 3600);
        let mut findings = find(&*store, before, cached).await.context("looking at the bucket")?;
        if args.delete {
            remove(&*store, &mut findings).await.context("removing what was left")?;
        }
        anyhow::Ok(findings)
    })?;
    match args.json {
        true => println!("{}", serde_json::to_string(&findings)?),
        false => print!("{}", describe(&findings, args)),
    }
    Ok(())
}

/// What there is; of what can be removed, only what was there before `before`.
async fn find(store: &dyn ObjectStore, before: SystemTime, cached: Cached) -> Result<Findings, StoreError> {
    let uploads = match store.multipart_list("").await {
        Err(StoreError::Refused(_, _)) => Vec::new(),
        result => result?,
    };
    let objects = list(store).await?;
    let (records, objects): (Vec<_>, Vec<_>) =
        objects.into_iter().partition(|object| records::directory_of(object.key.as_str()).is_some());
    let objects: Vec<ListedObject> =
        objects.into_iter().filter(|object| !cached.spilled.contains(object.key.as_str())).collect();
    let mut findings = sort(&objects, &uploads, before);
    findings.records = orphaned(&records, &objects, before);
    (findings.unfinished, findings.lost) = (cached.unfinished, cached.lost);
    findings.torn_bytes = cached.torn_bytes;
    findings.copied_twice = copied_twice(store, &objects).await?;
    Ok(findings)
}

async fn list(store: &dyn ObjectStore) -> Result<Vec<ListedObject>, StoreError> {
    let (mut objects, mut token) = (Vec::new(), None);
    loop {
        let page = store.list("", None, token.as_deref(), 1000).await?;
        objects.extend(page.objects);
        token = page.next;
        if token.is_none() {
            return Ok(objects);
        }
    }
}

fn sort(objects: &[ListedObject], uploads: &[ListedUpload], before: SystemTime) -> Findings {
    let mut findings = Findings::default();
    let old = uploads.iter().filter(|upload| upload.begun < before);
    findings.uploads = old.map(|upload| (upload.key.to_string(), upload.id.clone())).collect();
    let spill_prefix = format!("{}/", spill::DIRECTORY);
    for object in objects {
        let (key, old) = (object.key.to_string(), object.last_modified < before);
        let name = key.rsplit('/').next().unwrap_or(&key);
        if key.starts_with(&spill_prefix) {
            if old {
                findings.spilled_bytes += object.size;
                findings.spilled.push(key);
            }
        } else if name.starts_with(".fuse_hidden") {
            if old {
                findings.hidden.push(key);
            }
        } else if is_conflict_copy(name) {
            findings.conflicts.push(key);
        }
    }
    findings
}

/// Records of directories of which there is no key.
fn orphaned(records: &[ListedObject], objects: &[ListedObject], before: SystemTime) -> Vec<String> {
    let keys: BTreeSet<&str> = objects.iter().map(|object| object.key.as_str()).collect();
    let is_gone = |record: &&ListedObject| {
        let prefix = directory_key(records::directory_of(record.key.as_str()).unwrap_or_default());
        let first = keys.range(prefix.as_str()..).next();
        record.last_modified < before && !first.is_some_and(|key| key.starts_with(&prefix))
    };
    records.iter().filter(is_gone).map(|record| record.key.to_string()).collect()
}

/// `NAME.conflict-NODE-20231114T221320Z`, perhaps with a suffix.
fn is_conflict_copy(name: &str) -> bool {
    let Some((_, rest)) = name.split_once(".conflict-") else { return false };
    rest.split('-').any(|word| {
        word.len() == 16 && word.ends_with('Z') && word.as_bytes()[8] == b'T' && word[..8].parse::<u32>().is_ok()
    })
}

/// Objects with the same bytes are asked for the write that made them.
async fn copied_twice(store: &dyn ObjectStore, objects: &[ListedObject]) -> Result<Vec<Vec<String>>, StoreError> {
    let mut same: HashMap<(&str, u64), Vec<&ObjectKey>> = HashMap::new();
    for object in objects.iter().filter(|object| object.size > 0) {
        same.entry((&object.etag.0, object.size)).or_default().push(&object.key);
    }
    let candidates: Vec<&ObjectKey> = same.into_values().filter(|keys| keys.len() > 1).flatten().collect();
    let writes: Vec<Option<(String, String)>> = futures::stream::iter(candidates)
        .map(|key| async move {
            match store.head(key).await {
                Ok(info) => Ok(attr::write_id(&info.headers).map(|write| (write.to_string(), key.to_string()))),
                Err(StoreError::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    let mut by_write: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (write, key) in writes.into_iter().flatten() {
        by_write.entry(write).or_default().push(key);
    }
    let twice = by_write.into_values().filter(|keys| keys.len() > 1);
    Ok(twice
        .map(|mut keys| {
            keys.sort();
            keys
        })
        .collect())
}

async fn remove(store: &dyn ObjectStore, findings: &mut Findings) -> Result<(), StoreError> {
    for (key, id) in &findings.uploads {
        store.multipart_abort(&ObjectKey::new(key), id).await?;
        findings.deleted += 1;
    }
    for key in findings.spilled.iter().chain(&findings.hidden).chain(&findings.records) {
        store.delete(&ObjectKey::new(key), &Condition::Always).await?;
        findings.deleted += 1;
    }
    Ok(())
}

/// Nothing is changed.
fn look_at_cache(dir: &Path) -> anyhow::Result<Cached> {
    let path = dir.join("journal");
    anyhow::ensure!(path.is_file(), "{} is not the cache directory of a volume: it has no journal", dir.display());
    let (records, torn) = journal::file::look(&path).with_context(|| format!("reading {}", path.display()))?;
    let left = journal::unfinished(records, None);
    let lost_dir = dir.join("lost+found");
    let reading = || format!("reading {}", lost_dir.display());
    let spilled = named_spills(&left, &lost_notes(&lost_dir).with_context(reading)?);
    let mut lost = Vec::new();
    for entry in std::fs::read_dir(&lost_dir).with_context(reading)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            lost.push(path.display().to_string());
        }
    }
    lost.sort();
    let unfinished = left.values().map(|entry| say(&entry.op)).collect();
    Ok(Cached { unfinished, lost, torn_bytes: torn.len(), spilled })
}

fn say(op: &Op) -> String {
    match op {
        Op::Put { path, .. } => format!("upload {path}"),
        Op::Salvage { path, .. } => format!("look whether S3 has {path}, which was written as the machine went down"),
        Op::Symlink { path, .. } => format!("link {path}"),
        Op::Mknod { path, .. } => format!("special file {path}"),
        Op::Delete { path, .. } => format!("delete {path}"),
        Op::Rename { from, to, .. } | Op::RenameDir { from, to, .. } => format!("move {from} to {to}"),
        Op::SetAttr { path, .. } => format!("change attributes of {path}"),
        Op::Mkdir { path, .. } => format!("make directory {path}"),
        Op::Rmdir { path } => format!("remove directory {path}"),
    }
}

fn describe(findings: &Findings, args: &RepairArgs) -> String {
    let mut text = String::new();
    let mut section = |what: &str, lines: Vec<String>| {
        text.push_str(&format!("{what}: {}\n", lines.len()));
        lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    };
    let age = args.older_than_hours;
    let uploads = findings.uploads.iter().map(|(key, id)| format!("{key} ({id})")).collect();
    section(&format!("uploads begun and not ended, over {age} h old"), uploads);
    let bytes = findings.spilled_bytes;
    section(&format!("spilled parts of unfinished files, over {age} h old, {bytes} bytes"), findings.spilled.clone());
    section(&format!("hidden by s3fs, over {age} h old"), findings.hidden.clone());
    section(&format!("attribute records of directories that are gone, over {age} h old"), findings.records.clone());
    section("conflict copies", findings.conflicts.clone());
    let twice = findings.copied_twice.iter().map(|keys| keys.join(" = ")).collect();
    section("copied by a move and not deleted", twice);
    if args.cache_dir.is_some() {
        section("in the journal and not in S3 (mount with this cache directory to bring it there)", {
            findings.unfinished.clone()
        });
        section("could not be uploaded", findings.lost.clone());
    }
    if findings.torn_bytes > 0 {
        text.push_str(&format!("the journal ends in {} bytes that are no whole record\n", findings.torn_bytes));
    }
    match args.delete {
        true => text.push_str(&format!("removed: {}\n", findings.deleted)),
        false => text.push_str("nothing was changed; --delete removes what the first four list\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::store::Headers;
    use crate::volume::store::memory::MemoryStore;

    #[tokio::test]
    async fn what_was_left_is_found_and_removed_and_the_rest_stays() {
        let store = MemoryStore::new();
        let written = |id: u128| {
            let id = uuid::Uuid::from_u128(id).to_string();
            Headers { metadata: [(attr::WRITE_ID.to_owned(), id)].into(), ..Headers::default() }
        };
        store.insert("a/x", "moved", written(1));
        store.insert("b/x", "moved", written(1));
        store.insert("c", "moved", written(2));
        store.insert("d/f.conflict-n-20231114T221320Z", "loser", Headers::default());
        store.insert("d/f.conflict-of-interest", "a text", Headers::default());
        store.insert("d/.fuse_hidden0001", "deleted", Headers::default());
        store.insert(".ec2mpi-spill/c/p/1", "part", Headers::default());
        for key in [".ec2mpi-attrs/d/.ec2mpi-attrs", ".ec2mpi-attrs/gone/.ec2mpi-attrs"] {
            store.insert(key, "record", Headers::default());
        }
        let upload = store.multipart_begin(&ObjectKey::new("big"), &Headers::default()).await.unwrap();
        let young = find(&store, SystemTime::now() - Duration::from_secs(3600), Cached::default()).await.unwrap();
        assert!(young.uploads.is_empty() && young.spilled.is_empty() && young.hidden.is_empty());
        let later = SystemTime::now() + Duration::from_secs(1);
        let needs = Cached { spilled: [".ec2mpi-spill/c/p/1".to_owned()].into(), ..Cached::default() };
        assert!(find(&store, later, needs).await.unwrap().spilled.is_empty());
        let mut findings = find(&store, later, Cached::default()).await.unwrap();
        assert_eq!(findings.uploads, [("big".to_owned(), upload)]);
        assert_eq!(findings.spilled, [".ec2mpi-spill/c/p/1"]);
        assert_eq!((findings.spilled_bytes, findings.hidden.as_slice()), (4, &["d/.fuse_hidden0001".to_owned()][..]));
        assert_eq!(findings.records, [".ec2mpi-attrs/gone/.ec2mpi-attrs"]);
        assert_eq!(findings.conflicts, ["d/f.conflict-n-20231114T221320Z"]);
        assert_eq!(findings.copied_twice, [["a/x", "b/x"]]);
        remove(&store, &mut findings).await.unwrap();
        assert_eq!((findings.deleted, store.open_uploads()), (4, 0));
        let left = [
            ".ec2mpi-attrs/d/.ec2mpi-attrs",
            "a/x",
            "b/x",
            "c",
            "d/f.conflict-n-20231114T221320Z",
            "d/f.conflict-of-interest",
        ];
        assert_eq!(store.keys(), left);
    }

    #[test]
    fn a_journal_tells_what_is_not_in_s3() {
        let dir = tempfile::tempdir().unwrap();
        assert!(look_at_cache(dir.path()).unwrap_err().to_string().contains("no journal"));
        drop(crate::volume::cache::Cache::open(dir.path()).unwrap());
        let (journal, _) = journal::Journal::open(dir.path()).unwrap();
        let op = Op::RenameDir { from: "a".into(), to: "b".into(), attr: None };
        journal
            .append(&journal::Record::Begin { seq: journal::Seq(1), op, supersedes: vec![], on_disk: false })
            .unwrap();
        std::fs::write(dir.path().join("lost+found/1-x"), "x").unwrap();
        std::fs::write(dir.path().join("lost+found/1-x.json"), "{}").unwrap();
        let cached = look_at_cache(dir.path()).unwrap();
        assert_eq!(cached.unfinished, ["move a to b"]);
        assert_eq!((cached.lost.len(), cached.torn_bytes), (1, 0));
    }
}
