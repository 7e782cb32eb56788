//! The local disk, where the caches of the others are too.

use std::fs;
use std::path::Path;

use super::{Layout, Place, Promise, System};
use crate::works::Name;

pub(super) const PROMISE: Promise = Promise {
    attr_ttl: "none needed",
    excl: "node",
    close: "in the page cache",
    fsync: "on the local disk",
    fsync_in_s3: false,
};

#[derive(Debug)]
pub(super) struct Native {
    place: Place,
}

impl Native {
    pub(super) fn new(place: Place) -> anyhow::Result<Self> {
        fs::create_dir_all(&place.root)?;
        Ok(Self { place })
    }
}

impl System for Native {
    fn name(&self) -> Name {
        Name::Native
    }

    fn layout(&self) -> Layout {
        Layout::Local
    }

    fn adopt(&mut self, _bucket: &str) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.place.root)?;
        Ok(fs::create_dir_all(&self.place.root)?)
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.place.root)
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn daemon(&self) -> Option<i32> {
        None
    }
}
