//! Close-to-open over three mounts: one writer a file, readers everywhere, and what each may have seen.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ec2mpi_tests::lab::Faults;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::place::{Mount, Place};
use crate::soak;

const FILES: usize = 3;
/// What every file has before the history begins.
const FIRST: u64 = 1;

/// One write or read of a file, and its value: files hold the number of their write.
#[derive(Debug, Clone, Copy)]
struct Event {
    file: usize,
    write: bool,
    value: u64,
    begun: Instant,
    ended: Instant,
}

/// What a read says of a file after `slack`: not older than the last write that had ended so long before it began, and
/// not newer than the last that had begun when it ended. How many reads there were, and of how many of them a write of
/// the history was the oldest that they might see.
fn check(history: &[Event], slack: Duration) -> (usize, usize) {
    let (mut checked, mut bound) = (0, 0);
    for read in history.iter().filter(|event| !event.write) {
        let writes = history.iter().filter(|event| event.write && event.file == read.file);
        let must = writes.clone().filter(|write| write.ended + slack < read.begun).map(|write| write.value).max();
        let may = writes.filter(|write| write.begun < read.ended).map(|write| write.value).max().unwrap_or(FIRST);
        let oldest = must.unwrap_or(FIRST);
        assert!((oldest..=may).contains(&read.value), "{read:?} must be {oldest} to {may}");
        checked += 1;
        bound += usize::from(must.is_some());
    }
    (checked, bound)
}

fn write(mount: &Mount, file: usize, value: u64) {
    let mut open = std::fs::File::create(mount.path(&format!("f{file}"))).unwrap();
    // Longer and shorter ones: a mixture of two would show.
    let text = format!("{value}\n").repeat(1 + usize::try_from(value % 7).unwrap() * 500);
    open.write_all(text.as_bytes()).unwrap();
    open.sync_all().unwrap();
}

fn read(mount: &Mount, file: usize) -> u64 {
    let text = std::fs::read_to_string(mount.path(&format!("f{file}"))).unwrap();
    let mut lines = text.lines();
    let first = lines.next().unwrap();
    assert!(lines.all(|line| line == first), "bytes of two versions");
    let value: u64 = first.parse().unwrap();
    assert_eq!(text.lines().count(), 1 + usize::try_from(value % 7).unwrap() * 500, "bytes are missing");
    value
}

/// Operations by three mounts at once; mount `n` writes file `n`, all read all. `pause`: after each.
fn run(mounts: &[Mount], operations: usize, pause: Duration) -> Vec<Event> {
    let (history, left) = (Mutex::new(Vec::new()), AtomicUsize::new(operations));
    std::thread::scope(|scope| {
        for (number, mount) in mounts.iter().enumerate() {
            let (history, left) = (&history, &left);
            scope.spawn(move || {
                let mut dice = StdRng::seed_from_u64(number as u64);
                let mut value = FIRST;
                while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                    let writes = dice.gen_bool(0.3);
                    let file = if writes { number } else { dice.gen_range(0..FILES) };
                    let begun = Instant::now();
                    let seen = if writes {
                        value += 1;
                        write(mount, file, value);
                        value
                    } else {
                        read(mount, file)
                    };
                    history.lock().unwrap().push(Event {
                        file,
                        write: writes,
                        value: seen,
                        begun,
                        ended: Instant::now(),
                    });
                    std::thread::sleep(pause);
                }
            });
        }
    });
    history.into_inner().unwrap()
}

fn mounts(place: &Place, ttl: Duration) -> Vec<Mount> {
    let mounts: Vec<Mount> =
        (0..FILES).map(|node| place.mount(&format!("n{node}"), |options| options.attr_ttl = ttl)).collect();
    for (number, mount) in mounts.iter().enumerate() {
        write(mount, number, FIRST);
    }
    mounts.iter().for_each(Mount::drain);
    mounts
}

/// With an attribute time of `slack`.
fn history(name: &str, slack: Duration, pause: Duration, operations: usize) {
    let place = Place::new(name);
    place.lab.set(Faults { latency_ms: 1, throttled: 0.01, ..Faults::default() });
    let mounts = mounts(&place, slack);
    let history = run(&mounts, operations, pause);
    let (checked, bound) = check(&history, slack);
    println!("{} operations on {FILES} mounts, {checked} reads checked, {bound} had to see a write", history.len());
    assert!(checked > operations / 3 && bound > checked / 2);
    assert_eq!(mounts.iter().map(Mount::conflicts).sum::<u64>(), 0);
}

#[test]
fn with_no_attribute_time_an_open_sees_every_write_that_was_synced() {
    history("strict", Duration::ZERO, Duration::ZERO, soak(300, 2000));
}

#[test]
fn by_default_an_open_sees_every_write_that_was_synced_a_second_ago() {
    // Over several attribute times.
    history("default", Duration::from_secs(1), Duration::from_millis(40), soak(300, 2000));
}

#[test]
fn after_a_barrier_everybody_sees_every_close() {
    let place = Place::new("barrier");
    let mounts = mounts(&place, Duration::from_secs(600));
    let rounds = soak(12, 200);
    for round in 2..rounds {
        for (number, mount) in mounts.iter().enumerate() {
            std::fs::write(
                mount.path(&format!("f{number}")),
                format!("{round}\n").repeat(1 + (round as usize % 7) * 500),
            )
            .unwrap();
        }
        mounts.iter().for_each(Mount::drain);
        mounts.iter().for_each(Mount::epoch);
        for mount in &mounts {
            for file in 0..FILES {
                assert_eq!(read(mount, file), round);
            }
        }
    }
    println!("{} barriers, each close seen by {FILES} mounts after them", rounds - 2);
}
