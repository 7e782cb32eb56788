//! Room in a file: fallocate, holes.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::data::MAX_FILE_BYTES;
use crate::volume::Volume;
use crate::volume::cache::DataFile;
use crate::volume::cache::usage::Hold;
use crate::volume::content::Content;
use crate::volume::error::{Result, VolumeError};
use crate::volume::limits::disk::Room;
use crate::volume::limits::is_full;
use crate::volume::tree::Ino;

/// Zeros written at a time where the cache's file system cannot make them by itself.
const ZEROS: usize = 1 << 20;
/// How often a signal may interrupt the making of room.
const INTERRUPTIONS: usize = 100;

/// What is to be done with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// Room for it, its bytes as they are.
    Reserve { keep_size: bool },
    /// Zeros, with room for others.
    Zero { keep_size: bool },
    /// Zeros that take no room; the size stays.
    Punch,
}

impl Space {
    /// By the mode of `fallocate`. Ranges are not taken out of a file nor put into it.
    pub(crate) fn by_mode(mode: i32) -> Result<Self> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        match mode {
            0 => Ok(Self::Reserve { keep_size: false }),
            libc::FALLOC_FL_KEEP_SIZE => Ok(Self::Reserve { keep_size: true }),
            libc::FALLOC_FL_ZERO_RANGE => Ok(Self::Zero { keep_size: false }),
            ZERO_KEEP => Ok(Self::Zero { keep_size: true }),
            PUNCH => Ok(Self::Punch),
            _ => Err(VolumeError::NotSupported("other modes of fallocate")),
        }
    }

    fn flags(self) -> FallocateFlags {
        let keep = |keep_size| if keep_size { FallocateFlags::FALLOC_FL_KEEP_SIZE } else { FallocateFlags::empty() };
        match self {
            Self::Reserve { keep_size } => keep(keep_size),
            Self::Zero { keep_size } => FallocateFlags::FALLOC_FL_ZERO_RANGE | keep(keep_size),
            Self::Punch => FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        }
    }

    /// The size afterwards.
    fn size(self, before: u64, range: &Range<u64>) -> u64 {
        match self {
            Self::Reserve { keep_size: false } | Self::Zero { keep_size: false } => before.max(range.end),
            Self::Reserve { keep_size: true } | Self::Zero { keep_size: true } | Self::Punch => before,
        }
    }
}

impl Volume {
    /// `fallocate`. Room is room in the cache: S3 has no end, and holes are zeros there.
    pub(crate) async fn allocate(&self, handle: u64, range: Range<u64>, space: Space) -> Result<()> {
        let (ino, content, write) = self.file(handle)?;
        if !write {
            return Err(VolumeError::BadHandle);
        }
        if range.end > MAX_FILE_BYTES {
            return Err(VolumeError::Local(std::io::Error::from_raw_os_error(libc::EFBIG)));
        }
        self.admit_dirty(&content, range.end - range.start).await?;
        let mut room = Room::new();
        loop {
            match self.allocate_cached(ino, &content, &range, space).await {
                Err(VolumeError::Local(error)) if is_full(&error) => room.make(self, &content, error).await?,
                result => return result,
            }
        }
    }

    async fn allocate_cached(&self, ino: Ino, content: &Arc<Content>, range: &Range<u64>, space: Space) -> Result<()> {
        let mut state = self.writable(ino, content, range.clone()).await?;
        let data = state.data.clone().ok_or(VolumeError::Stale)?;
        let size = space.size(state.size, range);
        state.note_touched(&self.cut, range);
        change_room(&data, range, space, state.size)?;
        if size > state.size {
            data.file.set_len(size)?;
            state.resize(&self.cut, size);
        }
        data.measure(Hold::Dirty)?;
        self.note_change(ino, &state)
    }

    /// `SEEK_DATA` and `SEEK_HOLE`. What the cache does not have is data, as far as anybody knows.
    pub(crate) async fn seek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let (_, content, _) = self.file(handle)?;
        let state = content.state.read().await;
        let size = i64::try_from(state.size).map_err(|_| VolumeError::Invalid("a file that large"))?;
        let whence = match whence {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(VolumeError::Invalid("whence")),
        };
        if !(0..size).contains(&offset) {
            return Err(VolumeError::PastEnd);
        }
        if let Some(data) = state.data.as_ref().filter(|_| state.has(0..state.size)) {
            match lseek(&data.file, offset, whence) {
                Ok(found) => return Ok(found.min(size)),
                Err(Errno::ENXIO) => return Err(VolumeError::PastEnd),
                // The file system of the cache has no holes.
                Err(_) => {}
            }
        }
        Ok(if matches!(whence, Whence::SeekData) { offset } else { size })
    }
}

/// On the cache file, or by hand where its file system does not know how.
fn change_room(data: &DataFile, range: &Range<u64>, space: Space, size: u64) -> Result<()> {
    let signed = |bytes: u64| i64::try_from(bytes).map_err(|_| VolumeError::Invalid("a range that large"));
    let (start, length) = (signed(range.start)?, signed(range.end - range.start)?);
    let mut result = Err(Errno::EINTR);
    for _ in 0..INTERRUPTIONS {
        if result != Err(Errno::EINTR) {
            break;
        }
        result = fallocate(&data.file, space.flags(), start, length);
    }
    match result {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => match space {
            Space::Reserve { .. } => Ok(()),
            Space::Zero { .. } | Space::Punch => Ok(write_zeros(data, range.start..range.end.min(size))?),
        },
        Err(errno) => Err(VolumeError::Local(errno.into())),
    }
}

fn write_zeros(data: &DataFile, range: Range<u64>) -> std::io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(ZEROS as u64);
        // At most a MiB.
        #[allow(clippy::cast_possible_truncation)]
        data.file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_known_or_refused() {
        assert_eq!(Space::by_mode(0).unwrap(), Space::Reserve { keep_size: false });
        assert_eq!(Space::by_mode(3).unwrap(), Space::Punch);
        assert_eq!(Space::by_mode(17).unwrap(), Space::Zero { keep_size: true });
        for mode in [2, libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE] {
            assert_eq!(Space::by_mode(mode).unwrap_err().errno(), libc::EOPNOTSUPP);
        }
        assert_eq!(Space::Punch.size(10, &(5..20)), 10);
        assert_eq!(Space::Zero { keep_size: false }.size(10, &(5..20)), 20);
    }

    #[test]
    fn zeros_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let cache = crate::volume::cache::Cache::open(dir.path()).unwrap();
        let data = cache.create().unwrap();
        data.file.write_all_at(&[7; 3 << 20], 0).unwrap();
        write_zeros(&data, 5..(2 << 20) + 5).unwrap();
        let bytes = std::fs::read(&data.path).unwrap();
        assert!(bytes[..5].iter().chain(&bytes[(2 << 20) + 5..]).all(|byte| *byte == 7));
        assert!(bytes[5..(2 << 20) + 5].iter().all(|byte| *byte == 0));
    }
}
