//! Between the kernel's types and the volume's.

use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, RenameFlags, ReplyEmpty, ReplyEntry, ReplyXattr, Request, TimeOrNow,
};

use crate::volume::Volume;
use crate::volume::attr::Time;
use crate::volume::error::{Result, VolumeError};
use crate::volume::ops::rename::Replacing;
use crate::volume::ops::{Caller, Stat};

/// Inode numbers are never used twice.
pub(super) const GENERATION: Generation = Generation(0);
/// Names are asked for every time: only so is an epoch exact (the daemon answers from memory).
pub(super) const NAME_TTL: Duration = Duration::ZERO;
pub(super) const BLOCK: u32 = 4096;

pub(super) fn errno(error: &VolumeError) -> Errno {
    match error {
        VolumeError::NotFound | VolumeError::Exists | VolumeError::NoAttribute => {}
        error => tracing::debug!(%error, "failed"),
    }
    Errno::from_i32(error.errno())
}

pub(super) fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

pub(super) fn file_attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.ino.0),
        size: stat.size,
        blocks: stat.size.div_ceil(512),
        atime: stat.attr.atime.into(),
        mtime: stat.attr.mtime.into(),
        ctime: stat.attr.ctime.into(),
        crtime: stat.attr.ctime.into(),
        kind: kind_of(stat.attr.mode),
        // The mask leaves 12 bits.
        perm: (stat.attr.mode & 0o7777) as u16,
        nlink: stat.links,
        uid: stat.attr.uid,
        gid: stat.attr.gid,
        rdev: stat.attr.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

pub(super) fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

pub(super) fn time(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::SpecificTime(time) => time.into(),
        TimeOrNow::Now => Time::now(),
    }
}

pub(super) fn replacing(flags: RenameFlags) -> Result<Replacing> {
    match flags {
        RenameFlags::RENAME_NOREPLACE => Ok(Replacing::Refuse),
        RenameFlags::RENAME_EXCHANGE => Ok(Replacing::Exchange),
        flags if flags.is_empty() => Ok(Replacing::Replace),
        _ => Err(VolumeError::Invalid("rename flags")),
    }
}

pub(super) fn reply_entry(volume: &Volume, reply: ReplyEntry, result: Result<Stat>) {
    match result {
        Ok(stat) => reply.entry_with_ttls(&volume.kernel_ttl(), &NAME_TTL, &file_attr(&stat), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// `size`: the room the caller has; with none it wants to know how much is needed.
pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>>) {
    match result {
        // At most 2 KiB.
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}
