//! The machine's file systems: a root of its own over the root of this machine, and private /dev, /proc, /sys, /run, /tmp.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::layout::MachineDir;

/// Directories that exist in the machine, but empty.
const EMPTIED: [&str; 4] = ["/root", "/home", "/var/tmp", "/etc/ssl/private"];
/// Paths that do not exist in the machine: what a fresh image does not have.
const HIDDEN: [&str; 5] = ["/var/lib/ec2mpi", "/etc/ec2mpi", "/opt/ec2mpi", "/var/lib/cloud", "/etc/rc.local"];
/// Mounted anew in every machine, so what is below them is hidden anyway.
const PRIVATE: [&str; 5] = ["/dev", "/proc", "/sys", "/run", "/tmp"];

/// Makes the disk of a machine that has never run: no copy of anything, only marks for what must not be seen.
/// `added` lies over this machine's files.
pub(super) fn prepare(dir: &MachineDir, masks: &[PathBuf], added: Option<&Path>) -> io::Result<()> {
    for directory in [dir.upper(), dir.work(), dir.mount_point()] {
        std::fs::create_dir_all(directory)?;
    }
    let upper = dir.upper();
    std::fs::set_permissions(&upper, std::fs::metadata("/")?.permissions())?;
    for path in EMPTIED {
        empty(&upper, Path::new(path))?;
    }
    for path in HIDDEN.iter().map(PathBuf::from).chain(ssh_host_keys()?).chain(masks.iter().cloned()) {
        hide(&upper, &path)?;
    }
    added.map_or(Ok(()), |added| copy(added, &upper))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let done = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status()?;
    if done.success() { Ok(()) } else { Err(io::Error::other(format!("cp of {} ended with {done}", from.display()))) }
}

/// This machine's own keys: every instance must make its own.
fn ssh_host_keys() -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir("/etc/ssh") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let is_key = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"ssh_host_"));
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_key).collect())
}

/// Covers a directory by an opaque one (overlayfs.rst, "whiteouts and opaque directories").
fn empty(upper: &Path, path: &Path) -> io::Result<()> {
    let Some((path, cover)) = cover(upper, path)? else { return Ok(()) };
    make_like(&path, &cover)?;
    set_opaque(&cover)
}

/// Covers a path by a whiteout: a character device 0/0 on the upper layer.
fn hide(upper: &Path, path: &Path) -> io::Result<()> {
    let Some((_, cover)) = cover(upper, path)? else { return Ok(()) };
    match mknod(&cover, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The real path and its place in the upper layer, whose parents are made like the real ones.
/// None where there is nothing to cover: no such directory, or one that is private anyway.
fn cover(upper: &Path, path: &Path) -> io::Result<Option<(PathBuf, PathBuf)>> {
    let Some(path) = real(path) else { return Ok(None) };
    if PRIVATE.iter().any(|private| path.starts_with(private)) {
        return Ok(None);
    }
    let Some(parent) = path.parent() else { return Ok(None) };
    let mut done = PathBuf::from("/");
    for component in parent.components().filter(|component| matches!(component, Component::Normal(_))) {
        done.push(component);
        make_like(&done, &below(upper, &done))?;
    }
    let cover = below(upper, &path);
    Ok(Some((path, cover)))
}

/// The path with its parent's symbolic links resolved; none where the parent does not exist.
fn real(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?.canonicalize().ok()?;
    Some(parent.join(path.file_name()?))
}

fn below(upper: &Path, path: &Path) -> PathBuf {
    upper.join(path.strip_prefix("/").unwrap_or(path))
}

/// Makes a directory with owner and mode of the one it will cover.
fn make_like(model: &Path, copy: &Path) -> io::Result<()> {
    match std::fs::create_dir(copy) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        result => result?,
    }
    let Ok(found) = std::fs::metadata(model) else { return Ok(()) };
    chown(copy, Some(found.uid()), Some(found.gid()))?;
    std::fs::set_permissions(copy, std::fs::Permissions::from_mode(found.mode() & 0o7777))
}

fn set_opaque(directory: &Path) -> io::Result<()> {
    const NAME: &CStr = c"trusted.overlay.opaque";
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: path and name are null-terminated, and the value is one byte long as said.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), NAME.as_ptr(), c"y".as_ptr().cast(), 1, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// In pid 1, in mount and network namespaces of its own: makes the machine's root the root.
pub(super) fn enter(dir: &MachineDir) -> anyhow::Result<()> {
    none_mount(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None).context("private mounts")?;
    // Relative names, because a colon or comma in a path would end an overlay option.
    std::env::set_current_dir(dir.root())?;
    let layers = "lowerdir=/,upperdir=upper,workdir=work";
    none_mount(Some("overlay"), "root", Some("overlay"), MsFlags::empty(), Some(layers)).context("overlay")?;
    std::env::set_current_dir("root")?;
    mount_private().context("private file systems")?;
    nix::unistd::pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("old root")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

fn mount_private() -> anyhow::Result<()> {
    let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let closed = hardened | MsFlags::MS_NOEXEC;
    fs("proc", "proc", closed, None)?;
    fs("sysfs", "sys", closed | MsFlags::MS_RDONLY, None)?;
    fs("tmpfs", "dev", MsFlags::MS_NOSUID, Some("mode=0755,size=1m"))?;
    for directory in ["dev/pts", "dev/shm", "dev/mqueue"] {
        std::fs::create_dir(directory)?;
    }
    fs(
        "devpts",
        "dev/pts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("newinstance,ptmxmode=0666,mode=0620,gid=5"),
    )?;
    fs("tmpfs", "dev/shm", hardened, Some("mode=1777"))?;
    fs("mqueue", "dev/mqueue", closed, None)?;
    fs("tmpfs", "run", hardened, Some("mode=0755"))?;
    fs("tmpfs", "tmp", hardened, Some("mode=1777"))?;
    std::fs::create_dir("run/lock")?;
    std::fs::set_permissions("run/lock", std::fs::Permissions::from_mode(0o1777))?;
    devices()?;
    guard_host()
}

fn devices() -> anyhow::Result<()> {
    const NODES: [(&str, u64, u64); 7] = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
        ("fuse", 10, 229),
    ];
    const LINKS: [(&str, &str); 5] = [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ];
    for (name, major, minor) in NODES {
        let path = Path::new("dev").join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    }
    for (target, name) in LINKS {
        symlink(target, Path::new("dev").join(name))?;
    }
    Ok(())
}

/// Settings of the kernel belong to this machine, not to the instance: only those of its network are its own.
fn guard_host() -> anyhow::Result<()> {
    let bind = |from: &str, to: &str| none_mount(Some(from), to, None, MsFlags::MS_BIND | MsFlags::MS_REC, None);
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
    bind("proc/sys", "proc/sys")?;
    bind("proc/sys/net", "proc/sys/net")?;
    none_mount(None, "proc/sys", None, read_only | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None)?;
    // Not every kernel is built with it.
    if Path::new("proc/sysrq-trigger").exists() {
        bind("dev/null", "proc/sysrq-trigger")?;
    }
    Ok(())
}

fn fs(kind: &str, target: &str, flags: MsFlags, options: Option<&str>) -> anyhow::Result<()> {
    none_mount(Some(kind), target, Some(kind), flags, options)
}

fn none_mount(
    source: Option<&str>,
    target: &str,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> anyhow::Result<()> {
    mount(source, target, kind, flags, options).with_context(|| format!("mount on {target}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt;

    #[test]
    fn marks_what_must_not_be_seen() {
        let dir = tempfile::tempdir().unwrap();
        let machine = MachineDir::new(dir.path().join("i-1"));
        let masked = tempfile::tempdir_in("/var/lib").unwrap();
        prepare(&machine, &[masked.path().to_owned(), "/tmp/nothing".into(), "/no/such/place".into()], None).unwrap();
        let added = dir.path().join("added");
        std::fs::create_dir_all(added.join("opt")).unwrap();
        std::fs::write(added.join("opt/x"), "x").unwrap();
        prepare(&machine, &[], Some(&added)).unwrap();
        let upper = machine.upper();
        assert_eq!(std::fs::read(upper.join("opt/x")).unwrap(), b"x");
        let cover = below(&upper, masked.path());
        let whiteout = std::fs::symlink_metadata(cover).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
        assert!(std::fs::metadata(upper.join("root")).unwrap().is_dir());
        let (model, copy) = (std::fs::metadata("/var/lib").unwrap(), std::fs::metadata(upper.join("var/lib")).unwrap());
        assert_eq!((model.mode(), model.uid(), model.gid()), (copy.mode(), copy.uid(), copy.gid()));
        assert!(!upper.join("tmp").exists() && !upper.join("no").exists());
    }
}
