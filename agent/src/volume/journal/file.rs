//! The journal on disk: `EC2MPIJL`, a version, then frames. A frame is the length of its payload, the CRC-32 of the
//! payload (both 4 bytes, little endian) and the payload, a [`Record`] as JSON.
//!
//! Reading stops at the first frame that is not whole: only the end can be torn, since frames are only appended.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{Position, Record};
use crate::durable;

const MAGIC: &[u8; 8] = b"EC2MPIJL";
/// Raised when a reader of the old version would misunderstand the new. 2: special files, and other headers in `Amend`.
const VERSION: u32 = 2;
/// Older ones can still be read.
const OLDEST_VERSION: u32 = 1;
const HEADER_BYTES: usize = 12;
const FRAME_HEADER_BYTES: usize = 8;
/// A longer frame is damage, not data: paths have at most 1,024 bytes, and outcomes are bounded.
const MAX_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;
/// A journal that has grown by this since it was rewritten is worth rewriting.
const LONG_BYTES: u64 = 16 * 1024 * 1024;

/// The file, open for appending.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: File,
    /// Bytes when it was rewritten.
    first_length: u64,
    length: u64,
    /// Bytes appended since the start of the process.
    position: u64,
}

/// All whole records of the journal at `path`; none when there is no file. A torn end is copied to `journal.torn`.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let (records, whole) = decode(&bytes)?;
    if whole < bytes.len() {
        tracing::warn!(path = %path.display(), whole, length = bytes.len(), "the journal has a torn end");
        durable::overwrite(&torn_path(path), 0o600, &bytes[whole..])?;
    }
    Ok(records)
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
    while let Some((record, end)) = decode_frame(bytes, at) {
        records.push(record);
        at = end;
    }
    Ok((records, at))
}

fn decode_frame(bytes: &[u8], at: usize) -> Option<(Record, usize)> {
    let length = u32_at(bytes, at)? as usize;
    let checksum = u32_at(bytes, at + 4)?;
    if length > MAX_PAYLOAD_BYTES {
        return None;
    }
    let start = at + FRAME_HEADER_BYTES;
    let payload = bytes.get(start..start + length)?;
    if crc32fast::hash(payload) != checksum {
        return None;
    }
    Some((serde_json::from_slice(payload).ok()?, start + length))
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
        durable::overwrite(path, 0o600, &content)?;
        let file = OpenOptions::new().append(true).open(path)?;
        let length = content.len() as u64;
        Ok(Self { path: path.to_owned(), file, first_length: length, length, position: 0 })
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

    /// Another handle of the file, to sync it by.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Appends a record. After a short write the torn frame is cut off again, so that later frames stay readable.
    pub fn append(&mut self, record: &Record) -> io::Result<Position> {
        let frame = encode(record)?;
        if let Err(error) = self.file.write_all(&frame) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += frame.len() as u64;
        self.position += frame.len() as u64;
        Ok(Position(self.position))
    }
}
