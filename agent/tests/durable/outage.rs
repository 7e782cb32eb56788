//! S3 goes away under load, for a while and for good.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use ec2mpi_tests::lab::{Faults, Outage};

use crate::load::{Content, open_to_write};
use crate::place::Place;
use crate::soak;

/// What a call may take when S3 is away.
const LIMIT: Duration = Duration::from_secs(30);

fn away(outage: Outage) -> Faults {
    Faults { outage: Some(outage), ..Faults::default() }
}

/// How long the slowest call took.
#[derive(Debug, Default)]
struct Slowest(Duration);

impl Slowest {
    fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = call();
        self.0 = self.0.max(begun.elapsed());
        result
    }
}

fn outage(name: &str, outage: Outage) {
    let place = Place::new(name);
    let mut agent = place.start("a", &[], &[]);
    assert!(agent.is_ready());
    fs::create_dir(agent.root.join("d")).unwrap();
    let cached = Content { length: 300_000, seed: 1 };
    fs::write(agent.root.join("d/cached"), cached.bytes()).unwrap();
    assert!(agent.drain().ok);
    assert_eq!(fs::read_dir(agent.root.join("d")).unwrap().count(), 1);
    let (mut slowest, mut written, mut eio) = (Slowest::default(), Vec::new(), 0);
    place.lab.set(away(outage));
    let end = Instant::now() + Duration::from_secs(soak(6, 60));
    while Instant::now() < end {
        let number = written.len();
        let content = Content { length: 1000 + number % 50_000, seed: number as u64 };
        // A new name may have to wait for S3 before it is known to be free; then it may be refused, and never hang.
        let result = slowest.time(|| fs::write(agent.root.join(format!("d/f{number}")), content.bytes()));
        match result {
            Ok(()) => written.push(content),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                eio += 1;
            }
        }
        let read = slowest.time(|| fs::read(agent.root.join("d/cached"))).unwrap();
        assert!(read == cached.bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    let slowest_work = slowest.0;
    // What S3 alone could tell is an error in time; so is a sync, which promises S3.
    let file = open_to_write(&agent.root.join("d/cached")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 0).unwrap();
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| {
            let mut slowest = Slowest::default();
            let error = slowest.time(|| file.sync_all()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            slowest.0
        });
        let unknown = slowest.time(|| fs::metadata(agent.root.join("elsewhere/unknown"))).unwrap_err();
        assert!(matches!(unknown.raw_os_error(), Some(libc::EIO | libc::ENOENT)), "{unknown}");
        slowest.0 = slowest.0.max(sync.join().unwrap());
    });
    drop(file);
    place.lab.set(Faults::default());
    let answer = agent.drain();
    assert!(answer.ok && answer.status.conflicts == 0, "{answer:?}");
    for (number, content) in written.iter().enumerate() {
        assert!(place.object(&format!("d/f{number}")).is_some_and(|body| body == content.bytes()), "f{number}");
    }
    let mut changed = cached.bytes();
    changed[..7].copy_from_slice(b"changed");
    assert!(place.object("d/cached").unwrap() == changed);
    println!(
        "away for {} s by {outage:?}: {} files written, {eio} refused, the slowest of these calls {:.1} s, of all {:.1} s; \
         all in S3 after the drain",
        soak(6, 60),
        written.len(),
        slowest_work.as_secs_f64(),
        slowest.0.as_secs_f64()
    );
    assert!(slowest.0 < LIMIT, "{:?}", slowest.0);
    // Names and versions were known: work goes on after a moment.
    assert!(slowest_work < Duration::from_secs(5), "{slowest_work:?}");
    assert!(written.len() > soak(20, 400), "{}", written.len());
}

#[test]
fn s3_that_resets_every_connection_for_a_while_costs_nothing() {
    outage("outage", Outage::Reset);
}

#[test]
fn s3_that_says_nothing_for_a_while_costs_nothing() {
    outage("silence", Outage::Silence);
}

#[test]
fn s3_away_for_good_umount_works_and_the_next_mount_uploads() {
    let place = Place::new("gone");
    let mut agent = place.start("a", &[], &[]);
    assert!(agent.is_ready());
    assert_eq!(fs::read_dir(&agent.root).unwrap().count(), 0);
    place.lab.set(away(Outage::Silence));
    let contents: Vec<Content> = (0..20).map(|seed| Content { length: 10_000, seed }).collect();
    for (number, content) in contents.iter().enumerate() {
        fs::write(agent.root.join(format!("f{number}")), content.bytes()).unwrap();
    }
    let begun = Instant::now();
    let (ok, said) = agent.umount(2);
    assert!(!ok && said.contains("journal"), "{said}");
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert!(agent.dies_within(Duration::from_secs(10)), "the agent lives on after its unmount");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(agent.root.to_str().unwrap()), "still mounted");
    // A mount without S3 works too, and knows its own files.
    let mut agent = place.start("a", &[], &[]);
    assert!(agent.is_ready());
    let mut bytes = Vec::new();
    fs::File::open(agent.root.join("f3")).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == contents[3].bytes());
    place.lab.set(Faults::default());
    let answer = agent.drain();
    assert!(answer.ok, "{answer:?}");
    for (number, content) in contents.iter().enumerate() {
        assert!(place.object(&format!("f{number}")).unwrap() == content.bytes());
    }
}

#[test]
fn a_second_agent_on_the_same_cache_is_refused() {
    let place = Place::new("second");
    let mut agent = place.start("a", &[], &[]);
    assert!(agent.is_ready());
    let mut second = place.start_on("b", "a", &[], &[]);
    assert!(!second.is_ready(), "two agents on one cache directory");
    assert!(second.log().contains("another volume uses the cache directory"), "{}", second.log());
    fs::write(agent.root.join("f"), b"the first goes on").unwrap();
    assert!(agent.drain().ok);
    assert_eq!(place.object("f").unwrap(), b"the first goes on");
}
