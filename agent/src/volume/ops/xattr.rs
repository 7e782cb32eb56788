//! Extended attributes: get, list, set, remove. `user.`, `trusted.` and ACLs are kept; the kernel sees to who may do what.

use std::ffi::OsStr;

use super::attributes::Written;
use crate::volume::Volume;
use crate::volume::attr::acl::{self, Acl};
use crate::volume::attr::xattr::Xattrs;
use crate::volume::attr::{Attr, Time};
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
    let is_kept =
        |name: &&str| is_acl(name) || KEPT.iter().any(|space| name.len() > space.len() && name.starts_with(space));
    name.to_str().filter(is_kept).ok_or(VolumeError::NotSupported("attributes but user and trusted ones"))
}

fn is_acl(name: &str) -> bool {
    [acl::ACCESS, acl::DEFAULT].contains(&name)
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
        let shown = xattrs.into_keys().filter(|name| is_acl(name) || KEPT.iter().any(|space| name.starts_with(space)));
        Ok(shown.flat_map(|name| name.into_bytes().into_iter().chain([0])).collect())
    }

    pub(crate) async fn set_attribute(&self, ino: Ino, name: &str, value: Vec<u8>, mode: SetMode) -> Result<()> {
        if is_acl(name) {
            return self.set_acl(ino, name, Acl::parse(&value)).await;
        }
        self.change_attributes(ino, |xattrs, _| {
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
        if is_acl(name) {
            return self.set_acl(ino, name, None).await;
        }
        self.change_attributes(ino, |xattrs, _| xattrs.remove(name).map(drop).ok_or(VolumeError::NoAttribute)).await
    }

    /// An access ACL brings its mode along, and is not kept when that is all there is to it.
    async fn set_acl(&self, ino: Ino, name: &str, acl: Option<Acl>) -> Result<()> {
        self.change_attributes(ino, |xattrs, attr| {
            xattrs.remove(name);
            let Some(acl) = acl else { return Ok(()) };
            if name == acl::ACCESS {
                attr.mode = attr.mode & !0o777 | acl.mode();
            }
            if name == acl::DEFAULT || !acl.is_a_mode() {
                xattrs.insert(name.to_owned(), acl.to_bytes());
            }
            Ok(())
        })
        .await
    }

    async fn change_attributes(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut Xattrs, &mut Attr) -> Result<()>,
    ) -> Result<()> {
        self.up_to_date(ino).await?;
        let open = self.open_seq(ino).await?;
        let mut tree = self.tree();
        let node = tree.get(ino)?;
        let (mut xattrs, mut attr) = (node.extra.xattrs(), node.attr);
        change(&mut xattrs, &mut attr)?;
        let extra = node.extra.with_xattrs(&xattrs).ok_or(VolumeError::TooManyAttributes)?;
        attr.ctime = Time::now();
        self.write_attr(&mut tree, ino, Written { attr, extra: Some(extra) }, open)
    }
}
