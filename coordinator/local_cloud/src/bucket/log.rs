//! An append-only log of records that survives being killed at any instant.
//!
//! One line a record: CRC-32 in hex, a space, JSON. A process killed while it writes leaves at most a torn tail, which
//! is cut off at the next start; a bad line anywhere else is damage and refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The extension of a log that is to replace the one there is.
const NEW: &str = "new";

/// So much of the disk is set aside for records that free room: a full disk can be cleared.
const RESERVE: u64 = 1 << 20;

/// Less is not worth setting aside.
const MIN_RESERVE: u64 = 16 << 10;

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    /// Up to here the disk has room for the file.
    room: u64,
    records: usize,
    broken: bool,
}

impl Log {
    /// Opens the log (made when absent) and hands every record to `apply`, in order.
    pub(super) fn open<R: DeserializeOwned>(
        path: &Path,
        mut apply: impl FnMut(R) -> io::Result<()>,
    ) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let total = file.metadata()?.len();
        let mut reader = BufReader::new(&file);
        let (mut length, mut records, mut line) = (0, 0, Vec::new());
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)? as u64;
            let Some(record) = decode(&line) else {
                if length + read < total {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("damaged at byte {length}")));
                }
                break;
            };
            apply(record)?;
            length += read;
            records += 1;
        }
        if length < total {
            file.set_len(length)?;
        }
        remove_if_there(&path.with_extension(NEW))?;
        let mut log = Self { path: path.to_owned(), file, length, room: length, records, broken: false };
        log.set_aside_what_is_there();
        Ok(log)
    }

    /// Records in the log.
    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Sees to it that there is room for records that free room. To be called before others are appended.
    pub(super) fn set_aside(&mut self) -> io::Result<()> {
        if self.room >= self.length + RESERVE { Ok(()) } else { self.allocate(2 * RESERVE) }
    }

    /// Sets aside what there is, if less than that.
    fn set_aside_what_is_there(&mut self) {
        let mut size = 2 * RESERVE;
        while let Err(error) = self.allocate(size) {
            size /= 2;
            if size < MIN_RESERVE {
                tracing::warn!(%error, "no room could be set aside for the bucket log");
                break;
            }
        }
    }

    /// Makes room for so many bytes more.
    fn allocate(&mut self, size: u64) -> io::Result<()> {
        let offset = i64::try_from(self.length).map_err(io::Error::other)?;
        loop {
            match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, size.cast_signed()) {
                Err(Errno::EINTR) => {}
                // Some file systems cannot: deletions take their chances there.
                Ok(()) | Err(Errno::EOPNOTSUPP) => {
                    self.room = self.length + size;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Appends records: all of them or, with an error, none.
    pub(super) fn append<R: Serialize>(&mut self, records: &[R]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the log could not be repaired after a failed write"));
        }
        let mut bytes = Vec::new();
        for record in records {
            encode(record, &mut bytes)?;
        }
        self.file.seek(SeekFrom::Start(self.length))?;
        if let Err(error) = self.file.write_all(&bytes) {
            self.broken = self.file.set_len(self.length).is_err();
            self.room = self.length;
            self.set_aside_what_is_there();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.records += records.len();
        Ok(())
    }

    /// Replaces the log by one with `records` alone.
    pub(super) fn rewrite<R: Serialize>(&mut self, records: impl Iterator<Item = R>) -> io::Result<()> {
        let path = self.path.with_extension(NEW);
        let (file, length, count) = write_all(&path, records).inspect_err(|_| {
            let _ = remove_if_there(&path);
        })?;
        fs::rename(&path, &self.path)?;
        let path = std::mem::take(&mut self.path);
        *self = Self { path, file, length, room: length, records: count, broken: false };
        self.set_aside_what_is_there();
        Ok(())
    }
}

/// A new file with these records, its length and their number.
fn write_all<R: Serialize>(path: &Path, records: impl Iterator<Item = R>) -> io::Result<(File, u64, usize)> {
    let mut writer = BufWriter::new(File::create(path)?);
    let (mut count, mut bytes) = (0, Vec::new());
    for record in records {
        bytes.clear();
        encode(&record, &mut bytes)?;
        writer.write_all(&bytes)?;
        count += 1;
    }
    let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    let length = file.stream_position()?;
    Ok((file, length, count))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn encode<R: Serialize>(record: &R, bytes: &mut Vec<u8>) -> io::Result<()> {
    let json = serde_json::to_vec(record)?;
    write!(bytes, "{:08x} ", crc32fast::hash(&json))?;
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    Ok(())
}

/// The record of a complete, undamaged line.
fn decode<R: DeserializeOwned>(line: &[u8]) -> Option<R> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, json) = (line.get(..8)?, line.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if crc32fast::hash(json) != sum {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(path: &Path) -> io::Result<Vec<String>> {
        let mut seen = Vec::new();
        Log::open(path, |record| {
            seen.push(record);
            Ok(())
        })?;
        Ok(seen)
    }

    fn written(path: &Path, records: &[&str]) -> Vec<u8> {
        let mut log = Log::open::<String>(path, |_| Ok(())).unwrap();
        log.append(records).unwrap();
        fs::read(path).unwrap()
    }

    #[test]
    fn every_torn_tail_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let bytes = written(&path, &["one", "two\nlines", "three"]);
        let second_end = bytes.len() - written(&directory.path().join("other"), &["three"]).len();
        for length in second_end..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(load(&path).unwrap(), ["one", "two\nlines"], "cut at {length}");
            assert_eq!(fs::metadata(&path).unwrap().len(), second_end as u64);
        }
    }

    #[test]
    fn damage_before_the_tail_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut bytes = written(&path, &["one", "two"]);
        bytes[10] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(load(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_killed_rewrite_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        written(&path, &["one", "two"]);
        fs::write(path.with_extension(NEW), "half a rec").unwrap();
        assert_eq!(load(&path).unwrap(), ["one", "two"]);
        assert!(!path.with_extension(NEW).exists());
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            written(&directory.path().join("same"), &["one", "two"]).len() as u64
        );
    }

    #[test]
    fn a_rewritten_log_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        written(&path, &["one", "two", "three"]);
        let mut log = Log::open::<String>(&path, |_| Ok(())).unwrap();
        log.rewrite(["three"].into_iter()).unwrap();
        log.append(&["four"]).unwrap();
        assert_eq!(log.records(), 2);
        assert_eq!(load(&path).unwrap(), ["three", "four"]);
    }
}
