//! The local copies of file data: one file a version, named by a [`DataId`].
//!
//! A [`DataFile`] is deleted with its last owner: the inode that shows it and every queued upload of it; one that the
//! journal on disk may still name a little later ([`graves`]). Only what the journal names survives a restart; the rest
//! is removed by [`Cache::collect`].

mod exposure;
pub mod extents;
mod graves;
pub mod usage;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::exposure::Exposure;
use self::graves::Graves;
use self::usage::{Charge, Hold, Usage};
use super::journal::Position;

/// So many files are synced with all others of the file system: one commit instead of one for each.
const MANY: usize = 32;

/// Names one cache file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DataId(Uuid);

impl std::fmt::Display for DataId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// The directory of all data files, and the one beside it for what could not be uploaded.
#[derive(Debug, Clone)]
pub struct Cache {
    data: PathBuf,
    lost: PathBuf,
    /// Set when the volume ends: from then on no data file is deleted any more.
    frozen: Arc<AtomicBool>,
    usage: Arc<Usage>,
    graves: Arc<Graves>,
}

impl Cache {
    /// The cache below `dir`, made where it is missing, readable by its owner only.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (data, lost) = (dir.join("data"), dir.join("lost+found"));
        for path in [dir, data.as_path(), lost.as_path()] {
            make_private_dir(path)?;
        }
        Ok(Self { data, lost, frozen: Arc::default(), usage: Arc::default(), graves: Arc::default() })
    }

    /// A new, empty data file.
    pub fn create(&self) -> io::Result<Arc<DataFile>> {
        let id = DataId(Uuid::new_v4());
        let path = self.path(id);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        self.adopt(id, path, file)
    }

    /// A data file that an earlier process left.
    pub fn reopen(&self, id: DataId) -> io::Result<Arc<DataFile>> {
        let path = self.path(id);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let data = self.adopt(id, path, file)?;
        data.note_named();
        Ok(data)
    }

    /// A copy of a data file, with its holes.
    pub fn duplicate(&self, original: &DataFile) -> io::Result<Arc<DataFile>> {
        let copy = self.create()?;
        // A handle of its own: looking for data moves the offset.
        let source = File::open(&original.path)?;
        let length = source.metadata()?.len();
        copy.file.set_len(length)?;
        let mut at = 0;
        while let Some(range) = next_data(&source, at, length)? {
            copy_range(&source, &copy.file, range.clone())?;
            at = range.end;
        }
        copy.measure(Hold::Dirty)?;
        Ok(copy)
    }

    /// What all data files take.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Set when the volume ends.
    pub(crate) fn frozen(&self) -> Arc<AtomicBool> {
        self.frozen.clone()
    }

    /// What lost+found says was to be done with its files.
    pub(crate) fn lost_notes(&self) -> io::Result<Vec<Vec<u8>>> {
        lost_notes(&self.lost)
    }

    /// Removes every data file that is not in `named`.
    pub fn collect(&self, named: &HashSet<DataId>) -> io::Result<()> {
        let named: HashSet<String> = named.iter().map(ToString::to_string).collect();
        for entry in std::fs::read_dir(&self.data)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| named.contains(name)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Brings data files to the disk, with their names; says of each whether it is there.
    pub(crate) fn sync<'a>(&self, files: impl ExactSizeIterator<Item = &'a DataFile>) -> Vec<io::Result<()>> {
        let results: Vec<io::Result<()>> = if files.len() > MANY {
            let all = File::open(&self.data).and_then(|dir| Ok(nix::unistd::syncfs(&dir)?));
            files.map(|_| again(&all)).collect()
        } else {
            files.map(|data| data.file.sync_data()).collect()
        };
        let names = crate::durable::sync_dir(&self.data);
        results.into_iter().map(|result| result.and_then(|()| again(&names))).collect()
    }

    /// Data files without owners that the journal on disk may still name.
    pub(crate) fn take_graves(&self) -> Graves {
        self.graves.take()
    }

    /// Keeps a data file in lost+found under `name` for the user to find, and beside it, as `name.json`, what was to be
    /// done with it; returns its place.
    pub fn keep_lost(&self, data: &DataFile, name: &str, what: &impl Serialize) -> io::Result<PathBuf> {
        let place = self.lost.join(name);
        data.file.sync_all()?;
        match std::fs::hard_link(&data.path, &place) {
            // A process that died did it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        crate::durable::overwrite(&self.lost.join(format!("{name}.json")), 0o600, &serde_json::to_vec(what)?)?;
        Ok(place)
    }

    /// How many files are in lost+found: those that have a `.json` beside them.
    pub fn lost_files(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.lost) else { return 0 };
        let names: HashSet<_> = entries.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
        let has_note = |name: &std::ffi::OsString| {
            let mut note = name.clone();
            note.push(".json");
            names.contains(&note)
        };
        names.iter().filter(|name| has_note(name)).count() as u64
    }

    /// From now on nothing is deleted: the process ends, and the journal decides at the next start.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    fn path(&self, id: DataId) -> PathBuf {
        self.data.join(id.to_string())
    }

    fn adopt(&self, id: DataId, path: PathBuf, file: File) -> io::Result<Arc<DataFile>> {
        exposure::announce_quietly(&file)?;
        let (charge, exposure) = (Charge::none(self.usage.clone()), Exposure::none(self.usage.clone()));
        let (frozen, graves) = (self.frozen.clone(), self.graves.clone());
        let (named, needed_until) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Arc::new(DataFile { id, path, file, frozen, graves, named, needed_until, charge, exposure }))
    }
}

/// The same result once more.
fn again(result: &io::Result<()>) -> io::Result<()> {
    result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// What the files of a lost+found say was to be done with those beside them.
pub(crate) fn lost_notes(lost: &Path) -> io::Result<Vec<Vec<u8>>> {
    let paths = std::fs::read_dir(lost)?.map(|entry| entry.map(|entry| entry.path()));
    let paths = paths.collect::<io::Result<Vec<PathBuf>>>()?;
    let notes = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    notes.map(std::fs::read).collect()
}

/// The next range from `at` on that is not a hole.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<Range<u64>>> {
    if at >= length {
        return Ok(None);
    }
    let offset = |at: u64| i64::try_from(at).map_err(io::Error::other);
    let start = match lseek(file, offset(at)?, Whence::SeekData) {
        Ok(start) => start,
        Err(nix::errno::Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = lseek(file, start, Whence::SeekHole)?;
    let bytes = |at: i64| u64::try_from(at).map_err(io::Error::other);
    Ok(Some(bytes(start)?..bytes(end)?.min(length)))
}

fn copy_range(source: &File, target: &File, range: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
        source.read_exact_at(&mut buffer[..length], at)?;
        target.write_all_at(&buffer[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// One cache file, open. Its length is the length of the file it caches.
#[derive(Debug)]
pub struct DataFile {
    /// Its name in the journal.
    pub id: DataId,
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading and writing.
    pub file: File,
    frozen: Arc<AtomicBool>,
    graves: Arc<Graves>,
    /// The journal names it, or did.
    named: AtomicBool,
    /// A journal on disk that ends before this position needs its bytes.
    needed_until: AtomicU64,
    charge: Charge,
    exposure: Exposure,
}

impl DataFile {
    /// The journal is about to name it.
    pub(crate) fn note_named(&self) {
        self.named.store(true, Ordering::Relaxed);
    }

    /// No journal names it any more, neither in memory nor on disk.
    pub(crate) fn note_unnamed(&self) {
        self.named.store(false, Ordering::Relaxed);
    }

    /// The journal says at `position` that its bytes are not needed any more.
    pub(crate) fn set_needed_until(&self, position: Position) {
        self.needed_until.fetch_max(position.0, Ordering::Relaxed);
    }

    /// A journal on disk that ends before this position needs its bytes.
    pub(crate) fn needed_until(&self) -> Position {
        Position(self.needed_until.load(Ordering::Relaxed))
    }

    /// Measures what it takes on the disk, and counts it as `hold`.
    pub fn measure(&self, hold: Hold) -> io::Result<()> {
        self.charge.set(hold, self.file.metadata()?.blocks() * 512);
        Ok(())
    }

    /// Counts what it took when it was measured as `hold`.
    pub fn hold(&self, hold: Hold) {
        self.charge.set(hold, self.charge.bytes());
    }

    /// Measures again what it takes on the disk.
    pub fn remeasure(&self) -> io::Result<()> {
        self.measure(self.charge.hold())
    }

    /// Bytes on disk, when it was last measured.
    pub fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Gives the disk space of `range` back; its bytes are zero then.
    pub fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let offset = |at: u64| i64::try_from(at).map_err(io::Error::other);
        Ok(fallocate(&self.file, flags, offset(range.start)?, offset(range.end - range.start)?)?)
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        if self.frozen.load(Ordering::SeqCst) {
            return;
        }
        let path = std::mem::take(&mut self.path);
        match self.named.load(Ordering::Relaxed) {
            true => self.graves.add(path),
            false => graves::remove(&path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_lives_as_long_as_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let one = cache.create().unwrap();
        one.file.write_all_at(b"abc", 0).unwrap();
        let two = cache.duplicate(&one).unwrap();
        one.file.write_all_at(b"X", 0).unwrap();
        assert_eq!(std::fs::read(&two.path).unwrap(), b"abc");
        let (path, second) = (one.path.clone(), one.clone());
        drop(one);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_copy_has_the_holes_of_the_original() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let one = cache.create().unwrap();
        one.file.write_all_at(&[7; 300_000], 0).unwrap();
        one.file.write_all_at(&[8; 100], 64 << 20).unwrap();
        one.punch(65_536..131_072).unwrap();
        one.measure(Hold::Clean).unwrap();
        let two = cache.duplicate(&one).unwrap();
        assert!(std::fs::read(&one.path).unwrap() == std::fs::read(&two.path).unwrap());
        assert!(two.bytes() < 1 << 20 && two.bytes() > 200_000, "{}", two.bytes());
        assert_eq!((cache.usage().clean(), cache.usage().dirty()), (one.bytes(), two.bytes()));
        drop(two);
        assert_eq!(cache.usage().dirty(), 0);
    }

    #[test]
    fn only_what_the_journal_names_survives() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let (kept, other) = (cache.create().unwrap(), cache.create().unwrap());
        let (kept_id, kept_path, other_path) = (kept.id, kept.path.clone(), other.path.clone());
        cache.freeze();
        drop((kept, other));
        assert!(kept_path.exists() && other_path.exists());
        let cache = Cache::open(dir.path()).unwrap();
        cache.collect(&HashSet::from([kept_id])).unwrap();
        assert!(kept_path.exists() && !other_path.exists());
        assert!(cache.reopen(kept_id).is_ok());
    }

    #[test]
    fn what_is_lost_can_be_found() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let data = cache.create().unwrap();
        data.file.write_all_at(b"precious", 0).unwrap();
        let place = cache.keep_lost(&data, "7-result.txt", &"why").unwrap();
        drop(data);
        assert_eq!(std::fs::read(place).unwrap(), b"precious");
        assert_eq!(cache.lost_files(), 1);
    }
}
