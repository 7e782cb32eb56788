//! No file system: the same bytes by the AWS SDK, many requests at a time. What it does is in [`crate::bare`].

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::{Layout, Promise, System};
use crate::s3::{Access, Bucket};
use crate::works::Name;

pub(super) const PROMISE: Promise =
    Promise { attr_ttl: "none", excl: "nobody", close: "in S3", fsync: "in S3", fsync_in_s3: true };

#[derive(Debug)]
pub(super) struct Bare {
    runtime: Arc<Runtime>,
    s3: Access,
    bucket: Option<Bucket>,
}

impl Bare {
    pub(super) fn new(runtime: Arc<Runtime>, s3: Access) -> Self {
        Self { runtime, s3, bucket: None }
    }
}

impl System for Bare {
    fn name(&self) -> Name {
        Name::Bare
    }

    fn layout(&self) -> Layout {
        Layout::Objects
    }

    fn adopt(&mut self, bucket: &str) -> anyhow::Result<()> {
        self.bucket = Some(Bucket::new(&self.runtime, &self.s3, bucket));
        Ok(())
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn root(&self) -> Option<&Path> {
        None
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn daemon(&self) -> Option<i32> {
        None
    }

    fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }
}
