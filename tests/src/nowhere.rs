//! A script run where nothing answers: a network without routes, processes of its own, and a disk that keeps what it
//! changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::outcome::{Outcome, Running};
use crate::secret::files_below;
use crate::site::Site;
use crate::wait::seconds;

/// A script that runs nowhere.
#[derive(Debug)]
pub struct Nowhere {
    upper: PathBuf,
    process: Running,
}

/// The root of the host with changes of its own, and no way out.
const ENTER: &str = r#"
    mount --make-rprivate /
    mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
    mount -t proc proc "$1/root/proc"
    mount --rbind /dev "$1/root/dev"
    exec chroot "$1/root" /bin/sh -c "$2""#;

impl Nowhere {
    /// Starts the script.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn run(site: &Site, script: &str) -> Self {
        let place = site.path("nowhere");
        for name in ["upper", "work", "root"] {
            fs::create_dir_all(place.join(name)).expect("a site can be written");
        }
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--fork",
            "--kill-child",
            "sh",
            "-ec",
            ENTER,
            "sh",
        ]);
        command.arg(&place).arg(script).env_remove("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        Self { upper: place.join("upper"), process: Running::start(command, &site.path("output")) }
    }

    /// How it ended, and which files it changed.
    #[track_caller]
    pub fn end(self) -> (Outcome, Vec<PathBuf>) {
        let outcome = self.process.wait(seconds(120));
        let relative = |path: &Path| path.strip_prefix(&self.upper).unwrap_or(path).to_owned();
        (outcome, files_below(&self.upper, &[]).iter().map(|path| relative(path)).collect())
    }
}
