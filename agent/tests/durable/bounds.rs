//! Bounds: memory, cache, dirty bytes, and a disk smaller than all of them.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ec2mpi_tests::lab::{Faults, Outage};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::load::Content;
use crate::place::Place;
use crate::soak;

const MIB: u64 = 1 << 20;

/// The stream's piece number `number`: a mebibyte that no other is like.
fn piece(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(MIB as usize);
    while bytes.len() < MIB as usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Bytes on disk below a directory.
fn disk_usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// The most that `dir` took while `work` ran.
fn watching<T>(dir: &Path, work: impl FnOnce() -> T) -> (T, u64) {
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                most.fetch_max(disk_usage(dir), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::SeqCst);
        result
    });
    let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    (result, most.load(Ordering::SeqCst))
}

fn rate(bytes: u64, begun: Instant) -> u64 {
    (bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()) as u64
}

#[test]
fn a_file_larger_than_the_cache_goes_in_and_out() {
    let (size, cache) = soak((320 * MIB, 96 * MIB), (4096 * MIB, 512 * MIB));
    let place = Place::new("stream");
    let (cache_text, memory_text) = (cache.to_string(), (128 * MIB).to_string());
    let bounds = ["--cache-size", &cache_text, "--memory-limit", &memory_text];
    let mut agent = place.start("a", &bounds, &[]);
    assert!(agent.is_ready());
    let begun = Instant::now();
    let ((), in_disk) = watching(&place.dir.path().join("cache-a"), || {
        let mut file = File::create(agent.root.join("stream")).unwrap();
        for number in 0..size / MIB {
            file.write_all(&piece(number)).unwrap();
        }
        file.sync_all().unwrap();
    });
    let in_rate = rate(size, begun);
    let answer = agent.drain();
    assert!(answer.ok, "{answer:?}");
    let in_peak = agent.peak_memory();
    let keys = place.keys();
    assert_eq!(keys, ["stream"], "parts were left in S3");
    let mut other = place.start("b", &bounds, &[]);
    assert!(other.is_ready());
    let begun = Instant::now();
    let ((), out_disk) = watching(&place.dir.path().join("cache-b"), || {
        let mut file = File::open(other.root.join("stream")).unwrap();
        let mut bytes = vec![0; MIB as usize];
        for number in 0..size / MIB {
            file.read_exact(&mut bytes).unwrap();
            assert!(bytes == piece(number), "piece {number} is wrong");
        }
        assert_eq!(file.read(&mut bytes).unwrap(), 0);
    });
    let (out_rate, out_peak) = (rate(size, begun), other.peak_memory());
    // A change in the middle of it, without room for all of it.
    let file = crate::load::open_to_write(&other.root.join("stream")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed in the middle", size / 2 + 77).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let mut expected = piece(size / 2 / MIB);
    expected[77..98].copy_from_slice(b"changed in the middle");
    let mut bytes = vec![0; MIB as usize];
    // The attribute time, here and in the kernel.
    std::thread::sleep(Duration::from_millis(2100));
    let file = File::open(agent.root.join("stream")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, size / 2).unwrap();
    assert!(bytes == expected, "the change is not seen elsewhere");
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    assert!(bytes == piece(0));
    println!("size {} MiB, cache {} MiB, memory limit 128 MiB", size / MIB, cache / MIB);
    println!("in:  {in_rate} MB/s, peak memory {} MiB, most on disk {} MiB", in_peak / MIB, in_disk / MIB);
    println!("out: {out_rate} MB/s, peak memory {} MiB, most on disk {} MiB", out_peak / MIB, out_disk / MIB);
    for (what, peak) in [("in", in_peak), ("out", out_peak)] {
        assert!(peak < 200 * MIB, "{what}: {} MiB of memory", peak / MIB);
    }
    for (what, disk) in [("in", in_disk), ("out", out_disk)] {
        assert!(disk < cache + 64 * MIB, "{what}: {} MiB of disk", disk / MIB);
    }
}

#[test]
fn writers_wait_at_the_dirty_limit() {
    let place = Place::new("dirty");
    let limit = 32 * MIB;
    place.lab.set(Faults { bytes_per_second: Some(15_000_000), ..Faults::default() });
    let mut agent = place.start("a", &["--dirty-limit", &limit.to_string()], &[]);
    assert!(agent.is_ready());
    let mut most = 0;
    for file in 0..12 {
        // Each too small to be sent ahead.
        let bytes: Vec<u8> = (0..10).flat_map(|number| piece(file * 10 + number)).collect();
        fs::write(agent.root.join(format!("f{file}")), &bytes).unwrap();
        most = most.max(agent.status().status.dirty_bytes);
    }
    assert!(agent.drain().ok);
    println!("dirty limit {} MiB, most dirty {} MiB", limit / MIB, most / MIB);
    assert!(most <= limit + 11 * MIB, "{} MiB", most / MIB);
    assert!(most > 10 * MIB, "nothing was ever dirty");
    let body = place.object("f11").unwrap();
    assert!(
        body.chunks(MIB as usize).zip(110..).all(|(bytes, number)| bytes == piece(number)) && body.len() == 10 << 20
    );
}

/// A file system in memory at a directory; gone with the value.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path, size: u64) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(at)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// Files of 5 MB, one after the other, until the disk is full. How many were closed.
fn fill(root: &Path) -> usize {
    let mut closed = 0;
    let error = loop {
        match fs::write(root.join(format!("f{closed}")), five_megabytes(closed).bytes()) {
            Ok(()) => closed += 1,
            Err(error) => break error,
        }
        assert!(closed < 100, "a small disk holds {closed} files of 5 MB");
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    assert!(closed > 3, "{closed}");
    closed
}

fn five_megabytes(number: usize) -> Content {
    Content { length: 5_000_000, seed: number as u64 }
}

#[test]
fn what_was_closed_on_a_full_disk_goes_up_by_itself() {
    let place = Place::new("closed-full");
    let cache = place.dir.path().join("cache-a");
    let _small = Small::mount(&cache, 32 * MIB);
    let mut agent = place.start("a", &[], &[]);
    assert!(agent.is_ready());
    assert_eq!(fs::read_dir(&agent.root).unwrap().count(), 0);
    place.lab.set(Faults { outage: Some(Outage::Reset), ..Faults::default() });
    let closed = fill(&agent.root);
    place.lab.set(Faults::default());
    let deadline = Instant::now() + Duration::from_secs(60);
    while agent.status().status.dirty_files > 0 {
        assert!(Instant::now() < deadline, "{:?}", agent.status());
        std::thread::sleep(Duration::from_millis(100));
    }
    for number in 0..closed {
        assert!(place.object(&format!("f{number}")).unwrap() == five_megabytes(number).bytes(), "f{number}");
    }
    // The one that did not fit was closed, too: with what was written of it.
    let cut = place.object(&format!("f{closed}")).unwrap();
    assert!(five_megabytes(closed).bytes().starts_with(&cut));
}

#[test]
fn a_full_disk_is_an_error_before_it_is_a_loss() {
    let place = Place::new("full");
    let cache = place.dir.path().join("cache-a");
    let _small = Small::mount(&cache, 64 * MIB);
    let mut agent = place.start("a", &[], &[]);
    assert!(agent.is_ready());
    assert_eq!(fs::read_dir(&agent.root).unwrap().count(), 0);
    place.lab.set(Faults { outage: Some(Outage::Reset), ..Faults::default() });
    let closed = fill(&agent.root);
    for number in 0..closed {
        let bytes = fs::read(agent.root.join(format!("f{number}"))).unwrap();
        assert!(bytes == five_megabytes(number).bytes(), "f{number}");
    }
    // Killed while it is full, too.
    agent.kill();
    drop(agent);
    place.lab.set(Faults::default());
    let mut agent = place.start("a", &[], &[]);
    assert!(agent.is_ready(), "{}", agent.log());
    let answer = agent.drain();
    assert!(answer.ok && answer.status.failed_files == 0, "{answer:?}");
    for number in 0..closed {
        assert!(place.object(&format!("f{number}")).unwrap() == five_megabytes(number).bytes(), "f{number}");
    }
    println!("a disk of 64 MiB held {closed} files of 5 MB, then said ENOSPC; all of them are in S3");
    // With S3 there, what is larger than the disk just goes through it.
    let size = 160;
    let mut file = File::create(agent.root.join("large")).unwrap();
    for number in 0..size {
        file.write_all(&piece(number)).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let mut file = File::open(agent.root.join("large")).unwrap();
    let mut bytes = vec![0; MIB as usize];
    for number in 0..size {
        file.read_exact(&mut bytes).unwrap();
        assert!(bytes == piece(number), "piece {number}");
    }
}
