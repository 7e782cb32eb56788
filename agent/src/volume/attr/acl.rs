//! POSIX ACLs: the kernel checks them; here is what they mean for modes, and for what is made in a directory.
//!
//! The form is the kernel's, which s3fs keeps too: a version, then tag, permissions and id of each entry.

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Names of the extended attributes.
pub const ACCESS: &str = "system.posix_acl_access";
/// What new entries of a directory get.
pub const DEFAULT: &str = "system.posix_acl_default";

/// A list of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

impl Acl {
    /// None for what is no list, or an empty one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (version, entries) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || !entries.len().is_multiple_of(8) || entries.is_empty() {
            return None;
        }
        let entry = |bytes: &[u8]| {
            let [tag_low, tag_high, perm_low, perm_high, id @ ..] = *bytes.first_chunk::<8>()?;
            let (tag, perm) = (u16::from_le_bytes([tag_low, tag_high]), u16::from_le_bytes([perm_low, perm_high]));
            Some(Entry { tag, perm: perm & 7, id: u32::from_le_bytes(id) })
        };
        entries.chunks(8).map(entry).collect::<Option<_>>().map(Self)
    }

    /// The same as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend_from_slice(&entry.tag.to_le_bytes());
            bytes.extend_from_slice(&entry.perm.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    /// Whether a mode says as much.
    pub fn is_a_mode(&self) -> bool {
        self.0.iter().all(|entry| [USER_OBJ, GROUP_OBJ, OTHER].contains(&entry.tag))
    }

    /// The nine permission bits that go with it.
    pub fn mode(&self) -> u32 {
        [USER_OBJ, self.group_tag(), OTHER].iter().fold(0, |mode, tag| (mode << 3) | u32::from(self.perm(*tag)))
    }

    /// After `chmod`.
    #[must_use]
    pub fn with_mode(&self, mode: u32) -> Self {
        self.each_class(mode, |_, bits| bits)
    }

    /// Of something made with `mode` in a directory that has this as its default.
    #[must_use]
    pub fn inherited(&self, mode: u32) -> Self {
        self.each_class(mode, |perm, bits| perm & bits)
    }

    fn each_class(&self, mode: u32, change: impl Fn(u16, u16) -> u16) -> Self {
        let group = self.group_tag();
        let mut acl = self.clone();
        for entry in &mut acl.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            // Three bits.
            #[allow(clippy::cast_possible_truncation)]
            let bits = (mode >> shift & 7) as u16;
            entry.perm = change(entry.perm, bits);
        }
        acl
    }

    /// What the group bits of the mode are.
    fn group_tag(&self) -> u16 {
        if self.0.iter().any(|entry| entry.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    fn perm(&self, tag: u16) -> u16 {
        self.0.iter().find(|entry| entry.tag == tag).map_or(0, |entry| entry.perm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u16 = 0x02;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|(tag, perm, id)| Entry { tag: *tag, perm: *perm, id: *id }).collect())
    }

    fn named() -> Acl {
        acl(&[(USER_OBJ, 6, !0), (USER, 7, 1000), (GROUP_OBJ, 4, !0), (MASK, 7, !0), (OTHER, 1, !0)])
    }

    #[test]
    fn bytes_are_the_kernels() {
        let bytes = acl(&[(USER_OBJ, 6, !0), (OTHER, 4, !0)]).to_bytes();
        assert_eq!(bytes, [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255]);
        assert_eq!(Acl::parse(&named().to_bytes()), Some(named()));
        for odd in [&b""[..], &[2, 0, 0, 0], &[1, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0], &bytes[..9]] {
            assert_eq!(Acl::parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn modes_follow_and_lead() {
        assert_eq!((named().mode(), named().is_a_mode()), (0o671, false));
        let changed = named().with_mode(0o750);
        assert_eq!((changed.mode(), changed.perm(GROUP_OBJ), changed.perm(MASK)), (0o750, 4, 5));
        let plain = acl(&[(USER_OBJ, 7, !0), (GROUP_OBJ, 5, !0), (OTHER, 0, !0)]);
        assert!(plain.is_a_mode());
        assert_eq!((plain.mode(), plain.inherited(0o644).mode()), (0o750, 0o640));
        assert_eq!(named().inherited(0o640).mode(), 0o640);
    }
}
