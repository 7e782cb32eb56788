//! Directories that are walked: what comes ahead, that it is no older than it may be, and that it ends.

use std::time::{Duration, Instant};

use ec2mpi_agent::volume::store::memory::Operation;

use crate::lab::{Lab, Mount, eventually, pattern};

const FILES: u8 = 200;
/// More than attributes are trusted for.
const EXPIRED: Duration = Duration::from_millis(1200);

fn name(index: u8) -> String {
    format!("d/f{index:03}")
}

/// Files in a slow store, and a mount that has listed them.
fn place(attr_ttl: Duration) -> (Lab, Mount) {
    let lab = Lab::new();
    (0..FILES).for_each(|index| lab.insert(&name(index), &pattern(4096, index)));
    let mut options = lab.options("a");
    options.attr_ttl = attr_ttl;
    let mount = lab.mount_options(options);
    assert_eq!(mount.names("d").len(), usize::from(FILES));
    lab.store.set_latency(Duration::from_millis(20));
    std::thread::sleep(EXPIRED);
    (lab, mount)
}

fn requests(lab: &Lab) -> usize {
    [Operation::Head, Operation::Get, Operation::GetRange, Operation::List]
        .map(|kind| lab.store.calls(kind))
        .iter()
        .sum()
}

#[test]
fn small_files_come_ahead_of_who_reads_one_after_the_other() {
    let (lab, mount) = place(Duration::from_secs(1));
    // A listing says nothing of objects that are younger than two seconds.
    std::thread::sleep(EXPIRED);
    let (before, begun) = (requests(&lab), Instant::now());
    (0..FILES).for_each(|index| assert!(mount.read(&name(index)) == pattern(4096, index), "{index}"));
    let (took, asked) = (begun.elapsed(), requests(&lab) - before);
    println!("{FILES} files in {} ms, with {asked} requests", took.as_millis());
    // One after the other it would be 40 ms a file, and 400 requests.
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(asked < 300, "{asked} requests");
    // All that is left to ask is whether they are what they were.
    std::thread::sleep(EXPIRED);
    let (before, begun) = (requests(&lab), Instant::now());
    (0..FILES).for_each(|index| assert_eq!(mount.path(&name(index)).metadata().unwrap().len(), 4096));
    let (took, asked) = (begun.elapsed(), requests(&lab) - before);
    println!("{FILES} attributes in {} ms, with {asked} requests", took.as_millis());
    assert!(took < Duration::from_secs(2) && asked < 50, "{took:?}, {asked} requests");
}

#[test]
fn who_goes_from_directory_to_directory_waits_in_the_first_only() {
    let lab = Lab::new();
    let path = |dir: u8, file: u8| format!("d{dir}/f{file:02}");
    let all = || (0..10).flat_map(|dir| (0..20).map(move |file| (dir, file)));
    all().for_each(|(dir, file)| lab.insert(&path(dir, file), &pattern(3000, dir * 20 + file)));
    let mount = lab.mount();
    (0..10).for_each(|dir| assert_eq!(mount.names(&format!("d{dir}")).len(), 20));
    lab.store.set_latency(Duration::from_millis(20));
    let (before, begun) = (requests(&lab), Instant::now());
    all().for_each(|(dir, file)| assert!(mount.read(&path(dir, file)) == pattern(3000, dir * 20 + file)));
    let (took, asked) = (begun.elapsed(), requests(&lab) - before);
    println!("10 directories of 20 files in {} ms, with {asked} requests", took.as_millis());
    // One after the other it would be 20 ms a file at least: 4 s.
    assert!(took < Duration::from_millis(2500), "{took:?}");
    assert!(asked < 420, "{asked} requests");
}

#[test]
fn a_walk_ends_with_the_walker() {
    let (lab, mount) = place(Duration::from_secs(1));
    let before = requests(&lab);
    (0..12).for_each(|index| assert!(mount.read(&name(index)) == pattern(4096, index)));
    eventually("nothing more is asked", || {
        let asked = requests(&lab);
        std::thread::sleep(Duration::from_millis(100));
        asked == requests(&lab)
    });
    let asked = requests(&lab);
    assert!(asked - before < 100, "{} requests for 12 files", asked - before);
}

#[test]
fn what_came_ahead_is_no_older_than_it_may_be() {
    for (attr_ttl, wait, epoch) in [(1000, EXPIRED, false), (1000, Duration::ZERO, true), (0, Duration::ZERO, false)] {
        let (lab, mount) = place(Duration::from_millis(attr_ttl));
        (0..8).for_each(|index| assert!(mount.read(&name(index)) == pattern(4096, index)));
        // What is on its way arrives.
        std::thread::sleep(Duration::from_millis(200));
        lab.insert(&name(10), b"new");
        std::thread::sleep(wait);
        if epoch {
            mount.epoch();
        }
        assert_eq!(mount.read(&name(10)), b"new", "{attr_ttl} ms, {epoch}");
        assert!(mount.read(&name(11)) == pattern(4096, 11));
    }
}

const DIRECTORIES: u8 = 24;

/// Directories with a directory with files.
fn tree() -> Lab {
    let lab = Lab::new();
    let marker = |key: String| {
        let content_type = Some("application/x-directory".to_owned());
        lab.store.insert(&key, "", ec2mpi_agent::volume::store::Headers { content_type, ..Default::default() })
    };
    marker("t/".to_owned());
    for dir in 0..DIRECTORIES {
        marker(format!("t/d{dir:02}/"));
        marker(format!("t/d{dir:02}/src/"));
        (0..6).for_each(|file| lab.insert(&format!("t/d{dir:02}/src/f{file}"), &pattern(2000, dir)));
    }
    // A listing says nothing of objects that are younger than two seconds.
    std::thread::sleep(2 * EXPIRED);
    lab.store.set_latency(Duration::from_millis(20));
    lab
}

/// Reads all files below a directory, one after the other in the order of their names; how many.
fn read_below(mount: &Mount, dir: &str) -> usize {
    let read = |name: String| {
        let path = format!("{dir}/{name}");
        if mount.path(&path).metadata().unwrap().is_dir() {
            return read_below(mount, &path);
        }
        assert_eq!(mount.read(&path).len(), 2000);
        1
    };
    mount.names(dir).into_iter().map(read).sum()
}

#[test]
fn directories_are_listed_ahead_of_who_walks_through_a_tree() {
    let lab = tree();
    let mount = lab.mount();
    let (lists, begun) = (lab.store.calls(Operation::List), Instant::now());
    assert_eq!(read_below(&mount, "t"), usize::from(DIRECTORIES) * 6);
    let (took, listed) = (begun.elapsed(), lab.store.calls(Operation::List) - lists);
    println!("{DIRECTORIES} directories in {} ms, with {listed} listings", took.as_millis());
    // One after the other it would be more than 200 ms each.
    assert!(took < Duration::from_millis(3300), "{took:?}");
    assert!(listed < usize::from(DIRECTORIES) * 2 + 20, "{listed} listings");
}

#[test]
fn directories_that_are_only_looked_at_are_not_listed() {
    let lab = tree();
    let mount = lab.mount();
    let lists = lab.store.calls(Operation::List);
    let names = mount.names("t");
    names.iter().for_each(|name| assert!(mount.path(&format!("t/{name}")).metadata().unwrap().is_dir()));
    let listed = lab.store.calls(Operation::List) - lists;
    assert!(listed < 8, "{listed} listings");
}
