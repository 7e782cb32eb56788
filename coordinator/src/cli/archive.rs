//! Tar streams of files and directories on this machine, named as `cp -r` names copies.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use bytes::{Bytes, BytesMut};
use ec2mpi_proto::CHUNK_BYTES;
use tar::{Archive, Builder, Entry, EntryType};

/// A writer that hands chunks of the wire's size on.
pub(super) struct Chunks<S: FnMut(Bytes) -> bool> {
    buffer: BytesMut,
    send: S,
}

impl<S: FnMut(Bytes) -> bool> Chunks<S> {
    /// `send` answers false when nobody takes the data any more.
    pub(super) fn new(send: S) -> Self {
        Self { buffer: BytesMut::with_capacity(CHUNK_BYTES), send }
    }
}

impl<S: FnMut(Bytes) -> bool> Write for Chunks<S> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&data[..taken]);
        if self.buffer.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK_BYTES)).freeze();
        if (self.send)(chunk) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

/// Whether packing failed because nobody takes the data.
pub(super) fn is_unsendable(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<io::Error>().map(io::Error::kind);
    error.chain().any(|cause| kind(cause) == Some(io::ErrorKind::BrokenPipe))
}

/// Fails on a source that is missing, or a directory without `-r`.
pub(super) fn check_source(source: &Path, recursive: bool) -> anyhow::Result<()> {
    let metadata = fs::metadata(source).with_context(|| format!("cannot read {}", source.display()))?;
    if metadata.is_dir() && !recursive {
        bail!("{} is a directory: use -r", source.display());
    }
    if !metadata.is_dir() && !metadata.is_file() {
        bail!("{} is neither a file nor a directory", source.display());
    }
    Ok(())
}

/// Writes a file, or a directory with all that is in it, under its own name. Symbolic links inside stay links.
pub(super) fn pack(source: &Path, output: impl Write) -> anyhow::Result<()> {
    let real = fs::canonicalize(source).with_context(|| format!("cannot read {}", source.display()))?;
    // `..` and `.` have no name of their own, and a link is copied under the link's name.
    let name = source.file_name().or_else(|| real.file_name());
    let name = name.ok_or_else(|| anyhow!("{} has no name to copy it under", source.display()))?;
    let mut builder = Builder::new(output);
    builder.follow_symlinks(false);
    let packed =
        if real.is_dir() { builder.append_dir_all(name, &real) } else { builder.append_path_with_name(&real, name) };
    packed.with_context(|| format!("cannot copy {}", source.display()))?;
    builder
        .into_inner()
        .and_then(|mut output| output.flush())
        .with_context(|| format!("cannot copy {}", source.display()))
}

/// Unpacks what [`pack`], or a node, wrote: into `target` if that is a directory, else as `target`.
pub(super) fn unpack(input: impl Read, target: &Path, recursive: bool) -> anyhow::Result<()> {
    let unpacker = Unpacker::new(target, recursive)?;
    let mut archive = Archive::new(input);
    let mut directories = Vec::new();
    let mut any = false;
    for entry in archive.entries().context("cannot read the copy")? {
        let mut entry = entry.context("the copy broke off")?;
        any = true;
        directories.extend(unpacker.unpack(&mut entry)?);
    }
    if !any {
        bail!("nothing came: is the path right?");
    }
    // Last, and the deepest first: a directory may be read-only.
    for (path, mode) in directories.into_iter().rev() {
        fs::set_permissions(&path, Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the permissions of {}", path.display()))?;
    }
    Ok(())
}

/// Where entries go. A node's word is not trusted: nothing is written outside `target`, not even through links that
/// came with the copy.
struct Unpacker {
    target: PathBuf,
    into: bool,
    recursive: bool,
}

impl Unpacker {
    fn new(target: &Path, recursive: bool) -> anyhow::Result<Self> {
        let into = target.is_dir();
        let wants_directory = target.as_os_str().as_encoded_bytes().ends_with(b"/");
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        if !into && parent.is_some_and(|parent| !parent.is_dir()) || !into && wants_directory && !recursive {
            bail!("there is no directory for {}", target.display());
        }
        Ok(Self { target: target.to_owned(), into, recursive })
    }

    /// Unpacks one entry; a directory's permissions are for later.
    fn unpack<R: Read>(&self, entry: &mut Entry<'_, R>) -> anyhow::Result<Option<(PathBuf, u32)>> {
        let name = entry.path().context("the copy holds a name that cannot be read")?.into_owned();
        let relative = self.relative(&name)?;
        // Joining nothing would add a slash, and so ask for a directory.
        let path = if relative.as_os_str().is_empty() { self.target.clone() } else { self.target.join(&relative) };
        self.no_link_on_the_way(&relative)?;
        match entry.header().entry_type() {
            EntryType::Directory => {
                if !self.recursive {
                    bail!("{} is a directory: use -r", name.display());
                }
                make_directory(&path).with_context(|| format!("cannot make the directory {}", path.display()))?;
                Ok(Some((path, entry.header().mode().unwrap_or(0o755) & 0o777)))
            }
            EntryType::Regular | EntryType::GNUSparse | EntryType::Symlink => {
                entry.unpack(&path).with_context(|| format!("cannot write {}", path.display()))?;
                Ok(None)
            }
            _ => bail!("{} is neither file, directory nor symbolic link: it cannot be copied", name.display()),
        }
    }

    /// The path below `target`: with the entry's own first name if that is a directory, else without.
    fn relative(&self, name: &Path) -> anyhow::Result<PathBuf> {
        let mut parts = Vec::new();
        for part in name.components() {
            match part {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                    bail!("the copy holds the name {}, which leads out of it", name.display())
                }
            }
        }
        Ok(parts.into_iter().skip(usize::from(!self.into)).collect())
    }

    /// The user's own directories below `target` may be links; what leads there from the copy may not.
    fn no_link_on_the_way(&self, relative: &Path) -> anyhow::Result<()> {
        let mut path = self.target.clone();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            path.push(part);
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
                bail!("{} is a symbolic link: nothing is copied through it", path.display());
            }
        }
        Ok(())
    }
}

/// Writable until all is unpacked; one that is there already will do.
fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(path)?.is_dir() => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn packed(source: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut largest = 0;
        let send = |chunk: Bytes| {
            largest = largest.max(chunk.len());
            bytes.extend_from_slice(&chunk);
            true
        };
        pack(source, Chunks::new(send)).unwrap();
        assert!(largest <= CHUNK_BYTES);
        bytes
    }

    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("src");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("sub/big"), vec![7; 3 * CHUNK_BYTES + 5]).unwrap();
        fs::write(source.join("empty"), b"").unwrap();
        fs::set_permissions(source.join("empty"), Permissions::from_mode(0o750)).unwrap();
        symlink("empty", source.join("link")).unwrap();
        directory
    }

    #[test]
    fn a_directory_becomes_the_target_or_goes_into_it() {
        let directory = tree();
        let bytes = packed(&directory.path().join("src"));
        let target = directory.path().join("copy");
        unpack(&bytes[..], &target, true).unwrap();
        assert_eq!(fs::read(target.join("sub/big")).unwrap(), vec![7; 3 * CHUNK_BYTES + 5]);
        assert_eq!(fs::metadata(target.join("empty")).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("empty"));
        unpack(&bytes[..], &target, true).unwrap();
        assert!(target.join("src/sub/big").is_file(), "the second copy goes into the first, as with cp -r");
        unpack(&bytes[..], &target, true).unwrap();
    }

    #[test]
    fn a_file_takes_the_targets_name_and_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&source, b"new").unwrap();
        fs::write(&target, b"old and longer").unwrap();
        unpack(&packed(&source)[..], &target, false).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(unpack(&packed(&source)[..], &directory.path().join("none/b"), false).is_err());
    }

    #[test]
    fn directories_want_r() {
        let directory = tree();
        let source = directory.path().join("src");
        assert!(check_source(&source, false).unwrap_err().to_string().contains("-r"));
        let error = unpack(&packed(&source)[..], &directory.path().join("copy"), false).unwrap_err();
        assert!(error.to_string().contains("-r"), "{error:#}");
        assert!(check_source(&directory.path().join("none"), true).is_err());
    }

    fn hostile(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(builder: &mut Builder<Vec<u8>>, name: &str) {
        let mut header = tar::Header::new_gnu();
        // Past the checks of `set_path`, as someone who means harm would.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(1);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
    }

    #[test]
    fn nothing_is_written_outside_the_target() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("inside");
        fs::create_dir(&inside).unwrap();
        for name in ["../out", "a/../../out", "/tmp/ec2mpi-out"] {
            let error = unpack(&hostile(|builder| file(builder, name))[..], &inside, true).unwrap_err();
            assert!(error.to_string().contains("leads out"), "{error:#}");
        }
        let through_a_link = hostile(|builder| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, "link", "..").unwrap();
            file(builder, "link/out");
        });
        let error = unpack(&through_a_link[..], &inside, true).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error:#}");
        assert!(!directory.path().join("out").exists());
    }

    #[test]
    fn a_copy_that_breaks_off_is_an_error() {
        let directory = tree();
        let bytes = packed(&directory.path().join("src"));
        let cut = &bytes[..bytes.len() / 2];
        assert!(unpack(cut, &directory.path().join("copy"), true).is_err());
        assert!(unpack(&b""[..], &directory.path().join("nothing"), true).is_err());
    }
}
