//! SIGKILL under a writing load, again and again.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use md5::{Digest, Md5};

use crate::client::{Client, Reply};
use crate::is_soak;
use crate::service::{Service, files};

const WRITERS: usize = 4;
/// Keys of one writer, which nobody else writes.
const KEYS: usize = 5;
/// S3's lower limit for every part but the last.
const PART: usize = 5 << 20;

/// An object as it was asked for. Its user metadata say the same, so that every reader can tell a torn one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    name: String,
    md5: String,
}

/// What each key may hold: its last state acknowledged, and all that were asked for since. None is absence.
type Expected = BTreeMap<String, Vec<Option<Version>>>;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Put,
    Multipart,
    Copy,
    Delete,
}

/// The table that is printed.
#[derive(Debug, Default)]
struct Table {
    kills: usize,
    tried: [usize; 4],
    acknowledged: [usize; 4],
    /// Tried and not acknowledged, but there afterwards: both are right.
    surprises: usize,
    aborted: usize,
    checked: usize,
    read_under_load: usize,
    torn: Vec<String>,
    lost: Vec<String>,
    /// Files that belong to no object and no upload.
    stray: usize,
    log_size: u64,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kills                {}", self.kills)?;
        writeln!(f, "                     tried  acknowledged")?;
        for kind in [Kind::Put, Kind::Multipart, Kind::Copy, Kind::Delete] {
            let (tried, acknowledged) = (self.tried[kind as usize], self.acknowledged[kind as usize]);
            writeln!(f, "  {:<18} {tried:>5}  {acknowledged:>12}", format!("{kind:?}").to_uppercase())?;
        }
        writeln!(f, "done, not acknowledged {}", self.surprises)?;
        writeln!(f, "uploads left, aborted  {}", self.aborted)?;
        writeln!(f, "objects checked        {} after a kill, {} under load", self.checked, self.read_under_load)?;
        writeln!(f, "torn {}, acknowledged and lost {}, stray files {}", self.torn.len(), self.lost.len(), self.stray)?;
        write!(f, "log in the end         {} bytes", self.log_size)
    }
}

/// What the threads of one load share.
struct Load<'a> {
    client: &'a Client,
    stop: AtomicBool,
    expected: &'a Mutex<Expected>,
    table: &'a Mutex<Table>,
}

#[test]
fn nothing_is_torn_or_lost_by_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let (expected, table) = (Mutex::new(Expected::new()), Mutex::new(Table::default()));
    let mut service = Service::start(directory.path());
    for round in 0..if is_soak() { 200 } else { 12 } {
        let client = service.client.clone();
        let load = Load { client: &client, stop: AtomicBool::new(false), expected: &expected, table: &table };
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let load = &load;
                // Everybody is somewhere else in the sequence of changes, and elsewhere than the round before.
                scope.spawn(move || load.write(writer, round * 10_000 + round * 13 + writer * 5));
            }
            scope.spawn(|| load.read());
            thread::sleep(Duration::from_millis(60 + (round as u64 * 37) % 140));
            service.kill();
            load.stop.store(true, Ordering::Relaxed);
        });
        service = Service::start(directory.path());
        let (mut expected, mut table) = (expected.lock().unwrap(), table.lock().unwrap());
        table.kills += 1;
        check(&service.client, &mut expected, &mut table);
        table.aborted += abort_all(&service.client);
        let pieces: usize = service.client.list(1000).iter().map(|(_, tag)| pieces(tag)).sum();
        table.stray += files(&directory.path().join("s3/blobs")).saturating_sub(pieces);
    }
    let (expected, mut table) = (expected.into_inner().unwrap(), table.into_inner().unwrap());
    for key in expected.keys() {
        assert_eq!(service.client.delete(key).unwrap().status, 204);
    }
    table.stray += files(&directory.path().join("s3/blobs"));
    table.log_size = fs::metadata(directory.path().join("s3/index.log")).unwrap().len();
    println!("{table}");
    assert!(table.torn.is_empty() && table.lost.is_empty(), "{:?} {:?}", table.torn, table.lost);
    assert_eq!(table.stray, 0, "files without an object");
    assert_eq!(list_directory(&directory.path().join("s3")), ["blobs", "index.log"]);
    assert!(table.acknowledged.iter().all(|count| *count >= table.kills), "the load was none: {table}");
    let unanswered = table.tried.iter().sum::<usize>() - table.acknowledged.iter().sum::<usize>();
    assert!(unanswered >= table.kills / 2, "the kills hit nothing: {table}");
    assert!(table.read_under_load >= table.kills, "nobody read: {table}");
}

impl Load<'_> {
    /// Changes one key after the other until the service is killed.
    fn write(&self, writer: usize, first: usize) {
        for turn in first.. {
            if self.stop.load(Ordering::Relaxed) || self.change(writer, turn).is_err() {
                break;
            }
        }
    }

    fn change(&self, writer: usize, turn: usize) -> io::Result<()> {
        let key = format!("{writer}/{}", turn % KEYS);
        let name = format!("{writer}-{turn}");
        match turn % 8 {
            3 => self.told(Kind::Delete, &key, None, || self.client.delete(&key)),
            5 => match self.source(writer, turn) {
                Some((source, md5)) => self.copy(&key, &source, Version { name, md5 }),
                None => self.put(&key, name, &lines(writer, turn)),
            },
            6 => self.multipart(&key, name, &[lines(writer, turn)]),
            7 if turn % 64 == 7 => {
                let first = format!("{writer:04} {turn:08}\n").repeat(PART / 14 + 1).into_bytes();
                self.multipart(&key, name, &[first, lines(writer, turn + 1)])
            }
            _ => self.put(&key, name, &lines(writer, turn)),
        }
    }

    /// One change that makes a key hold `state`: written down before it is asked for and when it is acknowledged.
    fn told(
        &self,
        kind: Kind,
        key: &str,
        state: Option<Version>,
        request: impl FnOnce() -> io::Result<Reply>,
    ) -> io::Result<()> {
        self.table.lock().unwrap().tried[kind as usize] += 1;
        let absent = || vec![None];
        self.expected.lock().unwrap().entry(key.to_owned()).or_insert_with(absent).push(state.clone());
        let reply = request()?;
        assert!((200..300).contains(&reply.status), "{kind:?} {key}: {} {}", reply.status, reply.text());
        self.expected.lock().unwrap().insert(key.to_owned(), vec![state]);
        self.table.lock().unwrap().acknowledged[kind as usize] += 1;
        Ok(())
    }

    fn put(&self, key: &str, name: String, body: &[u8]) -> io::Result<()> {
        let version = Version { name, md5: hex::encode(Md5::digest(body)) };
        let headers = [("x-amz-meta-name", &*version.name), ("x-amz-meta-md5", &*version.md5)];
        self.told(Kind::Put, key, Some(version.clone()), || self.client.put(key, &headers, body))
    }

    fn copy(&self, key: &str, source: &str, version: Version) -> io::Result<()> {
        let source = format!("/bkt/{source}");
        let headers = [
            ("x-amz-copy-source", &*source),
            ("x-amz-metadata-directive", "REPLACE"),
            ("x-amz-meta-name", &*version.name),
            ("x-amz-meta-md5", &*version.md5),
        ];
        self.told(Kind::Copy, key, Some(version.clone()), || self.client.put(key, &headers, b""))
    }

    fn multipart(&self, key: &str, name: String, parts: &[Vec<u8>]) -> io::Result<()> {
        let version = Version { name, md5: hex::encode(Md5::digest(parts.concat())) };
        let headers = [("x-amz-meta-name", &*version.name), ("x-amz-meta-md5", &*version.md5)];
        let path = format!("/bkt/{key}");
        let id = self.client.send("POST", &path, "uploads", &headers, b"")?.one("UploadId");
        let mut xml = String::new();
        for (number, part) in (1..).zip(parts) {
            let reply = self.client.send("PUT", &path, &format!("partNumber={number}&uploadId={id}"), &[], part)?;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let etag = reply.headers["etag"].replace('"', "&quot;");
            xml.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"));
        }
        let xml = format!("<CompleteMultipartUpload>{xml}</CompleteMultipartUpload>");
        self.told(Kind::Multipart, key, Some(version), || {
            self.client.send("POST", &path, &format!("uploadId={id}"), &[], xml.as_bytes())
        })
    }

    /// A key of the writer's whose object is known for sure, and its bytes' sum.
    fn source(&self, writer: usize, turn: usize) -> Option<(String, String)> {
        let expected = self.expected.lock().unwrap();
        let keys = (1..KEYS).map(|step| format!("{writer}/{}", (turn + step) % KEYS));
        keys.filter_map(|key| match expected.get(&key)?.as_slice() {
            [Some(version)] => Some((key, version.md5.clone())),
            _ => None,
        })
        .next()
    }

    /// Reads whatever is there: it may be any version, but a whole one.
    fn read(&self) {
        for turn in 0.. {
            let key = format!("{}/{}", turn % WRITERS, turn / WRITERS % KEYS);
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let Ok(reply) = self.client.get(&key) else { continue };
            if reply.status == 200 {
                let mut table = self.table.lock().unwrap();
                table.read_under_load += 1;
                if found(&reply).is_none() {
                    table.torn.push(key);
                }
            }
        }
    }
}

/// A body that says what it is in every line, so that a mixed one shows.
fn lines(writer: usize, turn: usize) -> Vec<u8> {
    format!("{writer:04} {turn:08}\n").repeat(1 + (writer * 7919 + turn * 104_729) % 9_000).into_bytes()
}

/// The version that a reply to a GET holds; none if its bytes are not those its metadata tell of.
fn found(reply: &Reply) -> Option<Version> {
    let version = Version {
        name: reply.headers.get("x-amz-meta-name")?.clone(),
        md5: reply.headers.get("x-amz-meta-md5")?.clone(),
    };
    (hex::encode(Md5::digest(&reply.body)) == version.md5).then_some(version)
}

/// After a kill: every key holds a whole version that it may hold, in listings too. What it holds is then expected.
fn check(client: &Client, expected: &mut Expected, table: &mut Table) {
    let listed: BTreeMap<String, String> = client.list(7).into_iter().collect();
    for (key, states) in expected.iter_mut() {
        let reply = client.get(key).unwrap();
        assert!(matches!(reply.status, 200 | 404), "{key}: {} {}", reply.status, reply.text());
        table.checked += 1;
        let state = if reply.status == 404 { None } else { found(&reply) };
        let tag = reply.headers.get("etag").filter(|_| reply.status == 200).map(|tag| tag.replace('"', ""));
        if (reply.status == 200) != state.is_some() || listed.get(key) != tag.as_ref() {
            table.torn.push(key.clone());
        } else if !states.contains(&state) {
            table.lost.push(format!("{key}: {state:?} instead of one of {states:?}"));
        }
        table.surprises += usize::from(states.len() > 1 && states.first() != Some(&state));
        *states = vec![state];
    }
    assert!(listed.keys().all(|key| expected.contains_key(key)), "keys that nobody wrote: {listed:?}");
}

/// Ends the uploads that the kill left, and counts them.
fn abort_all(client: &Client) -> usize {
    let uploads = client.send("GET", "/bkt", "uploads", &[], b"").unwrap();
    let pairs: Vec<_> = uploads.all("Key").into_iter().zip(uploads.all("UploadId")).collect();
    for (key, id) in &pairs {
        let reply = client.send("DELETE", &format!("/bkt/{key}"), &format!("uploadId={id}"), &[], b"").unwrap();
        assert_eq!(reply.status, 204, "{}", reply.text());
    }
    pairs.len()
}

/// At most so many files hold an object's bytes. A copy of an object in two parts has one tag, and shares its two files
/// with whatever else has them.
fn pieces(tag: &str) -> usize {
    tag.rsplit_once('-').map_or(2, |(_, parts)| parts.parse().unwrap())
}

fn list_directory(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_torn_object_would_show() {
    let (body, headers) = (lines(1, 2), |name: &str, md5: &[u8]| {
        BTreeMap::from([
            ("x-amz-meta-name".to_owned(), name.to_owned()),
            ("x-amz-meta-md5".to_owned(), hex::encode(Md5::digest(md5))),
        ])
    });
    let reply = |headers, body: &[u8]| Reply { status: 200, headers, body: body.to_vec() };
    assert_eq!(found(&reply(headers("1-2", &body), &body)).unwrap().name, "1-2");
    assert_eq!(found(&reply(headers("1-2", &body), &body[..body.len() - 1])), None);
    assert_eq!(found(&reply(headers("1-2", &body), &lines(1, 3))), None);
    assert_eq!(found(&reply(BTreeMap::new(), &body)), None);
}
