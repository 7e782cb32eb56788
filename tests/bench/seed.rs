//! Puts into a system's bucket what a scene starts with: from outside where one object is one file, otherwise through
//! the mount. And looks whether what a work left there is right.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, ensure};
use nix::libc;

use crate::content::Content;
use crate::material::{BIG, Material, PROGRAM, PROJECT, SMALL};
use crate::s3::Bucket;
use crate::systems::{Layout, System};
use crate::works::{Name, Seed};

const FILE: u32 = libc::S_IFREG | 0o644;
const EXECUTABLE: u32 = libc::S_IFREG | 0o755;
const DIRECTORY: u32 = libc::S_IFDIR | 0o755;

/// `direct` is the system's bucket, not behind the lab; `files` how many a directory of small ones has.
pub(crate) fn plant(
    seed: Seed,
    material: &Material,
    system: &mut dyn System,
    direct: &Bucket,
    files: u64,
) -> anyhow::Result<()> {
    let objects = system.layout() == Layout::Objects;
    // s3fs takes minutes for what it is only to be asked for: it gets its own objects without them.
    let outside = objects && (seed != Seed::SmallThroughMount || system.name() == Name::S3fs);
    match seed {
        Seed::Nothing => Ok(()),
        Seed::Project => through_mount(seed, material, system, files),
        _ if outside => from_outside(seed, material, direct, files),
        _ => through_mount(seed, material, system, files),
    }
    .with_context(|| format!("preparing {seed:?} for {}", system.name().text()))
}

fn from_outside(seed: Seed, material: &Material, direct: &Bucket, files: u64) -> anyhow::Result<()> {
    match seed {
        Seed::Big => direct.upload(BIG, material.big().whole()?.into(), FILE),
        Seed::Cold => material
            .cold()
            .into_iter()
            .try_for_each(|(name, content)| direct.upload(&name, content.whole()?.into(), FILE)),
        Seed::Small | Seed::SmallThroughMount => {
            let small = material.small(files).into_iter();
            let objects = small.map(|(name, content)| Ok((format!("{SMALL}/{name}"), content.whole()?)));
            direct.put_all(vec![(format!("{SMALL}/"), Vec::new())], DIRECTORY)?;
            direct.put_all(objects.collect::<anyhow::Result<Vec<_>>>()?, FILE)
        }
        Seed::Program => direct.upload(PROGRAM, fs::read(&material.program)?.into(), EXECUTABLE),
        Seed::Nothing | Seed::Project => Ok(()),
    }
}

fn through_mount(seed: Seed, material: &Material, system: &mut dyn System, files: u64) -> anyhow::Result<()> {
    system.mount()?;
    let root = system.root().context("a mount")?.to_owned();
    match seed {
        Seed::Big => fs::write(root.join(BIG), material.big().whole()?)?,
        Seed::Cold => {
            for (name, content) in material.cold() {
                fs::write(root.join(name), content.whole()?)?;
            }
        }
        Seed::Small | Seed::SmallThroughMount => {
            fs::create_dir(root.join(SMALL))?;
            for (name, content) in material.small(files) {
                fs::write(root.join(SMALL).join(name), content.whole()?)?;
            }
        }
        Seed::Program => {
            fs::write(root.join(PROGRAM), fs::read(&material.program)?)?;
            fs::set_permissions(root.join(PROGRAM), fs::Permissions::from_mode(0o755))?;
        }
        Seed::Project => {
            fs::create_dir(root.join(PROJECT))?;
            for entry in fs::read_dir(&material.project)? {
                let entry = entry?;
                fs::write(root.join(PROJECT).join(entry.file_name()), fs::read(entry.path())?)?;
            }
        }
        Seed::Nothing => {}
    }
    system.drain()
}

/// What must be in S3 after a work.
#[derive(Debug, Clone)]
pub(crate) enum Expect {
    Nothing,
    Files(Vec<(String, Content)>),
    /// So many files below a directory, and none below another.
    Moved {
        files: u64,
        from: String,
        to: String,
    },
    Gone(String),
}

/// Looks from outside where that is possible, otherwise through a mount with empty caches.
pub(crate) fn check(expected: &Expect, system: &mut dyn System, direct: &Bucket) -> anyhow::Result<()> {
    system.drain()?;
    let what = || format!("what {} left", system_text(expected));
    if system.layout() == Layout::Objects {
        return check_outside(expected, direct).with_context(what);
    }
    system.mount()?;
    let root = system.root().context("a mount")?.to_owned();
    check_inside(expected, &root).with_context(what)
}

fn system_text(expected: &Expect) -> String {
    match expected {
        Expect::Nothing => "nothing".to_owned(),
        Expect::Files(files) => format!("{} files", files.len()),
        Expect::Moved { from, to, .. } => format!("a move of {from} to {to}"),
        Expect::Gone(path) => format!("a removal of {path}"),
    }
}

fn check_outside(expected: &Expect, direct: &Bucket) -> anyhow::Result<()> {
    let count = |prefix: &str| {
        anyhow::Ok(direct.list(&format!("{prefix}/"))?.iter().filter(|(key, _)| !key.ends_with('/')).count() as u64)
    };
    match expected {
        Expect::Nothing => Ok(()),
        Expect::Files(files) if files.len() > 1 => {
            let got = direct.get_all(files.iter().map(|(name, _)| name.clone()).collect())?;
            let got: std::collections::HashMap<_, _> = got.into_iter().collect();
            files.iter().try_for_each(|(name, content)| {
                let bytes = got.get(name).with_context(|| format!("{name} is not there"))?;
                same(name, content, bytes)
            })
        }
        Expect::Files(files) => files.iter().try_for_each(|(name, content)| {
            let size = direct.list(name)?.into_iter().find(|(key, _)| key == name).map(|(_, size)| size);
            ensure!(size == Some(content.bytes), "{name} has {size:?} bytes in the place of {}", content.bytes);
            let mut offset = 0;
            direct.download(name, content.bytes)?.iter().try_for_each(|bytes| {
                content.check(offset, bytes).with_context(|| name.clone())?;
                offset += bytes.len() as u64;
                Ok(())
            })
        }),
        Expect::Moved { files, from, to } => {
            let found = (count(from)?, count(to)?);
            ensure!(found == (0, *files), "{found:?} files below {from} and {to}, not 0 and {files}");
            Ok(())
        }
        Expect::Gone(path) => {
            let left = direct.list(&format!("{path}/"))?;
            ensure!(left.is_empty(), "{} objects are left below {path}", left.len());
            Ok(())
        }
    }
}

fn check_inside(expected: &Expect, root: &Path) -> anyhow::Result<()> {
    match expected {
        Expect::Nothing => Ok(()),
        Expect::Files(files) => files.iter().try_for_each(|(name, content)| check_file(&root.join(name), content)),
        Expect::Moved { files, from, to } => {
            let found = (root.join(from).exists(), fs::read_dir(root.join(to))?.count() as u64);
            ensure!(found == (false, *files), "{found:?}, not the {files} files of {from} in {to}");
            Ok(())
        }
        Expect::Gone(path) => {
            ensure!(!root.join(path).exists(), "{path} is still there");
            Ok(())
        }
    }
}

/// Every byte of a file.
pub(crate) fn check_file(path: &Path, content: &Content) -> anyhow::Result<()> {
    let name = path.display().to_string();
    if content.bytes <= 1 << 20 {
        return same(&name, content, &fs::read(path).with_context(|| name.clone())?);
    }
    let file = fs::File::open(path)?;
    ensure!(file.metadata()?.len() == content.bytes, "{name} has not {} bytes", content.bytes);
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < content.bytes {
        let wanted = usize::try_from(content.bytes - offset)?.min(buffer.len());
        file.read_exact_at(&mut buffer[..wanted], offset)?;
        content.check(offset, &buffer[..wanted]).with_context(|| name.clone())?;
        offset += wanted as u64;
    }
    Ok(())
}

fn same(name: &str, content: &Content, bytes: &[u8]) -> anyhow::Result<()> {
    ensure!(bytes.len() as u64 == content.bytes, "{name} has {} bytes in the place of {}", bytes.len(), content.bytes);
    content.check(0, bytes).with_context(|| name.to_owned())
}
