//! The FUSE side: decodes a request, opens its span, hands it over, replies. No decisions.
//!
//! A request that need not wait is answered at once. Any other is a task: the thread that read it goes on reading, and
//! nothing waits for S3 on it.

mod convert;
mod open;
mod task;

use std::ffi::OsStr;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tracing::Instrument;

use self::convert::{
    BLOCK, GENERATION, NAME_TTL, caller, errno, file_attr, kind_of, reply_empty, reply_entry, reply_xattr, time,
};
use super::Volume;
use super::error::{Result, VolumeError};
use super::name;
use super::ops::attributes::Change;
use super::ops::copy::Side;
use super::ops::directory::Entry;
use super::ops::namespace::IfThere;
use super::ops::parse_name;
use super::ops::rename::End;
use super::ops::space::Space;
use super::ops::xattr::{SetMode, parse_attribute};
use super::tree::Ino;

/// Background requests of the kernel at a time.
const MAX_BACKGROUND: u16 = 64;
/// S3 has no end; programs like to see a number.
const BLOCKS: u64 = 1 << 38;

/// What the kernel talks to.
#[derive(Debug)]
pub(super) struct Adapter {
    volume: Arc<Volume>,
    tasks: Handle,
}

impl Adapter {
    pub(super) fn new(volume: Arc<Volume>, tasks: Handle) -> Self {
        Self { volume, tasks }
    }

    /// Runs an operation, within its span.
    fn run<F, W>(&self, span: tracing::Span, work: W)
    where
        W: FnOnce(Arc<Volume>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        task::start(&self.tasks, work(self.volume.clone()).instrument(span));
    }

    /// [`Adapter::run`] of what is answered by yes or no.
    fn run_empty<F, W>(&self, span: tracing::Span, reply: ReplyEmpty, work: W)
    where
        W: FnOnce(Arc<Volume>) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let result = work(self.volume.clone());
        task::start(&self.tasks, async move { reply_empty(reply, result.await) }.instrument(span));
    }

    /// [`Adapter::run`] of what is answered by an inode.
    fn run_entry<F, W>(&self, span: tracing::Span, reply: ReplyEntry, work: W)
    where
        W: FnOnce(Arc<Volume>) -> F,
        F: Future<Output = Result<super::ops::Stat>> + Send + 'static,
    {
        let (volume, result) = (self.volume.clone(), work(self.volume.clone()));
        task::start(&self.tasks, async move { reply_entry(&volume, reply, result.await) }.instrument(span));
    }
}

macro_rules! span {
    ($name:literal, $req:expr, $ino:expr) => {
        tracing::debug_span!($name, req = $req.unique().0, ino = $ino.0, pid = $req.pid())
    };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        use fuser::InitFlags;
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_POSIX_ACL,
            // A default ACL takes the place of the umask.
            InitFlags::FUSE_DONT_MASK,
            // Without it the kernel asks for an attribute before every write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for capability in wanted {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "the kernel does not have it");
            }
        }
        config.set_max_background(MAX_BACKGROUND).map_err(|_| std::io::Error::other("max_background"))?;
        config.set_max_write(1 << 20).map_err(|_| std::io::Error::other("max_write"))?;
        // Cache files are on a file system that is not on top of another.
        let can = config.set_max_stack_depth(1).is_ok() && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        self.volume.allow_passthrough(can);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = parse_name(name);
        let work = |volume: Arc<Volume>| async move { volume.lookup(Ino(parent.0), &name?).await };
        self.run_entry(span!("lookup", req, parent), reply, work);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.volume.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.run(span!("getattr", req, ino), |volume| async move {
            match volume.attributes(Ino(ino.0)).await {
                Ok(stat) => reply.attr(&volume.kernel_ttl(), &file_attr(&stat)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, uid, gid, size, atime: atime.map(time), mtime: mtime.map(time) };
        let root = req.uid() == 0;
        self.run(span!("setattr", req, ino), |volume| async move {
            match volume.set_attributes_of(Ino(ino.0), change, root).await {
                Ok(stat) => reply.attr(&volume.kernel_ttl(), &file_attr(&stat)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.run(span!("readlink", req, ino), |volume| async move {
            match volume.read_link(Ino(ino.0)).await {
                Ok(target) => reply.data(name::from_key(&target).as_encoded_bytes()),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let (name, caller) = (parse_name(name), caller(req, umask));
        let work = |volume: Arc<Volume>| async move {
            match mode & libc::S_IFMT {
                0 | libc::S_IFREG => volume.make_file(Ino(parent.0), &name?, mode, caller).await,
                _ => volume.make_special(Ino(parent.0), &name?, mode, rdev, caller).await,
            }
        };
        self.run_entry(span!("mknod", req, parent), reply, work);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (name, caller) = (parse_name(name), caller(req, umask));
        let work = |volume: Arc<Volume>| async move { volume.mkdir(Ino(parent.0), &name?, mode, caller).await };
        self.run_entry(span!("mkdir", req, parent), reply, work);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = parse_name(name);
        let work = |volume: Arc<Volume>| async move { volume.unlink(Ino(parent.0), &name?).await };
        self.run_empty(span!("unlink", req, parent), reply, work);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = parse_name(name);
        let work = |volume: Arc<Volume>| async move { volume.rmdir(Ino(parent.0), &name?).await };
        self.run_empty(span!("rmdir", req, parent), reply, work);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, caller, target) = (parse_name(link_name), caller(req, 0), name::of(target.as_os_str()));
        let work = |volume: Arc<Volume>| async move { volume.symlink(Ino(parent.0), &name?, &target, caller).await };
        self.run_entry(span!("symlink", req, parent), reply, work);
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(errno(&VolumeError::CannotBeKept("a second name of one object")));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let names = parse_name(name).and_then(|name| Ok((name, parse_name(newname)?)));
        let work = |volume: Arc<Volume>| async move {
            let (name, new_name) = names?;
            let from = End { parent: Ino(parent.0), name: &name };
            let to = End { parent: Ino(newparent.0), name: &new_name };
            volume.rename(from, to, convert::replacing(flags)?).await
        };
        self.run_empty(span!("rename", req, parent), reply, work);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = open::access(flags);
        self.run(span!("open", req, ino), |volume| async move {
            let result = volume.open(Ino(ino.0), access, &|file| open::backing(reply.open_backing(file))).await;
            match result {
                Ok(opened) => open::reply_open(reply, &opened, access),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, caller) = (parse_name(name), caller(req, umask));
        let (there, access) = (IfThere::by_flags(flags), open::access(OpenFlags(flags)));
        self.run(span!("create", req, parent), |volume| async move {
            let register = |file: &std::fs::File| open::backing(reply.open_backing(file));
            let result = async { volume.create(Ino(parent.0), &name?, mode, caller, (there, access), &register).await };
            match result.await {
                Ok(made) => open::reply_create(&volume, reply, &made, access),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.run(span!("read", req, ino), |volume| async move {
            match volume.read(fh.0, offset, size).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The buffer belongs to the thread that reads requests.
        let bytes = data.to_vec();
        let unprivileged = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.run(span!("write", req, ino), |volume| async move {
            match volume.write(fh.0, offset, &bytes, unprivileged).await {
                // A request has at most 16 MiB.
                Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.run_empty(span!("flush", req, ino), reply, |volume| async move { volume.flush(fh.0).await });
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.run_empty(span!("release", req, ino), reply, |volume| async move { volume.release(fh.0).await });
    }

    fn fsync(&self, req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.run_empty(span!("fsync", req, ino), reply, |volume| async move { volume.fsync(fh.0).await });
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = |volume: Arc<Volume>| async move {
            let range = offset..offset.saturating_add(length);
            volume.allocate(fh.0, range, Space::by_mode(mode)?).await
        };
        self.run_empty(span!("fallocate", req, ino), reply, work);
    }

    fn lseek(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.run(span!("lseek", req, ino), |volume| async move {
            match volume.seek(fh.0, offset, whence).await {
                Ok(offset) => reply.offset(offset),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let unprivileged = req.uid() != 0;
        self.run(span!("copy_file_range", req, ino_in), |volume| async move {
            let from = Side { handle: fh_in.0, offset: offset_in };
            let to = Side { handle: fh_out.0, offset: offset_out };
            match volume.copy_range(from, to, length, unprivileged).await {
                // At most a GiB.
                Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (parse_attribute(name).map(str::to_owned), value.to_vec());
        let work = |volume: Arc<Volume>| async move {
            volume.set_attribute(Ino(ino.0), &name?, value, SetMode::by_flags(flags)?).await
        };
        self.run_empty(span!("setxattr", req, ino), reply, work);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = parse_attribute(name).map(str::to_owned);
        self.run(span!("getxattr", req, ino), |volume| async move {
            let value = async { volume.get_attribute(Ino(ino.0), &name?).await };
            reply_xattr(reply, size, value.await);
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.run(span!("listxattr", req, ino), |volume| async move {
            reply_xattr(reply, size, volume.list_attributes(Ino(ino.0)).await);
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = parse_attribute(name).map(str::to_owned);
        let work = |volume: Arc<Volume>| async move { volume.remove_attribute(Ino(ino.0), &name?).await };
        self.run_empty(span!("removexattr", req, ino), reply, work);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.volume.open_directory(Ino(ino.0)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.run(span!("readdir", req, ino), |volume| async move {
            let fill = |entry: Entry| {
                let kind = kind_of(entry.stat.attr.mode);
                reply.add(INodeNo(entry.stat.ino.0), entry.next, kind, name::from_key(&entry.name))
            };
            match volume.read_directory(Ino(ino.0), fh.0, offset, fill).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.run(span!("readdirplus", req, ino), |volume| async move {
            let fill = |entry: Entry| {
                let attr = file_attr(&entry.stat);
                let dots = entry.name == "." || entry.name == "..";
                // The kernel takes a reference for every entry it gets but the dots.
                if !dots && volume.entry(entry.stat.ino).is_err() {
                    return false;
                }
                let full = reply.add(attr.ino, entry.next, name::from_key(&entry.name), &NAME_TTL, &attr, GENERATION);
                if full && !dots {
                    volume.forget(entry.stat.ino, 1);
                }
                full
            };
            match volume.read_directory(Ino(ino.0), fh.0, offset, fill).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.volume.handles.remove(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let work = |volume: Arc<Volume>| async move { volume.sync_directory(Ino(ino.0)).await };
        self.run_empty(span!("fsyncdir", req, ino), reply, work);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCK, 255, BLOCK);
    }
}
