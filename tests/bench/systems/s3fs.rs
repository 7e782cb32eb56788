//! s3fs of the distribution, with a cache directory: that is its fastest way to read again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{Layout, Place, Promise, System};
use crate::daemon::Daemon;
use crate::works::Name;

pub(super) const PROGRAM: &str = "/usr/bin/s3fs";

pub(super) const PROMISE: Promise =
    Promise { attr_ttl: "900 s", excl: "nobody", close: "in S3", fsync: "in S3", fsync_in_s3: true };

#[derive(Debug)]
pub(super) struct S3fs {
    place: Place,
    bucket: String,
    daemon: Option<Daemon>,
}

impl S3fs {
    pub(super) fn new(place: Place) -> anyhow::Result<Self> {
        let password = place.base.join("password");
        fs::write(&password, format!("{}:{}\n", place.s3.key, place.s3.secret))?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        Ok(Self { place, bucket: String::new(), daemon: None })
    }
}

impl System for S3fs {
    fn name(&self) -> Name {
        Name::S3fs
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
        let options = format!(
            "url={},endpoint=us-east-1,use_path_request_style,passwd_file={},use_cache={}",
            self.place.s3.endpoint,
            self.place.base.join("password").display(),
            self.place.cache.display(),
        );
        let mut command = Command::new(PROGRAM);
        command.arg(&self.bucket).arg(&self.place.root).args(["-f", "-o", &options]);
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

    /// Every close has waited for S3.
    fn drain(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn daemon(&self) -> Option<i32> {
        self.daemon.as_ref().map(Daemon::pid)
    }
}
