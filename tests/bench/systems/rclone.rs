//! `rclone mount` with a full cache. It waits 5 s before it uploads unless told otherwise, and sends 4 files at a time:
//! here it begins after 100 ms, with 16.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Layout, Place, Promise, System};
use crate::daemon::{Daemon, call, free_port};
use crate::works::Name;

const DRAIN: Duration = Duration::from_secs(300);

pub(super) const PROMISE: Promise = Promise {
    attr_ttl: "1 s, names 5 min",
    excl: "node",
    close: "in the local cache, not synced",
    fsync: "nothing",
    fsync_in_s3: false,
};

#[derive(Debug)]
pub(super) struct Rclone {
    place: Place,
    bucket: String,
    port: u16,
    daemon: Option<Daemon>,
}

impl Rclone {
    pub(super) fn new(place: Place) -> Self {
        Self { place, bucket: String::new(), port: 0, daemon: None }
    }

    /// Files that wait for their upload, or are on their way.
    fn unsent(&self) -> anyhow::Result<u64> {
        let stats = call(self.port, "POST", "/vfs/stats").context("asking rclone what it has not sent")?;
        let stats: serde_json::Value = serde_json::from_str(&stats)?;
        let of = |name: &str| stats["diskCache"][name].as_u64().with_context(|| format!("rclone tells no {name}"));
        Ok(of("uploadsInProgress")? + of("uploadsQueued")?)
    }
}

impl System for Rclone {
    fn name(&self) -> Name {
        Name::Rclone
    }

    fn layout(&self) -> Layout {
        Layout::Objects
    }

    fn adopt(&mut self, bucket: &str) -> anyhow::Result<()> {
        self.bucket = bucket.to_owned();
        Ok(())
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.place.clear()?;
        self.port = free_port()?;
        let mut command = Command::new(self.place.tools.peer("rclone"));
        command.arg("mount").arg(format!("lab:{}", self.bucket)).arg(&self.place.root);
        command.args(["--vfs-cache-mode", "full", "--vfs-write-back", "100ms", "--transfers", "16"]);
        command.arg("--cache-dir").arg(&self.place.cache).args(["--rc", "--rc-no-auth", "--rc-addr"]);
        command.arg(format!("127.0.0.1:{}", self.port)).env("RCLONE_CONFIG", "/dev/null");
        let s3 = &self.place.s3;
        for (name, value) in [
            ("TYPE", "s3"),
            ("PROVIDER", "Other"),
            ("ACCESS_KEY_ID", &s3.key),
            ("SECRET_ACCESS_KEY", &s3.secret),
            ("ENDPOINT", &s3.endpoint),
            ("REGION", "us-east-1"),
            ("FORCE_PATH_STYLE", "true"),
        ] {
            command.env(format!("RCLONE_CONFIG_LAB_{name}"), value);
        }
        let mut daemon = Daemon::start(command, &self.place.log)?;
        daemon.wait_for_mount(&self.place.root)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        self.daemon.take().map_or(Ok(()), |daemon| daemon.unmount(&self.place.root))
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.place.root)
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.unsent()? > 0 {
            if begun.elapsed() > DRAIN {
                bail!("rclone has not sent everything in {} s", DRAIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn daemon(&self) -> Option<i32> {
        self.daemon.as_ref().map(Daemon::pid)
    }
}
