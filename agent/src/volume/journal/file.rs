//! The journal on disk: `EC2MPIJL`, a version, then frames. A frame is the length of its payload, the CRC-32 of the
//! payload (both 4 bytes, little endian) and the payload, a [`Record`] as JSON.
//!
//! Reading stops at the first frame that is not whole: only the end can be torn, since frames are only appended.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{Position, Record};
use crate::durable;
use crate::volume::failpoint;
use crate::volume::limits::is_full;

const MAGIC: &[u8; 8] = b"EC2MPIJL";
/// Raised when a reader of the old version would misunderstand the new. 2: special files, and other headers in `Amend`.
/// 3: spilled parts, multipart uploads. 4: what is on disk, and since which boot.
const VERSION: u32 = 4;
/// Older ones can still be read.
const OLDEST_VERSION: u32 = 1;
const HEADER_BYTES: usize = 12;
const FRAME_HEADER_BYTES: usize = 8;
/// A longer frame is damage, not data: paths have at most 1,024 bytes, and outcomes are bounded.
const MAX_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;
/// A journal that has grown by this since it was rewritten is worth rewriting.
const LONG_BYTES: u64 = 16 * 1024 * 1024;
/// Disk space that is taken ahead of what is written, at least.
const RESERVE_BYTES: u64 = 512 * 1024;

/// The file, open for appending.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: File,
    /// Bytes when it was rewritten.
    first_length: u64,
    length: u64,
    /// Disk space up to here is taken.
    reserved: u64,
    /// The disk was too full for more.
    is_short: bool,
    /// Bytes appended since the start of the process.
    position: u64,
}

/// All whole records of the journal at `path`; none when there is no file. A torn end is copied to `journal.torn`.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let (records, torn) = look(path)?;
    if !torn.is_empty() {
        tracing::warn!(path = %path.display(), bytes = torn.len(), "the journal has a torn end");
        durable::overwrite(&torn_path(path), 0o600, &torn)?;
    }
    Ok(records)
}

/// All whole records of the journal at `path`, and the bytes of its torn end. Nothing is changed.
pub fn look(path: &Path) -> io::Result<(Vec<Record>, Vec<u8>)> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        Err(error) => return Err(error),
    };
    let (records, whole) = decode(&bytes)?;
    Ok((records, bytes.split_off(whole)))
}

fn torn_path(path: &Path) -> PathBuf {
    path.with_extension("torn")
}

/// The whole records in `bytes` and how many bytes they take. An error for a file of another kind or version.
fn decode(bytes: &[u8]) -> io::Result<(Vec<Record>, usize)> {
    if bytes.len() < HEADER_BYTES {
        return Ok((Vec::new(), 0));
    }
    if !bytes.starts_with(MAGIC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a journal of ec2mpi"));
    }
    let version = u32_at(bytes, MAGIC.len());
    if !version.is_some_and(|version| (OLDEST_VERSION..=VERSION).contains(&version)) {
        let text = format!("the journal has version {version:?}, this program knows {OLDEST_VERSION} to {VERSION}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let (mut records, mut at) = (Vec::new(), HEADER_BYTES);
    while let Some(payload) = payload_at(bytes, at) {
        // It is whole: not to understand it is no torn end.
        records.push(serde_json::from_slice(payload).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("a record of the journal is not understood: {error}"))
        })?);
        at += FRAME_HEADER_BYTES + payload.len();
    }
    Ok((records, at))
}

/// The payload of the frame at `at`, if the frame is whole.
fn payload_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = u32_at(bytes, at)? as usize;
    let checksum = u32_at(bytes, at + 4)?;
    // None is empty: zeros are what a disk has of bytes that did not get there.
    if length == 0 || length > MAX_PAYLOAD_BYTES {
        return None;
    }
    let start = at + FRAME_HEADER_BYTES;
    let payload = bytes.get(start..start + length)?;
    (crc32fast::hash(payload) == checksum).then_some(payload)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let payload = serde_json::to_vec(record)?;
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

fn header() -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&VERSION.to_le_bytes());
    header
}

impl JournalFile {
    /// Replaces the journal durably by one of just these records, and opens it.
    pub fn rewrite(path: &Path, records: impl Iterator<Item = Record>) -> io::Result<Self> {
        let mut content = header();
        for record in records {
            content.extend_from_slice(&encode(&record)?);
        }
        failpoint::hit(failpoint::JOURNAL_REWRITE);
        durable::overwrite(path, 0o600, &content)?;
        failpoint::hit(failpoint::JOURNAL_REWRITTEN);
        let file = OpenOptions::new().append(true).open(path)?;
        let length = content.len() as u64;
        Ok(Self::at(path, file, length))
    }

    fn at(path: &Path, file: File, length: u64) -> Self {
        let (path, first_length, reserved) = (path.to_owned(), length, length);
        let mut journal = Self { path, file, first_length, length, reserved, is_short: false, position: 0 };
        journal.reserve();
        journal
    }

    /// Goes on with the journal as it is; a torn end is cut off.
    pub fn resume(path: &Path) -> io::Result<Self> {
        let (_, whole) = decode(&std::fs::read(path)?)?;
        let (file, length) = (OpenOptions::new().append(true).open(path)?, whole as u64);
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        Ok(Self::at(path, file, length))
    }

    /// Takes disk space ahead of time: when data fill the disk, what becomes of them can still be written down. Where
    /// the file system has no such thing, appending may fail instead.
    pub fn reserve(&mut self) {
        let flags = nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let end = self.length + 2 * RESERVE_BYTES;
        let start = self.reserved.max(self.length);
        let (Ok(start), Ok(bytes)) = (i64::try_from(start), i64::try_from(end - start)) else { return };
        match nix::fcntl::fallocate(&self.file, flags, start, bytes) {
            Ok(()) => (self.reserved, self.is_short) = (end, false),
            Err(error) => self.is_short = is_full(&error.into()),
        }
    }

    /// Whether the disk was too full for space ahead.
    pub fn is_short(&self) -> bool {
        self.is_short
    }

    /// [`JournalFile::rewrite`] of a journal in use; positions go on.
    pub fn replace(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        let position = self.position;
        *self = Self { position, ..Self::rewrite(&self.path, records)? };
        Ok(())
    }

    /// Whether it has grown much since it was rewritten.
    pub fn is_long(&self) -> bool {
        self.length - self.first_length > LONG_BYTES
    }

    /// How much was appended so far.
    pub fn position(&self) -> Position {
        Position(self.position)
    }

    /// Another handle of the file, to sync it by.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Appends a record. After a short write the torn frame is cut off again, so that later frames stay readable.
    pub fn append(&mut self, record: &Record) -> io::Result<Position> {
        let frame = encode(record)?;
        if failpoint::is_due(failpoint::JOURNAL_TORN) {
            self.file.write_all(&frame[..frame.len() / 2])?;
            failpoint::die(failpoint::JOURNAL_TORN);
        }
        if let Err(error) = self.file.write_all(&frame) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += frame.len() as u64;
        self.position += frame.len() as u64;
        if self.length + RESERVE_BYTES > self.reserved {
            self.reserve();
        }
        Ok(Position(self.position))
    }
}
