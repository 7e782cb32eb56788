//! The FUSE side: decodes a request, opens its span, hands it over, replies. No decisions.
//!
//! Every request is a task: the thread that read it goes on reading, and nothing waits for S3 on it.

use std::ffi::OsStr;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tracing::Instrument;

use super::Volume;
use super::attr::Time;
use super::error::{Result, VolumeError};
use super::ops::attributes::Change;
use super::ops::namespace::IfThere;
use super::ops::rename::End;
use super::ops::{Caller, Stat, parse_name};
use super::tree::Ino;

/// Inode numbers are never used twice.
const GENERATION: Generation = Generation(0);
/// Names are asked for every time: only so is an epoch exact (the daemon answers from memory).
const NAME_TTL: Duration = Duration::ZERO;
const BLOCK: u32 = 4096;
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

    /// Runs an operation in a task, within its span.
    fn run<F, W>(&self, span: tracing::Span, work: W)
    where
        W: FnOnce(Arc<Volume>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        drop(self.tasks.spawn(work(self.volume.clone()).instrument(span)));
    }
}

macro_rules! span {
    ($name:literal, $req:expr, $ino:expr) => {
        tracing::debug_span!($name, req = $req.unique().0, ino = $ino.0, pid = $req.pid())
    };
}

fn errno(error: &VolumeError) -> Errno {
    match error {
        VolumeError::NotFound | VolumeError::Exists => {}
        error => tracing::debug!(%error, "failed"),
    }
    Errno::from_i32(error.errno())
}

fn kind_of(mode: u32) -> FileType {
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

fn file_attr(stat: &Stat) -> FileAttr {
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
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

fn owned(name: &OsStr) -> Result<String> {
    parse_name(name).map(str::to_owned)
}

fn time(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::SpecificTime(time) => time.into(),
        TimeOrNow::Now => Time::now(),
    }
}

fn reply_entry(volume: &Volume, reply: ReplyEntry, result: Result<Stat>) {
    match result {
        Ok(stat) => reply.entry_with_ttls(&volume.kernel_ttl(), &NAME_TTL, &file_attr(&stat), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        use fuser::InitFlags;
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        for capability in wanted {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "the kernel does not have it");
            }
        }
        config.set_max_background(MAX_BACKGROUND).map_err(|_| std::io::Error::other("max_background"))?;
        config.set_max_write(1 << 20).map_err(|_| std::io::Error::other("max_write"))?;
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = owned(name);
        self.run(span!("lookup", req, parent), |volume| async move {
            let result = async { volume.lookup(Ino(parent.0), &name?).await }.await;
            reply_entry(&volume, reply, result);
        });
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
        self.run(span!("setattr", req, ino), |volume| async move {
            match volume.set_attributes_of(Ino(ino.0), change).await {
                Ok(stat) => reply.attr(&volume.kernel_ttl(), &file_attr(&stat)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.run(span!("readlink", req, ino), |volume| async move {
            match volume.read_link(Ino(ino.0)).await {
                Ok(target) => reply.data(target.as_bytes()),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let (name, caller) = (owned(name), caller(req));
        self.run(span!("mknod", req, parent), |volume| async move {
            let result = async {
                match mode & libc::S_IFMT {
                    0 | libc::S_IFREG => volume.make_file(Ino(parent.0), &name?, mode, caller).await,
                    _ => Err(VolumeError::CannotBeKept("a device, FIFO or socket")),
                }
            };
            let result = result.await;
            reply_entry(&volume, reply, result);
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (name, caller) = (owned(name), caller(req));
        self.run(span!("mkdir", req, parent), |volume| async move {
            let result = async { volume.mkdir(Ino(parent.0), &name?, mode, caller).await }.await;
            reply_entry(&volume, reply, result);
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.run(span!("unlink", req, parent), |volume| async move {
            reply_empty(reply, async { volume.unlink(Ino(parent.0), &name?).await }.await);
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.run(span!("rmdir", req, parent), |volume| async move {
            reply_empty(reply, async { volume.rmdir(Ino(parent.0), &name?).await }.await);
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, caller) = (owned(link_name), caller(req));
        let target = target.to_str().ok_or(VolumeError::BadName).map(str::to_owned);
        self.run(span!("symlink", req, parent), |volume| async move {
            let result = async { volume.symlink(Ino(parent.0), &name?, &target?, caller).await }.await;
            reply_entry(&volume, reply, result);
        });
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
        let names = owned(name).and_then(|name| Ok((name, owned(newname)?)));
        self.run(span!("rename", req, parent), |volume| async move {
            let result = async {
                let (name, new_name) = names?;
                let keep = match flags {
                    RenameFlags::RENAME_NOREPLACE => true,
                    flags if flags.is_empty() => false,
                    _ => return Err(VolumeError::Invalid("rename flags")),
                };
                let from = End { parent: Ino(parent.0), name: &name };
                volume.rename(from, End { parent: Ino(newparent.0), name: &new_name }, keep).await
            };
            reply_empty(reply, result.await);
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        self.run(span!("open", req, ino), |volume| async move {
            match volume.open(Ino(ino.0), write).await {
                // A version is an inode: what the kernel has cached of it stays right.
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
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
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, caller, there) = (owned(name), caller(req), IfThere::by_flags(flags));
        self.run(span!("create", req, parent), |volume| async move {
            let result = async { volume.create(Ino(parent.0), &name?, mode, caller, there).await };
            match result.await {
                Ok(made) => {
                    let (ttl, attr) = (volume.kernel_ttl(), file_attr(&made.stat));
                    reply.created(&ttl, &attr, GENERATION, FileHandle(made.handle), FopenFlags::FOPEN_KEEP_CACHE);
                }
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
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The buffer belongs to the thread that reads requests.
        let bytes = data.to_vec();
        self.run(span!("write", req, ino), |volume| async move {
            match volume.write(fh.0, offset, &bytes).await {
                // A request has at most 16 MiB.
                Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.run(span!("flush", req, ino), |volume| async move {
            reply_empty(reply, volume.flush(fh.0).await);
        });
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
        self.run(span!("release", req, ino), |volume| async move {
            reply_empty(reply, volume.release(fh.0).await);
        });
    }

    fn fsync(&self, req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.run(span!("fsync", req, ino), |volume| async move {
            reply_empty(reply, volume.fsync(fh.0).await);
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.volume.open_directory(Ino(ino.0)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.run(span!("readdir", req, ino), |volume| async move {
            match volume.read_directory(Ino(ino.0), fh.0, offset).await {
                Ok(entries) => {
                    for entry in entries {
                        let kind = kind_of(entry.stat.attr.mode);
                        if reply.add(INodeNo(entry.stat.ino.0), entry.next, kind, &entry.name) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.run(span!("readdirplus", req, ino), |volume| async move {
            let entries = match volume.read_directory(Ino(ino.0), fh.0, offset).await {
                Ok(entries) => entries,
                Err(error) => return reply.error(errno(&error)),
            };
            for entry in entries {
                let attr = file_attr(&entry.stat);
                let dots = entry.name == "." || entry.name == "..";
                // The kernel takes a reference for every entry it gets but the dots.
                if !dots && volume.entry(entry.stat.ino).is_err() {
                    continue;
                }
                if reply.add(attr.ino, entry.next, &entry.name, &NAME_TTL, &attr, GENERATION) {
                    if !dots {
                        volume.forget(entry.stat.ino, 1);
                    }
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.volume.handles.remove(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.run(span!("fsyncdir", req, ino), |volume| async move {
            reply_empty(reply, volume.sync_directory(Ino(ino.0)).await);
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCK, 255, BLOCK);
    }
}
