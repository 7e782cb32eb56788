//! SIGKILL at random instants, and at every named place, under a writing load: what was closed is in S3 after the next
//! mount's drain, and what was synced is there at once.

use std::time::Duration;

use ec2mpi_agent::volume::failpoint;
use ec2mpi_tests::lab::Faults;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::load::{Load, Promise, Promises};
use crate::place::{Agent, Place};
use crate::soak;

/// How long a named place may take to be reached.
const PATIENCE: Duration = Duration::from_secs(40);
/// Large enough for parts.
const LARGE: usize = (64 << 20) + 5_000_000;

/// Lines of the table.
#[derive(Debug, Default)]
struct Table {
    tried: u64,
    closed: u64,
    found: u64,
    synced: u64,
    synced_found: u64,
    removed: u64,
    removed_gone: u64,
    lost: Vec<String>,
    /// Named places that were not reached.
    missed: Vec<String>,
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tried, closed, found, synced, synced_found, removed, removed_gone, lost, missed: _ } = self;
        writeln!(f, "kills tried                      {tried}")?;
        writeln!(f, "files closed / found exact       {closed} / {found}")?;
        writeln!(f, "files synced / in S3 at the kill {synced} / {synced_found}")?;
        writeln!(f, "files removed / gone             {removed} / {removed_gone}")?;
        write!(f, "lost                             {}", lost.len())
    }
}

impl Table {
    fn add(&mut self, other: Self) {
        self.tried += other.tried;
        self.closed += other.closed;
        self.found += other.found;
        self.synced += other.synced;
        self.synced_found += other.synced_found;
        self.removed += other.removed;
        self.removed_gone += other.removed_gone;
        self.lost.extend(other.lost);
        self.missed.extend(other.missed);
    }

    /// At the kill, before anything is replayed.
    fn check_synced(&mut self, place: &Place, promises: &Promises) {
        for (path, promise) in promises.all() {
            let Promise::Synced(content) = promise else { continue };
            self.synced += 1;
            if place.object(&path).is_some_and(|body| body.starts_with(&content.bytes())) {
                self.synced_found += 1;
            } else {
                self.lost.push(format!("{path}: synced, not in S3 at the kill"));
            }
        }
    }

    /// After the next mount's drain.
    fn check_closed(&mut self, place: &Place, promises: &Promises) {
        for (path, promise) in promises.all() {
            let body = place.object(&path);
            match promise {
                Promise::Closed(content) => {
                    self.closed += 1;
                    match body {
                        Some(body) if body == content.bytes() => self.found += 1,
                        Some(body) => self.lost.push(format!("{path}: {} bytes, {content:?}", body.len())),
                        None => self.lost.push(format!("{path}: closed, not in S3")),
                    }
                }
                Promise::Synced(content) if !body.as_ref().is_some_and(|body| body.starts_with(&content.bytes())) => {
                    self.lost.push(format!("{path}: synced, not in S3"));
                }
                Promise::ClosedOrRemoved(content) if body.as_ref().is_some_and(|body| *body != content.bytes()) => {
                    self.lost.push(format!("{path}: being renamed or removed, and changed"));
                }
                Promise::Removed => {
                    self.removed += 1;
                    self.removed_gone += u64::from(body.is_none());
                }
                Promise::Synced(_) | Promise::Open | Promise::ClosedOrRemoved(_) => {}
            }
        }
    }
}

/// Where the next kill comes from.
#[derive(Debug, Clone, Copy)]
enum Kill {
    At(&'static str),
    After(Duration),
}

/// The named places of the short form.
const SOME: &[&str] = &[
    failpoint::JOURNAL_TORN,
    failpoint::PUT_DONE,
    failpoint::RENAME_KEY,
    failpoint::COMMIT,
    failpoint::MULTIPART_NOTED,
];

/// Every named place, in the short form some of them, and then random instants.
fn kills(most: usize, dice: &mut StdRng) -> Vec<Kill> {
    let named = if most < failpoint::ALL.len() { SOME } else { failpoint::ALL };
    let mut kills: Vec<Kill> = named.iter().map(|name| Kill::At(name)).collect();
    while kills.len() < most {
        kills.push(Kill::After(Duration::from_millis(dice.gen_range(1..600))));
    }
    kills
}

fn is_about_parts(name: &str) -> bool {
    name.starts_with("multipart")
}

fn is_about_spilling(name: &str) -> bool {
    name.contains("spill")
}

/// One life: a load on a mount until the kill. Whether it came.
fn live(place: &Place, kill: Kill, number: usize, table: &mut Table) -> Option<std::sync::Arc<Promises>> {
    let named = match kill {
        Kill::At(name) => name,
        Kill::After(_) => "",
    };
    let spilling: &[&str] = if is_about_spilling(named) { &["--cache-size", "67108864"] } else { &[] };
    // Some places are passed often: not always the first time.
    let variable = match named {
        failpoint::JOURNAL_APPENDED | failpoint::JOURNAL_TORN => format!("{named}:{}", 3 + number % 40),
        failpoint::JOURNAL_SYNCED | failpoint::PUT | failpoint::PUT_DONE | failpoint::COMMIT | failpoint::COMMITTED => {
            format!("{named}:{}", 1 + number % 9)
        }
        name => name.to_owned(),
    };
    let mut agent = place.start("a", spilling, &[("EC2MPI_VOLUME_FAILPOINT", &variable)]);
    let large = (is_about_parts(named) || is_about_spilling(named)).then_some(LARGE);
    let died_young = !agent.is_ready();
    let promises = if died_young {
        std::sync::Arc::default()
    } else {
        let load = Load::start(&agent.root, &format!("life{number}"), 3, number as u64, large);
        match kill {
            Kill::After(pause) => {
                std::thread::sleep(pause);
                agent.kill();
            }
            Kill::At(_) => {
                if !agent.dies_within(PATIENCE) {
                    agent.kill();
                    load.stop();
                    return None;
                }
            }
        }
        load.stop()
    };
    table.tried += 1;
    table.check_synced(place, &promises);
    Some(promises)
}

/// The next mount brings everything to S3.
fn recover(place: &Place) {
    let mut agent: Agent = place.start("a", &[], &[]);
    assert!(agent.is_ready(), "the next mount fails:\n{}", agent.log());
    let answer = agent.drain();
    assert!(answer.ok && answer.status.failed_files == 0, "{answer:?}\n{}", agent.log());
    assert_eq!(answer.status.conflicts, 0, "a conflict was invented");
    let (unmounted, said) = agent.umount(60);
    assert!(unmounted, "{said}");
}

/// One volume that dies again and again.
fn lives(place: &Place, kills: &[(usize, Kill)]) -> Table {
    place.lab.set(Faults { latency_ms: 3, throttled: 0.01, lost: 0.01, ..Faults::default() });
    let mut table = Table::default();
    for (number, kill) in kills {
        match live(place, *kill, *number, &mut table) {
            Some(promises) => {
                recover(place);
                table.check_closed(place, &promises);
            }
            None => {
                table.missed.push(format!("{kill:?}"));
                recover(place);
            }
        }
    }
    println!("the lab: {:?}", place.lab.counts());
    let left: Vec<String> = place.keys().into_iter().filter(|key| key.starts_with(".ec2mpi")).collect();
    assert!(left.is_empty(), "objects of ours were left: {left:?}");
    assert_eq!(place.uploads(), 0, "multipart uploads were left");
    table
}

#[test]
fn killed_at_any_instant_nothing_that_was_closed_is_lost() {
    let kills: Vec<_> = kills(soak(9, 300), &mut StdRng::seed_from_u64(4)).into_iter().enumerate().collect();
    // All of them before there is a second thread.
    let places: Vec<Place> = (0..soak(1, 3)).map(|_| Place::new("crash")).collect();
    let mut table = Table::default();
    std::thread::scope(|scope| {
        let shares = places.iter().zip(kills.chunks(kills.len().div_ceil(places.len())));
        let lives: Vec<_> = shares.map(|(place, share)| scope.spawn(|| lives(place, share))).collect();
        lives.into_iter().for_each(|lives| table.add(lives.join().unwrap()));
    });
    println!("{table}");
    assert!(table.lost.is_empty(), "{:#?}", table.lost);
    assert_eq!(table.removed, table.removed_gone, "what was removed came back");
    assert!(table.missed.is_empty(), "never reached: {:?}", table.missed);
    assert!(table.closed > table.tried && table.synced > 0, "the load did not get far");
}
