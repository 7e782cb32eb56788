//! `rclone mount` with a full cache. It waits 5 s before it uploads unless told otherwise, and sends 4 files at a time:
//! here it begins after 100 ms, with 16.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::mounted::Program;
use super::{Layout, Place, Promise};
use crate::daemon::{call, free_port};
use crate::works::Name;

const DRAIN: Duration = Duration::from_secs(300);

pub(super) const PROMISE: Promise = Promise {
    attr_ttl: "1 s, names 5 min",
    excl: "node",
    close: "in the local cache, not synced",
    fsync: "nothing",
    fsync_in_s3: false,
};

#[derive(Debug, Default)]
pub(super) struct Rclone {
    bucket: String,
    /// Of its remote control.
    port: u16,
}

impl Rclone {
    /// Files that wait for their upload, or are on their way.
    fn unsent(&self) -> anyhow::Result<u64> {
        let stats = call(self.port, "POST", "/vfs/stats").context("asking rclone what it has not sent")?;
        let stats: serde_json::Value = serde_json::from_str(&stats)?;
        let of = |name: &str| stats["diskCache"][name].as_u64().with_context(|| format!("rclone tells no {name}"));
        Ok(of("uploadsInProgress")? + of("uploadsQueued")?)
    }
}

impl Program for Rclone {
    fn name(&self) -> Name {
        Name::Rclone
    }

    fn layout(&self) -> Layout {
        Layout::Objects
    }

    fn adopt(&mut self, _place: &Place, bucket: &str) -> anyhow::Result<()> {
        self.bucket = bucket.to_owned();
        Ok(())
    }

    fn command(&mut self, place: &Place) -> anyhow::Result<Command> {
        self.port = free_port()?;
        let mut command = Command::new(place.tools.peer("rclone"));
        command.arg("mount").arg(format!("lab:{}", self.bucket)).arg(&place.root);
        command.args(["--vfs-cache-mode", "full", "--vfs-write-back", "100ms", "--transfers", "16"]);
        command.arg("--cache-dir").arg(&place.cache).args(["--rc", "--rc-no-auth", "--rc-addr"]);
        command.arg(format!("127.0.0.1:{}", self.port)).env("RCLONE_CONFIG", "/dev/null");
        let s3 = &place.s3;
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
        Ok(command)
    }

    /// A closed file is queued a moment after close has returned: it counts as done when it is so three times.
    fn drain(&mut self, _place: &Place) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut done = 0;
        while done < 3 {
            done = if self.unsent()? == 0 { done + 1 } else { 0 };
            if begun.elapsed() > DRAIN {
                bail!("rclone has not sent everything in {} s", DRAIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
