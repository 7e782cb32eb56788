//! Extended attributes: get, list, set, remove. `user.` and `trusted.` are kept; the kernel sees to who may do what.

use std::ffi::OsStr;

use super::attributes::Written;
use crate::volume::Volume;
use crate::volume::attr::Time;
use crate::volume::error::{Result, VolumeError};
use crate::volume::tree::Ino;

const KEPT: [&str; 2] = ["user.", "trusted."];

/// What `setxattr` does by its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetMode {
    Always,
    /// `XATTR_CREATE`.
    Create,
    /// `XATTR_REPLACE`.
    Replace,
}

impl SetMode {
    pub(crate) fn by_flags(flags: i32) -> Result<Self> {
        match flags {
            0 => Ok(Self::Always),
            libc::XATTR_CREATE => Ok(Self::Create),
            libc::XATTR_REPLACE => Ok(Self::Replace),
            _ => Err(VolumeError::Invalid("flags of setxattr")),
        }
    }
}

/// A name of an attribute that can be kept.
pub(crate) fn parse_attribute(name: &OsStr) -> Result<&str> {
    let kept =
        name.to_str().filter(|name| KEPT.iter().any(|space| name.len() > space.len() && name.starts_with(space)));
    kept.ok_or(VolumeError::NotSupported("attributes but user and trusted ones"))
}

impl Volume {
    pub(crate) async fn get_attribute(&self, ino: Ino, name: &str) -> Result<Vec<u8>> {
        self.up_to_date(ino).await?;
        let mut xattrs = self.tree().get(ino)?.extra.xattrs();
        xattrs.remove(name).ok_or(VolumeError::NoAttribute)
    }

    /// The names, each ended by a zero byte.
    pub(crate) async fn list_attributes(&self, ino: Ino) -> Result<Vec<u8>> {
        self.up_to_date(ino).await?;
        let xattrs = self.tree().get(ino)?.extra.xattrs();
        let shown = xattrs.into_keys().filter(|name| KEPT.iter().any(|space| name.starts_with(space)));
        Ok(shown.flat_map(|name| name.into_bytes().into_iter().chain([0])).collect())
    }

    pub(crate) async fn set_attribute(&self, ino: Ino, name: &str, value: Vec<u8>, mode: SetMode) -> Result<()> {
        self.change_attributes(ino, |xattrs| {
            match (mode, xattrs.contains_key(name)) {
                (SetMode::Create, true) => return Err(VolumeError::Exists),
                (SetMode::Replace, false) => return Err(VolumeError::NoAttribute),
                _ => xattrs.insert(name.to_owned(), value),
            };
            Ok(())
        })
        .await
    }

    pub(crate) async fn remove_attribute(&self, ino: Ino, name: &str) -> Result<()> {
        self.change_attributes(ino, |xattrs| xattrs.remove(name).map(drop).ok_or(VolumeError::NoAttribute)).await
    }

    async fn change_attributes(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut crate::volume::attr::xattr::Xattrs) -> Result<()>,
    ) -> Result<()> {
        self.up_to_date(ino).await?;
        let open = self.open_seq(ino).await?;
        let mut tree = self.tree();
        let node = tree.get(ino)?;
        let (mut xattrs, mut attr) = (node.extra.xattrs(), node.attr);
        change(&mut xattrs)?;
        let extra = node.extra.with_xattrs(&xattrs).ok_or(VolumeError::TooManyAttributes)?;
        attr.ctime = Time::now();
        self.write_attr(&mut tree, ino, Written { attr, extra: Some(extra) }, open)
    }
}
