//! What a record looks like: JSON, `version` first; read strictly.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::RACY;
use crate::volume::attr::{self, Attr, Extra};
use crate::volume::store::{Etag, Headers, ObjectInfo};
use crate::volume::tree::{Listed, Told};

const VERSION: u32 = 1;

/// The record of one directory.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    /// The path of the directory.
    directory: String,
    /// By name.
    pub(super) files: BTreeMap<String, Entry>,
}

/// One version of a file, and what HEAD says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    etag: Etag,
    size: u64,
    /// Seconds since 1970.
    modified: u64,
    /// None for an object that has no attributes of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attr: Option<Attr>,
    #[serde(default, skip_serializing_if = "is_empty")]
    extra: Extra,
}

fn is_empty(extra: &Extra) -> bool {
    *extra == Extra::default()
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

impl Record {
    pub(super) fn new(directory: &str, files: BTreeMap<String, Entry>) -> Self {
        Self { version: VERSION, directory: directory.to_owned(), files }
    }

    /// The record of `directory`, unless it is another's, of another version, or none at all.
    pub(super) fn parse(bytes: &[u8], directory: &str) -> Option<Self> {
        let record: Self = serde_json::from_slice(bytes).ok()?;
        (record.version == VERSION && record.directory == directory).then_some(record)
    }

    pub(super) fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

impl Entry {
    /// What is known of a version that was `seen` when it was old enough; none where its attributes depend on more than
    /// the object.
    pub(super) fn new(
        etag: &Etag,
        size: u64,
        modified: SystemTime,
        told: Told,
        attr: Attr,
        extra: &Extra,
    ) -> Option<Self> {
        let attr = match told {
            Told::All => Some(attr),
            Told::Nothing => None,
            Told::Some => return None,
        };
        Some(Self { etag: etag.clone(), size, modified: seconds(modified)?, attr, extra: extra.clone() })
    }

    /// Whether it is about the version that a listing has, and that was old enough when the record was written.
    pub(super) fn is_about(&self, listed: &Listed, written: SystemTime) -> bool {
        let Listed::File { etag, size, last_modified } = listed else { return false };
        let old = self.modified_at().checked_add(RACY).is_some_and(|old| old <= written);
        old && self.is_version(etag, *size, *last_modified)
    }

    pub(super) fn is_version(&self, etag: &Etag, size: u64, modified: SystemTime) -> bool {
        self.etag == *etag && self.size == size && seconds(modified) == Some(self.modified)
    }

    fn modified_at(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.modified)).unwrap_or(UNIX_EPOCH)
    }

    /// As HEAD would have it, but for the id of the write.
    pub(super) fn into_info(self) -> ObjectInfo {
        let last_modified = self.modified_at();
        let Extra { content_type, metadata, foreign } = self.extra;
        let headers = Headers { content_type, metadata, foreign };
        let headers = match self.attr {
            Some(attr) => attr::add_attributes(headers, &attr),
            None => headers,
        };
        ObjectInfo { etag: self.etag, size: self.size, last_modified, headers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::attr::{Owner, Time};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn listed(etag: &str, size: u64, seconds: u64) -> Listed {
        Listed::File { etag: Etag(etag.into()), size, last_modified: at(seconds) }
    }

    fn entry(told: Told) -> Option<Entry> {
        let attr = Attr { mode: libc::S_IFREG | 0o4751, mtime: Time { seconds: -5, nanos: 7 }, ..Attr::new(0, 7, 8) };
        let metadata = [("xattr".to_owned(), "{}".to_owned())].into();
        let extra = Extra { content_type: Some("text/plain".into()), metadata, ..Extra::default() };
        Entry::new(&Etag("e".into()), 3, at(1000), told, attr, &extra)
    }

    #[test]
    fn an_entry_says_what_head_says() {
        let info = entry(Told::All).unwrap().into_info();
        let (owner, other) = (Owner { uid: 1, gid: 1 }, Owner { uid: 2, gid: 2 });
        let attr = attr::from_object(&info, false, owner);
        assert_eq!((attr.mode, attr.uid, attr.gid), (libc::S_IFREG | 0o4751, 7, 8));
        assert_eq!((attr.mtime, attr), (Time { seconds: -5, nanos: 7 }, attr::from_object(&info, false, other)));
        assert_eq!(Told::by(&info), Told::All);
        assert_eq!(Extra::from(&info.headers).metadata.len(), 1);
        let bare = entry(Told::Nothing).unwrap().into_info();
        assert_eq!((Told::by(&bare), attr::from_object(&bare, false, other).uid), (Told::Nothing, 2));
        assert_eq!(attr::from_object(&bare, false, other).mtime, Time { seconds: 1000, nanos: 0 });
        assert_eq!(entry(Told::Some), None);
    }

    #[test]
    fn only_the_same_version_that_was_old_enough_is_believed() {
        let entry = entry(Told::All).unwrap();
        assert!(entry.is_about(&listed("e", 3, 1000), at(1002)));
        for (other, written) in [
            (listed("f", 3, 1000), 2000),
            (listed("e", 4, 1000), 2000),
            (listed("e", 3, 1001), 2000),
            (listed("e", 3, 1000), 1001),
            (Listed::Dir, 2000),
        ] {
            assert!(!entry.is_about(&other, at(written)), "{other:?}");
        }
    }

    #[test]
    fn what_is_not_a_whole_record_of_this_directory_is_none() {
        let record = Record::new("d", [("f".to_owned(), entry(Told::All).unwrap())].into());
        let bytes = record.to_bytes().unwrap();
        assert_eq!(Record::parse(&bytes, "d").as_ref(), Some(&record));
        assert_eq!(Record::parse(&bytes, "e"), None);
        (0..bytes.len()).for_each(|end| assert_eq!(Record::parse(&bytes[..end], "d"), None));
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [("\"version\":1", "\"version\":2"), ("\"size\":3", "\"size\":-3"), ("\"etag\"", "\"tag\"")] {
            assert_ne!(text, text.replace(from, to));
            assert_eq!(Record::parse(text.replace(from, to).as_bytes(), "d"), None, "{to}");
        }
    }
}
