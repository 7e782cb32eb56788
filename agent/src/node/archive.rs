//! `pack` and `unpack`: a file or a tree as a tar stream, named as `cp -r` would name it. Both run as the user of the
//! jobs, so the kernel judges what may be read and written; that names stay below their target is judged here.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, bail};
use tar::{Entry, EntryType, Header};

/// Writes `path` as a tar stream whose only top-level name is its base name. Links inside a tree stay links, `path`
/// itself is followed. Sockets, pipes and devices are left out, with a word on stderr.
pub fn pack(path: &Path, to: impl Write) -> anyhow::Result<()> {
    let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?;
    let top = path.canonicalize().with_context(|| format!("cannot copy {}", path.display()))?;
    let mut archive = tar::Builder::new(to);
    let mut left = vec![(top, PathBuf::from(name))];
    while let Some((file, name)) = left.pop() {
        let more = pack_one(&mut archive, &file, &name).with_context(|| format!("cannot copy {}", file.display()))?;
        left.extend(more);
    }
    archive.into_inner()?.flush().context("cannot send the copy")
}

/// Returns what is below a directory.
fn pack_one(
    archive: &mut tar::Builder<impl Write>,
    file: &Path,
    name: &Path,
) -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
    let meta = file.symlink_metadata()?;
    let mut header = Header::new_gnu();
    header.set_metadata(&meta);
    if meta.is_dir() {
        archive.append_data(&mut header, name, io::empty())?;
        return children(file, name);
    }
    if meta.is_symlink() {
        archive.append_link(&mut header, name, fs::read_link(file)?)?;
    } else if meta.is_file() {
        pack_file(archive, &mut header, file, name)?;
    } else {
        eprintln!("{}: neither file, directory nor link, left out", file.display());
    }
    Ok(Vec::new())
}

fn children(dir: &Path, name: &Path) -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        all.push((entry.path(), name.join(entry.file_name())));
    }
    // Popped from the end: so a tree goes out in the order of its names.
    all.sort_by(|one, other| other.cmp(one));
    Ok(all)
}

/// The header says how many bytes follow, so a file that is written to meanwhile counts with its size at the start,
/// and one that shrinks fails the copy.
fn pack_file(
    archive: &mut tar::Builder<impl Write>,
    header: &mut Header,
    file: &Path,
    name: &Path,
) -> anyhow::Result<()> {
    let open = File::open(file)?;
    let size = open.metadata()?.size();
    header.set_size(size);
    let mut counted = Counted { from: open.take(size), bytes: 0 };
    archive.append_data(header, name, &mut counted)?;
    if counted.bytes != size {
        bail!("it shrank from {size} to {} bytes while it was read", counted.bytes);
    }
    Ok(())
}

struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Unpacks a tar stream with one top-level name: into `target` where that is a directory, as `target` otherwise.
/// Names that lead out of it are refused, and so is a way through a link. Modes and times are kept, owners are not.
pub fn unpack(target: &Path, from: impl Read) -> anyhow::Result<()> {
    let into_dir = target.is_dir();
    if !into_dir && !target.parent().is_some_and(Path::is_dir) {
        bail!("{}: no such directory", target.parent().unwrap_or(target).display());
    }
    let mut archive = tar::Archive::new(from);
    let mut top = None;
    let mut dirs = Vec::new();
    for entry in archive.entries().context("not a tar stream")? {
        let mut entry = entry.context("the copy is damaged")?;
        let parts = parts(&entry.path().context("the copy has an illegal name")?)?;
        if top.get_or_insert_with(|| parts[0].clone()) != &parts[0] {
            bail!("the copy has more than one top-level name");
        }
        let place = place(target, into_dir, &parts)?;
        unpack_one(&mut entry, &place, &mut dirs).with_context(|| format!("cannot write {}", place.display()))?;
    }
    if top.is_none() {
        bail!("the copy is empty");
    }
    // Last and from the inside out: a directory may forbid writing, and each file in it sets its time.
    dirs.into_iter().rev().try_for_each(|(dir, mode, mtime)| finish_dir(&dir, mode, mtime))
}

/// The parts of a legal name; at least one.
fn parts(name: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(PathBuf::from(part)),
            _ => bail!("the copy has an illegal name: {}", name.display()),
        }
    }
    if parts.is_empty() {
        bail!("the copy has an illegal name: {}", name.display());
    }
    Ok(parts)
}

/// Where an entry goes; no link on the way there below the target.
fn place(target: &Path, into_dir: bool, parts: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let mut place = target.to_owned();
    for part in parts.iter().skip(usize::from(!into_dir)) {
        if place != target && place.is_symlink() {
            bail!("the copy leads through the link {}", place.display());
        }
        place.push(part);
    }
    Ok(place)
}

fn unpack_one(
    entry: &mut Entry<'_, impl Read>,
    place: &Path,
    dirs: &mut Vec<(PathBuf, u32, u64)>,
) -> anyhow::Result<()> {
    match entry.header().entry_type() {
        EntryType::Directory => {
            if !place.is_dir() {
                fs::create_dir(place)?;
            }
            fs::set_permissions(place, Permissions::from_mode(0o700))?;
            dirs.push((place.to_owned(), entry.header().mode()? & 0o7777, entry.header().mtime()?));
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Symlink => {
            entry.set_preserve_mtime(true);
            entry.set_preserve_permissions(true);
            entry.unpack(place)?;
        }
        other => bail!("an entry of type {other:?} is not taken"),
    }
    Ok(())
}

fn finish_dir(dir: &Path, mode: u32, mtime: u64) -> anyhow::Result<()> {
    let finish = || -> io::Result<()> {
        let open = File::open(dir)?;
        open.set_permissions(Permissions::from_mode(mode))?;
        open.set_times(FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(mtime)))
    };
    finish().with_context(|| format!("cannot finish {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
        let mut stream = Vec::new();
        pack(from, &mut stream)?;
        unpack(to, stream.as_slice())
    }

    #[test]
    fn names_are_those_of_cp() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, there) = (dir.path().join("tree"), dir.path().join("there"));
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub/file"), "x").unwrap();
        copy(&tree, &there).unwrap();
        assert_eq!(fs::read_to_string(there.join("sub/file")).unwrap(), "x");
        copy(&tree, &there).unwrap();
        assert_eq!(fs::read_to_string(there.join("tree/sub/file")).unwrap(), "x");
        copy(&tree.join("sub/file"), &dir.path().join("renamed")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("renamed")).unwrap(), "x");
        let error = copy(&tree, &dir.path().join("no/where")).unwrap_err().to_string();
        assert!(error.contains("no such directory"), "{error}");
        assert!(copy(&dir.path().join("nothing"), &there).is_err());
    }

    #[test]
    fn modes_times_links_and_long_names_survive_also_below_a_locked_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, there) = (dir.path().join("tree"), dir.path().join("there"));
        let long = "n".repeat(200);
        let then = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::create_dir_all(tree.join("locked")).unwrap();
        for (name, mode) in [("run.sh", 0o750), ("locked/data", 0o640), (long.as_str(), 0o600)] {
            fs::write(tree.join(name), name).unwrap();
            fs::set_permissions(tree.join(name), Permissions::from_mode(mode)).unwrap();
            File::open(tree.join(name)).unwrap().set_times(FileTimes::new().set_modified(then)).unwrap();
        }
        symlink("run.sh", tree.join("latest")).unwrap();
        symlink("/nowhere", tree.join("dangling")).unwrap();
        File::open(tree.join("locked")).unwrap().set_times(FileTimes::new().set_modified(then)).unwrap();
        fs::set_permissions(tree.join("locked"), Permissions::from_mode(0o555)).unwrap();
        copy(&tree, &there).unwrap();
        for (name, mode) in [("run.sh", 0o750), ("locked/data", 0o640), (long.as_str(), 0o600), ("locked", 0o555)] {
            let meta = fs::metadata(there.join(name)).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.mtime()), (mode, 1_000_000_000), "{name}");
        }
        assert_eq!(fs::read_to_string(there.join(&long)).unwrap(), long);
        assert_eq!(fs::read_link(there.join("latest")).unwrap(), Path::new("run.sh"));
        assert_eq!(fs::read_link(there.join("dangling")).unwrap(), Path::new("/nowhere"));
    }

    #[test]
    fn nothing_leads_out_of_the_target() {
        for bad in ["../x", "/etc/x", "a/../../x", "."] {
            assert!(parts(Path::new(bad)).is_err(), "{bad}");
        }
        let inside = parts(Path::new("./a/b")).unwrap();
        assert_eq!(place(Path::new("/t"), false, &inside).unwrap(), Path::new("/t/b"));
        assert_eq!(place(Path::new("/t"), true, &inside).unwrap(), Path::new("/t/a/b"));
    }

    #[test]
    fn a_link_in_the_copy_is_no_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, target) = (dir.path().join("outside"), dir.path().join("target"));
        fs::create_dir(&outside).unwrap();
        let mut stream = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o755);
        header.set_entry_type(EntryType::Directory);
        stream.append_data(&mut header, "top", io::empty()).unwrap();
        header.set_entry_type(EntryType::Symlink);
        stream.append_link(&mut header, "top/out", &outside).unwrap();
        header.set_entry_type(EntryType::Regular);
        stream.append_data(&mut header, "top/out/planted", io::empty()).unwrap();
        let error = unpack(&target, stream.into_inner().unwrap().as_slice()).unwrap_err().to_string();
        assert!(error.contains("leads through the link"), "{error}");
        assert!(!outside.join("planted").exists());
    }
}
