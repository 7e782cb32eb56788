//! Answers to open and create: which way the kernel takes for the file.

use std::any::Any;
use std::sync::Arc;

use fuser::{BackingId, Errno, FileHandle, FopenFlags, OpenAccMode, OpenFlags, ReplyCreate, ReplyOpen};

use super::convert::{GENERATION, file_attr};
use crate::volume::Volume;
use crate::volume::ops::data::Opened;
use crate::volume::ops::namespace::Created;
use crate::volume::passthrough::{Access, Backing, How};

pub(super) fn access(flags: OpenFlags) -> Access {
    let mode = flags.acc_mode();
    let old = mode != OpenAccMode::O_WRONLY || flags.0 & libc::O_APPEND != 0;
    Access { write: mode != OpenAccMode::O_RDONLY, map: mode == OpenAccMode::O_RDWR, old }
}

/// What the kernel knows a cache file by, as the volume keeps it.
pub(super) fn backing(known: std::io::Result<BackingId>) -> std::io::Result<Backing> {
    known.map(|id| Arc::new(id) as Backing)
}

/// The flags, and the cache file if the kernel is to use it.
fn way(opened: &Opened, access: Access) -> (FopenFlags, Option<&(dyn Any + Send + Sync)>) {
    // Nothing happens here when somebody who cannot write closes.
    let flags = if access.write { FopenFlags::empty() } else { FopenFlags::FOPEN_NOFLUSH };
    match &opened.how {
        // A version is an inode: what the kernel has cached of it stays right.
        How::Cached { keep: true } => (flags | FopenFlags::FOPEN_KEEP_CACHE, None),
        How::Cached { keep: false } => (flags, None),
        How::Through { backing, direct: true } => (flags | FopenFlags::FOPEN_DIRECT_IO, Some(&**backing)),
        How::Through { backing, direct: false } => (flags, Some(&**backing)),
    }
}

pub(super) fn reply_open(reply: ReplyOpen, opened: &Opened, access: Access) {
    let handle = FileHandle(opened.handle);
    match way(opened, access) {
        (flags, None) => reply.opened(handle, flags),
        (flags, Some(backing)) => match backing.downcast_ref::<BackingId>() {
            Some(id) => reply.opened_passthrough(handle, flags, id),
            None => reply.error(Errno::EIO),
        },
    }
}

pub(super) fn reply_create(volume: &Volume, reply: ReplyCreate, made: &Created, access: Access) {
    let (ttl, attr, handle) = (volume.kernel_ttl(), file_attr(&made.stat), FileHandle(made.opened.handle));
    match way(&made.opened, access) {
        (flags, None) => reply.created(&ttl, &attr, GENERATION, handle, flags),
        (flags, Some(backing)) => match backing.downcast_ref::<BackingId>() {
            Some(id) => reply.created_passthrough(&ttl, &attr, GENERATION, handle, flags, id),
            None => reply.error(Errno::EIO),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_be_about_to_cut_a_file_does_not_need_what_is_there() {
        let table = [
            (libc::O_RDONLY, (false, true)),
            (libc::O_RDWR, (true, true)),
            (libc::O_WRONLY, (true, false)),
            (libc::O_WRONLY | libc::O_APPEND, (true, true)),
        ];
        for (flags, expected) in table {
            let access = access(OpenFlags(flags));
            assert_eq!((access.write, access.old), expected, "{flags:o}");
        }
    }
}
