//! POSIX attributes and the object headers that hold them, exactly as s3fs reads and writes them.
//!
//! `x-amz-meta-mode` is the whole `st_mode` in decimal, `-uid` and `-gid` are decimal, times are seconds with nine
//! digits of fraction where there is one. On reading, the dialects of s3sync and Google's tools are understood too, and
//! what is missing has s3fs's defaults: 0640 for a file, 0750 for a directory, the owner the volume was mounted with,
//! `Last-Modified` for every time.

pub mod acl;
pub mod xattr;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::store::{Headers, ObjectInfo};

/// Metadata key of the id of the upload that made an object (`x-amz-meta-ec2mpi-write`).
pub const WRITE_ID: &str = "ec2mpi-write";
/// Content type of a directory marker.
pub const DIRECTORY_TYPE: &str = "application/x-directory";
/// Content type of what has no better one.
pub const UNKNOWN_TYPE: &str = "application/octet-stream";

const DIRECTORY_TYPES: [&str; 2] = [DIRECTORY_TYPE, "httpd/unix-directory"];
const DEFAULT_FILE_MODE: u32 = 0o640;
const DEFAULT_DIRECTORY_MODE: u32 = 0o750;
/// What this module owns among the metadata of an object; everything else is kept over a change.
const OWN_KEYS: [&str; 8] = ["mode", "uid", "gid", "mtime", "ctime", "atime", RDEV, WRITE_ID];
/// What [`from_object`] understands of other tools.
const FOREIGN_KEYS: [&str; 7] = [
    "permissions",
    "owner",
    "group",
    "goog-reserved-posix-mode",
    "goog-reserved-posix-uid",
    "goog-reserved-posix-gid",
    "goog-reserved-file-mtime",
];
/// Metadata key of a device's number, which s3fs does not keep.
const RDEV: &str = "rdev";

/// A point in time, to the nanosecond, before or after 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Time {
    /// The present.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self { seconds: to_i64(after.as_secs()), nanos: after.subsec_nanos() },
            Err(before) => before_1970(before.duration()),
        }
    }
}

fn before_1970(before: Duration) -> Time {
    let whole = -to_i64(before.as_secs());
    match before.subsec_nanos() {
        0 => Time { seconds: whole, nanos: 0 },
        nanos => Time { seconds: whole - 1, nanos: 1_000_000_000 - nanos },
    }
}

fn to_i64(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let base = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanos.into()))).unwrap_or(UNIX_EPOCH)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.nanos {
            0 => write!(f, "{}", self.seconds),
            nanos => write!(f, "{}.{nanos:09}", self.seconds),
        }
    }
}

/// `123`, `123.5`, `-1.000000001`; the fraction may have any number of digits.
fn parse_time(text: &str) -> Option<Time> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let seconds = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some(Time { seconds, nanos: digits.parse().ok()? })
}

/// What `stat` shows beside size and inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Type and permissions: a whole `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// A device's number, as the kernel encodes it for file systems.
    #[serde(default)]
    pub rdev: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of data or attributes.
    pub ctime: Time,
}

impl Attr {
    /// Attributes of something made now; `mode` is a whole `st_mode`.
    pub fn new(mode: u32, uid: u32, gid: u32) -> Self {
        let now = Time::now();
        Self { mode, uid, gid, rdev: 0, atime: now, mtime: now, ctime: now }
    }

    /// The type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Programs of another user do not keep the rights of the file's owner when its bytes or its owner change.
    pub fn drop_privileges(&mut self) {
        self.mode &= !libc::S_ISUID;
        if self.mode & libc::S_IXGRP != 0 {
            self.mode &= !libc::S_ISGID;
        }
    }

    /// The data were changed now.
    pub fn touch(&mut self) {
        let now = Time::now();
        self.mtime = now;
        self.ctime = now;
    }
}

/// Who owns what has no owner in its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The headers of an object that are not attributes and must survive a change of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// Metadata of others: xattrs, checksums of other tools.
    pub metadata: BTreeMap<String, String>,
    /// `Cache-Control` and the like.
    pub foreign: BTreeMap<String, String>,
}

impl From<&Headers> for Extra {
    fn from(headers: &Headers) -> Self {
        let metadata = headers.metadata.iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str()));
        Self {
            content_type: headers.content_type.clone(),
            metadata: metadata.map(|(key, value)| (key.clone(), value.clone())).collect(),
            foreign: headers.foreign.clone(),
        }
    }
}

/// The headers of an object with these attributes, written by the upload `write`.
pub fn to_headers(attr: &Attr, extra: &Extra, content_type: &str, write: Uuid) -> Headers {
    let mut metadata = extra.metadata.clone();
    metadata.insert("mode".to_owned(), attr.mode.to_string());
    metadata.insert("uid".to_owned(), attr.uid.to_string());
    metadata.insert("gid".to_owned(), attr.gid.to_string());
    if attr.rdev != 0 {
        metadata.insert(RDEV.to_owned(), attr.rdev.to_string());
    }
    metadata.insert("mtime".to_owned(), attr.mtime.to_string());
    metadata.insert("ctime".to_owned(), attr.ctime.to_string());
    metadata.insert("atime".to_owned(), attr.atime.to_string());
    metadata.insert(WRITE_ID.to_owned(), write.to_string());
    Headers { content_type: Some(content_type.to_owned()), metadata, foreign: extra.foreign.clone() }
}

/// Adds attributes to the headers of an object.
pub(crate) fn add_attributes(headers: Headers, attr: &Attr) -> Headers {
    let Headers { content_type, metadata, foreign } = headers;
    let extra = Extra { content_type: None, metadata, foreign };
    let mut all = to_headers(attr, &extra, UNKNOWN_TYPE, Uuid::nil());
    all.metadata.remove(WRITE_ID);
    Headers { content_type, ..all }
}

/// Whether metadata says all that [`from_object`] gives (true), or nothing of it (false); none where it says some.
pub(crate) fn told(headers: &Headers) -> Option<bool> {
    let has = |name: &&str| headers.metadata.contains_key(*name);
    if !OWN_KEYS.iter().filter(|name| **name != WRITE_ID).chain(&FOREIGN_KEYS).any(has) {
        return Some(false);
    }
    let parses = |name: &str, parse: fn(&str) -> bool| headers.metadata.get(name).is_some_and(|text| parse(text));
    let all = parses("mode", |text| parse_base_0(text).is_some())
        && ["uid", "gid"].iter().all(|name| parses(name, |text| parse_id(text).is_some()))
        && ["mtime", "ctime", "atime"].iter().all(|name| parses(name, |text| parse_time(text).is_some()));
    all.then_some(true)
}

/// The id of the upload that made an object, if it was one of ours.
pub fn write_id(headers: &Headers) -> Option<Uuid> {
    headers.metadata.get(WRITE_ID)?.parse().ok()
}

/// The attributes of an object. `directory_key`: its key ends in a slash.
pub fn from_object(info: &ObjectInfo, directory_key: bool, owner: Owner) -> Attr {
    let metadata = &info.headers.metadata;
    let modified = Time::from(info.last_modified);
    let time = |names: &[&str]| first(metadata, names, parse_time).unwrap_or(modified);
    Attr {
        mode: mode_of(info, directory_key),
        uid: first(metadata, &["uid", "owner", "goog-reserved-posix-uid"], parse_id).unwrap_or(owner.uid),
        gid: first(metadata, &["gid", "group", "goog-reserved-posix-gid"], parse_id).unwrap_or(owner.gid),
        rdev: first(metadata, &[RDEV], parse_id).unwrap_or(0),
        atime: time(&["atime"]),
        mtime: time(&["mtime", "goog-reserved-file-mtime"]),
        ctime: time(&["ctime"]),
    }
}

/// Whether an object whose key does not end in a slash is a directory all the same.
pub fn is_directory(info: &ObjectInfo) -> bool {
    mode_of(info, false) & libc::S_IFMT == libc::S_IFDIR
}

/// The attributes of a directory that exists only because keys below it do.
pub fn implicit_directory(owner: Owner, time: Time) -> Attr {
    let mode = libc::S_IFDIR | DEFAULT_DIRECTORY_MODE;
    Attr { mode, uid: owner.uid, gid: owner.gid, rdev: 0, atime: time, mtime: time, ctime: time }
}

fn first<T>(metadata: &BTreeMap<String, String>, names: &[&str], parse: fn(&str) -> Option<T>) -> Option<T> {
    names.iter().find_map(|name| parse(metadata.get(*name)?))
}

fn parse_id(text: &str) -> Option<u32> {
    text.trim().parse().ok()
}

/// A number as C's `strtoul` with base 0 reads it, which is how s3fs reads modes.
fn parse_base_0(text: &str) -> Option<u32> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u32::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}

fn parse_octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim(), 8).ok()
}

fn mode_of(info: &ObjectInfo, directory_key: bool) -> u32 {
    let metadata = &info.headers.metadata;
    let known = first(metadata, &["mode", "permissions"], parse_base_0)
        .or_else(|| first(metadata, &["goog-reserved-posix-mode"], parse_octal));
    let directory = directory_key || has_directory_type(&info.headers);
    match known {
        None if directory => libc::S_IFDIR | DEFAULT_DIRECTORY_MODE,
        None => libc::S_IFREG | DEFAULT_FILE_MODE,
        Some(mode) => complete_mode(mode, directory),
    }
}

/// s3fs's mkdir may write a mode without type; and a mode without any permission locks the owner out.
fn complete_mode(mode: u32, directory: bool) -> u32 {
    let kind = match mode & libc::S_IFMT {
        _ if directory => libc::S_IFDIR,
        0 => libc::S_IFREG,
        kind => kind,
    };
    let permissions = match mode & 0o7777 {
        0 if directory => 0o500,
        0 => 0o400,
        permissions => permissions,
    };
    kind | permissions
}

fn has_directory_type(headers: &Headers) -> bool {
    let text = headers.content_type.as_deref().unwrap_or_default();
    let bare = text.split(';').next().unwrap_or_default().trim();
    DIRECTORY_TYPES.iter().any(|known| known.eq_ignore_ascii_case(bare))
}

/// The content type for a file of this name, by its last extension.
pub fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    match extension.as_deref() {
        Some("txt" | "log" | "text" | "conf" | "in" | "out") => "text/plain",
        Some("c" | "h" | "cc" | "cpp") => "text/x-csrc",
        Some("py") => "text/x-python",
        Some("sh") => "application/x-sh",
        Some("csv") => "text/csv",
        Some("html" | "htm") => "text/html",
        Some("md") => "text/markdown",
        Some("json") => "application/json",
        Some("xml") => "application/xml",
        Some("pdf") => "application/pdf",
        Some("gz" | "tgz") => "application/gzip",
        Some("zip") => "application/zip",
        Some("tar") => "application/x-tar",
        Some("h5" | "hdf5") => "application/x-hdf5",
        Some("nc") => "application/x-netcdf",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("svg") => "image/svg+xml",
        _ => UNKNOWN_TYPE,
    }
}

#[cfg(test)]
mod tests;
