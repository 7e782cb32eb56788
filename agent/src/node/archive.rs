//! `pack` and `unpack`: a file or a tree as a tar stream, named as `cp -r` would name it. Both run as the user of the
//! jobs.

use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};

/// Writes `path` as a tar stream whose only top-level name is its base name.
pub fn pack(path: &Path, to: impl Write) -> anyhow::Result<()> {
    let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?;
    let meta = path.symlink_metadata().with_context(|| format!("cannot read {}", path.display()))?;
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    let packed =
        if meta.is_dir() { archive.append_dir_all(name, path) } else { archive.append_path_with_name(path, name) };
    packed.with_context(|| format!("cannot copy {}", path.display()))?;
    archive.into_inner()?.flush().context("cannot send the copy")
}

/// Unpacks a tar stream with one top-level name: into `target` where that is a directory, as `target` otherwise.
/// Names that lead out of it are refused.
pub fn unpack(target: &Path, from: impl Read) -> anyhow::Result<()> {
    let into_dir = target.is_dir();
    if !into_dir && !target.parent().is_some_and(Path::is_dir) {
        bail!("{}: no such directory", target.parent().unwrap_or(target).display());
    }
    let mut archive = tar::Archive::new(from);
    let mut entries = 0_u64;
    for entry in archive.entries().context("not a tar stream")? {
        let mut entry = entry.context("the copy is damaged")?;
        let name = entry.path().context("the copy has an illegal name")?.into_owned();
        let place = place(target, into_dir, &name)?;
        entry.set_preserve_mtime(true);
        entry.set_preserve_permissions(true);
        entry.unpack(&place).with_context(|| format!("cannot write {}", place.display()))?;
        entries += 1;
    }
    if entries == 0 {
        bail!("the copy is empty");
    }
    Ok(())
}

/// Where an entry goes.
fn place(target: &Path, into_dir: bool, name: &Path) -> anyhow::Result<PathBuf> {
    let normal = name.components().filter(|part| !matches!(part, Component::CurDir));
    let parts: Vec<Component<'_>> = normal.collect();
    if parts.is_empty() || parts.iter().any(|part| !matches!(part, Component::Normal(_))) {
        bail!("the copy has an illegal name: {}", name.display());
    }
    let rest: PathBuf = parts.iter().skip(usize::from(!into_dir)).collect();
    Ok(if rest.as_os_str().is_empty() { target.to_owned() } else { target.join(rest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
        let mut stream = Vec::new();
        pack(from, &mut stream)?;
        unpack(to, stream.as_slice())
    }

    #[test]
    fn names_are_those_of_cp() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, there) = (dir.path().join("tree"), dir.path().join("there"));
        std::fs::create_dir_all(tree.join("sub")).unwrap();
        std::fs::write(tree.join("sub/file"), "x").unwrap();
        copy(&tree, &there).unwrap();
        assert_eq!(std::fs::read_to_string(there.join("sub/file")).unwrap(), "x");
        copy(&tree, &there).unwrap();
        assert_eq!(std::fs::read_to_string(there.join("tree/sub/file")).unwrap(), "x");
        copy(&tree.join("sub/file"), &dir.path().join("renamed")).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("renamed")).unwrap(), "x");
        let error = copy(&tree, &dir.path().join("no/where")).unwrap_err().to_string();
        assert!(error.contains("no such directory"), "{error}");
    }

    #[test]
    fn nothing_leads_out_of_the_target() {
        for bad in ["../x", "/etc/x", "a/../../x", "."] {
            assert!(place(Path::new("/t"), true, Path::new(bad)).is_err(), "{bad}");
        }
        assert_eq!(place(Path::new("/t"), false, Path::new("./a/b")).unwrap(), Path::new("/t/b"));
    }
}
