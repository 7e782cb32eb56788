//! The objects and the unfinished uploads: plain data, no waiting.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};

use crate::volume::store::{
    Condition, Etag, Headers, ListedObject, ListedUpload, ObjectInfo, ObjectKey, Page, Part, StoreError,
};

/// S3's lower limit for every part but the last.
const MIN_PART: usize = 5 << 20;

#[derive(Debug)]
pub(super) struct Content {
    pub(super) min_part: usize,
    objects: BTreeMap<ObjectKey, (ObjectInfo, Bytes)>,
    uploads: BTreeMap<String, Upload>,
    uploads_begun: u64,
}

impl Default for Content {
    fn default() -> Self {
        Self { min_part: MIN_PART, objects: BTreeMap::new(), uploads: BTreeMap::new(), uploads_begun: 0 }
    }
}

#[derive(Debug)]
struct Upload {
    begun: SystemTime,
    key: ObjectKey,
    headers: Headers,
    parts: BTreeMap<i32, (Etag, Bytes)>,
}

impl Content {
    pub(super) fn get(&self, key: &ObjectKey) -> Result<(ObjectInfo, Bytes), StoreError> {
        self.objects.get(key).cloned().ok_or_else(|| StoreError::NotFound(key.to_string()))
    }

    pub(super) fn get_range(&self, key: &ObjectKey, etag: &Etag, range: Range<u64>) -> Result<Bytes, StoreError> {
        let (info, bytes) = self.get(key)?;
        if info.etag != *etag {
            return Err(StoreError::Conflict(key.to_string()));
        }
        let refuse = |why: &str| StoreError::Refused(key.to_string(), why.to_owned());
        if range.start >= range.end || range.start >= info.size {
            return Err(refuse("range outside of the object"));
        }
        let place = |at: u64| usize::try_from(at.min(info.size)).map_err(|_| refuse("range too large"));
        Ok(bytes.slice(place(range.start)?..place(range.end)?))
    }

    /// Whether a write under `key` may happen now.
    pub(super) fn check(&self, key: &ObjectKey, condition: &Condition) -> Result<(), StoreError> {
        let current = self.objects.get(key).map(|(info, _)| &info.etag);
        match (condition, current) {
            (Condition::Always, _) | (Condition::Absent, None) => Ok(()),
            (Condition::Matches(wanted), Some(etag)) if wanted == etag => Ok(()),
            (Condition::Matches(_), None) => Err(StoreError::NotFound(key.to_string())),
            (Condition::Absent | Condition::Matches(_), Some(_)) => Err(StoreError::Conflict(key.to_string())),
        }
    }

    pub(super) fn insert(&mut self, key: ObjectKey, bytes: Bytes, headers: Headers) -> Etag {
        let etag = Etag(format!("\"{}\"", hex::encode(Md5::digest(&bytes))));
        self.store(key, bytes, headers, etag.clone());
        etag
    }

    fn store(&mut self, key: ObjectKey, bytes: Bytes, headers: Headers, etag: Etag) {
        let info = ObjectInfo { etag, size: bytes.len() as u64, last_modified: now_in_seconds(), headers };
        self.objects.insert(key, (info, bytes));
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        self.objects.remove(key).is_some()
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.objects.keys().map(|key| key.as_str().to_owned()).collect()
    }

    pub(super) fn open_uploads(&self) -> usize {
        self.uploads.len()
    }

    pub(super) fn uploads(&self, prefix: &str) -> Vec<ListedUpload> {
        let below = self.uploads.iter().filter(|(_, upload)| upload.key.as_str().starts_with(prefix));
        below
            .map(|(id, upload)| ListedUpload { key: upload.key.clone(), id: id.clone(), begun: upload.begun })
            .collect()
    }

    /// One page; the token is the last entry (key or common prefix) of the page before.
    pub(super) fn list(&self, prefix: &str, delimiter: Option<char>, token: Option<&str>, limit: u16) -> Page {
        let mut page = Page::default();
        let mut last = token.map(str::to_owned);
        loop {
            let Some((key, info)) = self.next_listed(prefix, delimiter, last.as_deref()) else { return page };
            if page.objects.len() + page.prefixes.len() >= usize::from(limit) {
                page.next = last;
                return page;
            }
            match common_prefix(key.as_str(), prefix, delimiter) {
                Some(group) => {
                    last = Some(group.to_owned());
                    page.prefixes.push(group.to_owned());
                }
                None => {
                    last = Some(key.as_str().to_owned());
                    page.objects.push(listed(key, info));
                }
            }
        }
    }

    /// The first object after `last` that belongs to `prefix` and not to the group `last`.
    fn next_listed(
        &self,
        prefix: &str,
        delimiter: Option<char>,
        last: Option<&str>,
    ) -> Option<(&ObjectKey, &ObjectInfo)> {
        let from = match last {
            Some(last) if last >= prefix => Bound::Excluded(ObjectKey::new(last)),
            _ => Bound::Included(ObjectKey::new(prefix)),
        };
        let group = last.filter(|last| delimiter.is_some_and(|d| last.len() > prefix.len() && last.ends_with(d)));
        self.objects
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix))
            .find(|(key, _)| group.is_none_or(|group| !key.as_str().starts_with(group)))
            .map(|(key, (info, _))| (key, info))
    }

    pub(super) fn begin(&mut self, key: &ObjectKey, headers: &Headers) -> String {
        self.uploads_begun += 1;
        let id = format!("upload-{}", self.uploads_begun);
        let upload =
            Upload { begun: now_in_seconds(), key: key.clone(), headers: headers.clone(), parts: BTreeMap::new() };
        self.uploads.insert(id.clone(), upload);
        id
    }

    fn upload(&mut self, key: &ObjectKey, id: &str) -> Result<&mut Upload, StoreError> {
        self.uploads
            .get_mut(id)
            .filter(|upload| upload.key == *key)
            .ok_or_else(|| StoreError::NotFound(format!("upload {id}")))
    }

    pub(super) fn put_part(
        &mut self,
        key: &ObjectKey,
        id: &str,
        number: i32,
        bytes: Bytes,
    ) -> Result<Part, StoreError> {
        let upload = self.upload(key, id)?;
        if !(1..=10_000).contains(&number) {
            return Err(StoreError::Refused(key.to_string(), format!("part number {number}")));
        }
        let etag = Etag(format!("\"{}\"", hex::encode(Md5::digest(&bytes))));
        upload.parts.insert(number, (etag.clone(), bytes));
        Ok(Part { number, etag })
    }

    pub(super) fn complete(
        &mut self,
        key: &ObjectKey,
        id: &str,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Etag, StoreError> {
        let min_part = self.min_part;
        let chosen = chosen_parts(self.upload(key, id)?, parts, min_part)?;
        self.check(key, condition)?;
        let mut sums = Md5::new();
        let mut bytes = BytesMut::new();
        for part in &chosen {
            sums.update(Md5::digest(part));
            bytes.extend_from_slice(part);
        }
        let etag = Etag(format!("\"{}-{}\"", hex::encode(sums.finalize()), chosen.len()));
        if let Some(upload) = self.uploads.remove(id) {
            self.store(key.clone(), bytes.freeze(), upload.headers, etag.clone());
        }
        Ok(etag)
    }

    pub(super) fn abort(&mut self, key: &ObjectKey, id: &str) -> Result<(), StoreError> {
        self.upload(key, id)?;
        self.uploads.remove(id);
        Ok(())
    }
}

/// The bytes of the parts named, in ascending order, each with the tag it was given.
fn chosen_parts(upload: &Upload, parts: &[Part], min_part: usize) -> Result<Vec<Bytes>, StoreError> {
    let refuse = |why: &str| StoreError::Refused(upload.key.to_string(), why.to_owned());
    if parts.is_empty() {
        return Err(refuse("no parts"));
    }
    if !parts.is_sorted_by(|a, b| a.number < b.number) {
        return Err(refuse("parts are not in ascending order"));
    }
    let mut chosen = Vec::with_capacity(parts.len());
    for part in parts {
        match upload.parts.get(&part.number) {
            Some((etag, bytes)) if *etag == part.etag => chosen.push(bytes.clone()),
            _ => return Err(refuse("a part is missing or has another tag")),
        }
    }
    let all_but_last = chosen.split_last().map_or(&[][..], |(_, rest)| rest);
    if all_but_last.iter().any(|bytes| bytes.len() < min_part) {
        return Err(refuse("a part other than the last is smaller than 5 MiB"));
    }
    Ok(chosen)
}

/// The group that `key` belongs to: up to and with the first delimiter after the prefix.
fn common_prefix<'k>(key: &'k str, prefix: &str, delimiter: Option<char>) -> Option<&'k str> {
    let delimiter = delimiter?;
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len_utf8())
}

fn listed(key: &ObjectKey, info: &ObjectInfo) -> ListedObject {
    ListedObject { key: key.clone(), etag: info.etag.clone(), size: info.size, last_modified: info.last_modified }
}

/// Now, to the second, as S3 gives it.
fn now_in_seconds() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
