//! Files that the kernel reads by itself: who sees what, what an upload is made of, and what may not be evicted.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ec2mpi_agent::volume::Options;
use ec2mpi_agent::volume::control::Request;

use crate::lab::{Lab, Mount, eventually, pattern};

/// More than a page, and fetched as a whole by an open.
const SIZE: usize = 300_000;

/// A shared mapping of the beginning of a file.
struct Map {
    at: *mut u8,
    length: usize,
}

impl Map {
    fn new(file: &File, length: usize, write: bool) -> Self {
        let protection = if write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping, where the kernel likes.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert!(at != libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { at: at.cast(), length }
    }

    fn get(&self, offset: usize) -> u8 {
        assert!(offset < self.length);
        // SAFETY: within the mapping, which others may change.
        unsafe { self.at.add(offset).read_volatile() }
    }

    fn set(&self, offset: usize, byte: u8) {
        assert!(offset < self.length);
        // SAFETY: within the mapping, which was made for writing.
        unsafe { self.at.add(offset).write_volatile(byte) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own.
        assert_eq!(unsafe { libc::munmap(self.at.cast(), self.length) }, 0);
    }
}

/// The only file of a cache.
fn cache_file(options: &Options) -> PathBuf {
    let mut files = std::fs::read_dir(options.cache_dir.join("data")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "one file is cached");
    file
}

/// Whether a reader sees what is in the cache file now, and nobody told the kernel.
fn is_straight(reader: &File, cached: &Path) -> bool {
    let (mut was, mut is) = ([0], [0]);
    reader.read_exact_at(&mut was, 5).unwrap();
    let cached = OpenOptions::new().write(true).open(cached).unwrap();
    cached.write_all_at(&[!was[0]], 5).unwrap();
    reader.read_exact_at(&mut is, 5).unwrap();
    cached.write_all_at(&was, 5).unwrap();
    is[0] == !was[0]
}

/// A mount with one file, and that open for reading, by the kernel itself.
fn place() -> (Lab, Mount, File, PathBuf) {
    let lab = Lab::new();
    lab.insert("f", &pattern(SIZE, 1));
    let options = lab.options("a");
    let mount = lab.mount_options(options.clone());
    let reader = File::open(mount.path("f")).unwrap();
    let cached = cache_file(&options);
    assert!(is_straight(&reader, &cached), "the kernel reads by itself");
    (lab, mount, reader, cached)
}

fn byte(file: &File, offset: u64) -> u8 {
    let mut bytes = [0];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes[0]
}

#[test]
fn the_kernel_reads_what_is_complete_and_clean() {
    let lab = Lab::new();
    lab.insert("f", &pattern(SIZE, 1));
    let options = lab.options("a");
    let mount = lab.mount_options(options.clone());
    let reader = File::open(mount.path("f")).unwrap();
    let cached = cache_file(&options);
    assert!(is_straight(&reader, &cached));
    assert!(is_straight(&File::open(mount.path("f")).unwrap(), &cached), "every reader");
    drop(reader);
    // A writer who comes first decides otherwise, and so does whoever is to be asked.
    let writer = OpenOptions::new().write(true).open(mount.path("f")).unwrap();
    assert!(!is_straight(&File::open(mount.path("f")).unwrap(), &cached));
    drop(writer);
    assert!(is_straight(&File::open(mount.path("f")).unwrap(), &cached));
    drop(mount);
    let plain = lab.mount_options(Options { passthrough: false, ..options.clone() });
    let reader = File::open(plain.path("f")).unwrap();
    assert!(!is_straight(&reader, &cache_file(&options)));
    assert!(plain.read("f") == pattern(SIZE, 1));
}

#[test]
fn readers_see_writes_at_once_and_s3_gets_them() {
    let (lab, mount, reader, _) = place();
    let map = Map::new(&reader, SIZE, false);
    let mut expected = pattern(SIZE, 1);
    let writer = OpenOptions::new().write(true).open(mount.path("f")).unwrap();
    for round in 0..3_u8 {
        for (index, offset) in [10, 4096, SIZE - 1, SIZE + usize::from(round)].into_iter().enumerate() {
            let new = round * 10 + index as u8 + 1;
            writer.write_all_at(&[new], offset as u64).unwrap();
            assert_eq!(byte(&reader, offset as u64), new);
            assert!(offset >= SIZE || map.get(offset) == new);
            expected.resize(expected.len().max(offset + 1), 0);
            expected[offset] = new;
        }
        assert_eq!(reader.metadata().unwrap().len(), expected.len() as u64);
        let answer = mount.ask(&Request::Drain { timeout_seconds: 30 });
        assert!(answer.ok && lab.body("f") == expected, "{answer:?}");
    }
    upload_beside_writes(&lab, &writer, &reader, &mut expected);
    drop(writer);
    let cut = OpenOptions::new().write(true).truncate(true).open(mount.path("f")).unwrap();
    cut.write_all_at(b"new", 0).unwrap();
    let mut all = Vec::new();
    (&reader).read_to_end(&mut all).unwrap();
    assert_eq!(all, b"new");
    drop((cut, map, reader));
    mount.drain();
    assert_eq!((lab.body("f"), mount.read("f")), (b"new".to_vec(), b"new".to_vec()));
    assert_eq!(lab.elsewhere().read("f"), b"new");
}

/// An upload on its way reads what was there before.
fn upload_beside_writes(lab: &Lab, writer: &File, reader: &File, expected: &mut [u8]) {
    lab.store.set_latency(Duration::from_millis(300));
    writer.write_all_at(&[91], 100).unwrap();
    expected[100] = 91;
    std::thread::scope(|scope| {
        let synced = scope.spawn(|| writer.sync_all());
        std::thread::sleep(Duration::from_millis(150));
        writer.write_all_at(&[92], 100).unwrap();
        assert_eq!(byte(reader, 100), 92);
        synced.join().unwrap().unwrap();
    });
    assert!(lab.body("f") == expected);
    lab.store.set_latency(Duration::ZERO);
}

#[test]
fn stores_into_a_mapping_reach_s3() {
    let (lab, mount, reader, _) = place();
    let mut expected = pattern(SIZE, 1);
    let both = OpenOptions::new().read(true).write(true).open(mount.path("f")).unwrap();
    let map = Map::new(&both, SIZE, true);
    mount.drain();
    assert!(lab.body("f") == expected, "nobody stored anything");
    let before = mount.path("f").metadata().unwrap().ctime();
    map.set(7, 77);
    assert_eq!((byte(&reader, 7), byte(&both, 7)), (77, 77));
    drop(both);
    mount.drain();
    expected[7] = 77;
    assert!(lab.body("f") == expected, "a close says it");
    assert!(mount.path("f").metadata().unwrap().ctime() >= before);
    // The mapping outlives its descriptor, and the page was written to before.
    map.set(7, 78);
    map.set(5000, 79);
    (expected[7], expected[5000]) = (78, 79);
    mount.drain();
    assert!(lab.body("f") == expected, "a drain asks");
    map.set(9000, 80);
    expected[9000] = 80;
    eventually("it is uploaded by itself", || lab.body("f") == expected);
    map.set(9001, 81);
    expected[9001] = 81;
    drop((map, reader));
    eventually("the last store too", || lab.body("f") == expected);
    assert!(mount.read("f") == expected);
}

#[test]
fn what_was_written_beside_readers_is_read_by_the_next() {
    let (_lab, mount, reader, _) = place();
    // Pages of the kernel's own, from before the file went straight.
    drop(reader);
    let writer = OpenOptions::new().read(true).write(true).open(mount.path("f")).unwrap();
    assert_eq!(byte(&writer, 20_000), pattern(SIZE, 1)[20_000]);
    drop(writer);
    let reader = File::open(mount.path("f")).unwrap();
    let writer = OpenOptions::new().write(true).open(mount.path("f")).unwrap();
    writer.write_all_at(&[200], 20_000).unwrap();
    drop((writer, reader));
    let again = OpenOptions::new().read(true).write(true).open(mount.path("f")).unwrap();
    assert_eq!(byte(&again, 20_000), 200);
}

#[test]
fn what_is_mapped_is_not_evicted() {
    let lab = Lab::new();
    lab.insert("mapped", &pattern(900_000, 1));
    for index in 0..20 {
        lab.insert(&format!("other{index}"), &pattern(900_000, index));
    }
    let mut options = lab.options("a");
    options.bounds.cache_bytes = 6 << 20;
    let mount = lab.mount_options(options);
    let file = File::open(mount.path("mapped")).unwrap();
    let map = Map::new(&file, 900_000, false);
    drop(file);
    let held: Vec<File> = (0..20).map(|index| File::open(mount.path(&format!("other{index}"))).unwrap()).collect();
    for (index, file) in held.iter().enumerate() {
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes).unwrap();
        assert!(bytes == pattern(900_000, index as u8), "{index}");
        let cached = mount.ask(&Request::Status).status.cached_bytes;
        assert!(cached <= 6 << 20, "{cached}");
    }
    let expected = pattern(900_000, 1);
    assert!((0..900_000).step_by(1000).all(|offset| map.get(offset) == expected[offset]));
}

#[test]
fn a_program_runs_from_the_volume() {
    let lab = Lab::new();
    let program = std::fs::read("/bin/true").unwrap();
    let mount = lab.mount();
    let mut file = OpenOptions::new();
    let file = file.write(true).create_new(true).mode(0o755).open(mount.path("program")).unwrap();
    file.write_all_at(&program, 0).unwrap();
    drop(file);
    for round in 0..3 {
        let status = std::process::Command::new(mount.path("program")).status().unwrap();
        assert!(status.success(), "{round}");
        mount.drain();
    }
}
