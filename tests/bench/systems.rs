//! Whoever takes part in the benchmark, behind one trait. A child a system; what they share is here.

mod bare;
mod juicefs;
mod mounted;
mod native;
mod ours;
mod rclone;
mod s3fs;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;
use tokio::runtime::Runtime;

use self::mounted::Mounted;
use crate::s3::{Access, Bucket};
use crate::server::{Server, Tools};
use crate::works::Name;

/// What a system promises by default settings: a speed says little without it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Promise {
    /// For how long attributes and names are trusted without asking again.
    pub(crate) attr_ttl: &'static str,
    /// Among whom O_EXCL is exclusive.
    pub(crate) excl: &'static str,
    /// Where a file is when close returns.
    pub(crate) close: &'static str,
    /// Where it is when fsync returns.
    pub(crate) fsync: &'static str,
    /// Whether that place is S3.
    #[serde(skip)]
    pub(crate) fsync_in_s3: bool,
}

/// How the files of a system lie in S3: whether they can be put there and looked at from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One object a file.
    Objects,
    /// Blocks and a database.
    Blocks,
    /// Not in S3 at all.
    Local,
}

/// One way to work on files in S3.
pub(crate) trait System {
    fn name(&self) -> Name;
    fn layout(&self) -> Layout;
    /// Makes the bucket its own, with nothing in it.
    fn adopt(&mut self, bucket: &str) -> anyhow::Result<()>;
    /// Mounts with empty caches; the caches of an earlier mount are thrown away.
    fn mount(&mut self) -> anyhow::Result<()>;
    /// Unmounts, when it is mounted; the daemon has ended then.
    fn unmount(&mut self) -> anyhow::Result<()>;
    /// Where its files are; none for the bare client, which has no files.
    fn root(&self) -> Option<&Path>;
    /// Waits until everything written so far is in S3.
    fn drain(&mut self) -> anyhow::Result<()>;
    /// The directory that everything of it mentions.
    fn base(&self) -> Option<&Path> {
        self.root().and_then(Path::parent)
    }
    /// The process that serves the mount.
    fn daemon(&self) -> Option<i32>;
    /// The bucket as the bare client sees it.
    fn bucket(&self) -> Option<&Bucket> {
        None
    }
}

/// What every system is made of: directories of its own and the way to S3.
#[derive(Debug, Clone)]
struct Place {
    /// The mount point.
    root: PathBuf,
    cache: PathBuf,
    log: PathBuf,
    base: PathBuf,
    s3: Access,
    tools: Tools,
}

impl Place {
    /// Throws the cache away and makes empty directories.
    fn clear(&self) -> anyhow::Result<()> {
        if self.cache.exists() {
            fs::remove_dir_all(&self.cache).context("throwing a cache away")?;
        }
        fs::create_dir_all(&self.cache)?;
        fs::create_dir_all(&self.root)?;
        Ok(())
    }
}

/// All systems that `names` says, below `ground`.
pub(crate) fn systems(
    names: &[Name],
    ground: &Path,
    server: &Server,
    tools: &Tools,
    runtime: &Arc<Runtime>,
) -> anyhow::Result<Vec<Box<dyn System>>> {
    let place = |name: Name| -> anyhow::Result<Place> {
        let base = ground.join(name.text());
        fs::create_dir_all(&base)?;
        let (root, cache, log) = (base.join("mount"), base.join("cache"), base.join("log"));
        Ok(Place { root, cache, log, base, s3: server.behind_lab.clone(), tools: tools.clone() })
    };
    let make = |name: &Name| -> anyhow::Result<Box<dyn System>> {
        let place = place(*name)?;
        Ok(match name {
            Name::Ours | Name::OursPlain | Name::OursDisk => Box::new(Mounted::new(ours::Ours::new(*name), place)),
            Name::S3fs => Box::new(Mounted::new(s3fs::S3fs::default(), place)),
            Name::Rclone => Box::new(Mounted::new(rclone::Rclone::default(), place)),
            Name::Juicefs | Name::JuicefsWriteback => {
                Box::new(Mounted::new(juicefs::Juicefs::new(*name, &place)?, place))
            }
            Name::Native => Box::new(native::Native::new(place)?),
            Name::Bare => Box::new(bare::Bare::new(Arc::clone(runtime), place.s3)),
        })
    };
    names.iter().map(make).collect()
}

/// What a system promises with the settings it has here.
pub(crate) fn promise(name: Name, tools: &Tools) -> Promise {
    match name {
        Name::Ours | Name::OursPlain | Name::OursDisk => ours::promise(name, tools),
        Name::S3fs => s3fs::PROMISE,
        Name::Rclone => rclone::PROMISE,
        Name::Juicefs => juicefs::PROMISE,
        Name::JuicefsWriteback => juicefs::PROMISE_WRITEBACK,
        Name::Native => native::PROMISE,
        Name::Bare => bare::PROMISE,
    }
}

/// Why a system cannot take part on this machine.
pub(crate) fn missing(name: Name, tools: &Tools) -> Option<String> {
    let there = |path: PathBuf| (!path.exists()).then(|| format!("{} is missing", path.display()));
    match name {
        Name::Ours | Name::OursPlain | Name::OursDisk => there(tools.agent()).or_else(|| ours::missing(name, tools)),
        Name::S3fs => there(PathBuf::from(s3fs::PROGRAM)),
        Name::Rclone => there(tools.peer("rclone")),
        Name::Juicefs | Name::JuicefsWriteback => {
            there(tools.peer("juicefs")).or_else(|| there(PathBuf::from(juicefs::REDIS)))
        }
        Name::Native | Name::Bare => None,
    }
}
