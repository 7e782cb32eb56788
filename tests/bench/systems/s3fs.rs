//! s3fs of the distribution, with a cache directory: that is its fastest way to read again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::mounted::Program;
use super::{Layout, Place, Promise};
use crate::works::Name;

pub(super) const PROGRAM: &str = "/usr/bin/s3fs";

pub(super) const PROMISE: Promise =
    Promise { attr_ttl: "900 s", excl: "nobody", close: "in S3", fsync: "in S3", fsync_in_s3: true };

#[derive(Debug, Default)]
pub(super) struct S3fs {
    bucket: String,
}

impl Program for S3fs {
    fn name(&self) -> Name {
        Name::S3fs
    }

    fn layout(&self) -> Layout {
        Layout::Objects
    }

    fn adopt(&mut self, place: &Place, bucket: &str) -> anyhow::Result<()> {
        let password = place.base.join("password");
        fs::write(&password, format!("{}:{}\n", place.s3.key, place.s3.secret))?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        self.bucket = bucket.to_owned();
        Ok(())
    }

    fn command(&mut self, place: &Place) -> anyhow::Result<Command> {
        let options = format!(
            "url={},endpoint=us-east-1,use_path_request_style,passwd_file={},use_cache={}",
            place.s3.endpoint,
            place.base.join("password").display(),
            place.cache.display(),
        );
        let mut command = Command::new(PROGRAM);
        command.arg(&self.bucket).arg(&place.root).args(["-f", "-o", &options]);
        Ok(command)
    }

    /// Every close has waited for S3.
    fn drain(&mut self, _place: &Place) -> anyhow::Result<()> {
        Ok(())
    }
}
