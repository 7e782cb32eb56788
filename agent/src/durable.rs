//! File writes that survive a crash of the process and of the machine.
//!
//! A file is replaced in four steps, in this order: write a temporary file beside it, fsync that file, rename it over
//! the old one, fsync the directory. Without the first fsync the new name may point at missing bytes after a power
//! loss; without the second the rename itself may be forgotten. A reader sees the old content or the new, never a
//! mixture. A crash in between leaves a `.NAME.PID.N.tmp` file, which nothing reads.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::{Gid, Uid, fchown};

/// Who a written file shall belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// Replaces `path` with `bytes`, with exactly the permission bits `mode` (the umask does not count).
///
/// When it returns Ok, content and name are on disk. On an error the old file is untouched, except that an error of
/// the very last step (fsync of the directory) leaves the new content in place, but not surely durable.
pub fn overwrite(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    replace(path, mode, None, bytes)
}

/// [`overwrite`], with the file given to `owner` before it gets its name. Needs root unless the owner is oneself.
pub fn overwrite_for(path: &Path, mode: u32, owner: Owner, bytes: &[u8]) -> io::Result<()> {
    replace(path, mode, Some(owner), bytes)
}

/// Renames within one file system and makes it durable: both directories are synced.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(parent(to))?;
    if parent(from) != parent(to) {
        sync_dir(parent(from))?;
    }
    Ok(())
}

/// Removes a file and makes that durable. A file that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(parent(path)),
    }
}

/// Makes the names in a directory durable: what was created, renamed or removed in it.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory and its missing parents with the permission bits `mode` for those that it creates, durably.
/// One that exists is left as it is.
pub fn create_dirs(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if parent(dir) != dir {
        create_dirs(parent(dir), mode)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => return Ok(()),
        other => other?,
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
    sync_dir(parent(dir))
}

fn replace(path: &Path, mode: u32, owner: Option<Owner>, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write_synced(&temporary, mode, owner, bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to tell; a temporary file that stays is harmless.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(parent(path))
}

fn write_synced(temporary: &Path, mode: u32, owner: Option<Owner>, bytes: &[u8]) -> io::Result<()> {
    // Made private first, so that nobody opens it before it has its owner. O_EXCL does not follow a planted link.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(bytes)?;
    if let Some(owner) = owner {
        fchown(file.as_fd(), Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// A name that no other writer uses, in the same directory: rename does not cross file systems.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path has no file name"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

/// The directory that holds `path`; the current one for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        None => path,
        Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
        Some(dir) => dir,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn overwrite_replaces_content_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        overwrite(&path, 0o600, b"first, and longer").unwrap();
        overwrite(&path, 0o644, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn a_failed_overwrite_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"x").unwrap();
        assert!(overwrite(&path, 0o600, b"new").is_err());
        assert_eq!(names(dir.path()), ["taken"]);
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"x");
    }

    #[test]
    fn writers_side_by_side_never_mix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shared");
        std::thread::scope(|scope| {
            for digit in b'0'..b'8' {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| overwrite(path, 0o600, &[digit; 4096]).unwrap()));
            }
        });
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 4096);
        assert!(content.iter().all(|b| *b == content[0]));
        assert_eq!(names(dir.path()), ["shared"]);
    }

    #[test]
    fn remove_and_rename_accept_what_is_already_so() {
        let dir = tempfile::tempdir().unwrap();
        remove(&dir.path().join("nothing")).unwrap();
        create_dirs(&dir.path().join("a/b"), 0o700).unwrap();
        create_dirs(&dir.path().join("a/b"), 0o700).unwrap();
        fs::write(dir.path().join("x"), b"x").unwrap();
        rename(&dir.path().join("x"), &dir.path().join("a/b/y")).unwrap();
        assert_eq!(names(&dir.path().join("a/b")), ["y"]);
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o7777, 0o700);
    }
}
