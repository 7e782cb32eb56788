use super::*;
use crate::report::markdown;
use crate::server::Kind;
use crate::works::Sizes;

const READ: Row = Row {
    id: "cold-read",
    title: "cold sequential read",
    unit: Unit::MibPerSecond,
    targets: &[Target::Times(0.9, Whom::Limit), Target::Times(1.0, Whom::BestPeer), Target::SentAtMost(1.0)],
};
const FIRST: Row = Row {
    id: "first-byte",
    title: "first byte",
    unit: Unit::Milliseconds,
    targets: &[Target::Times(1.0 / 1.3, Whom::Limit), Target::LimitAnd { milliseconds: 5.0 }],
};

fn sample(work: &'static str, system: Name, pair: usize, value: f64) -> Sample {
    Sample {
        setting: Setting::distant(Kind::Seaweedfs),
        work,
        system,
        pair,
        value: Ok(value),
        amount: 512.0,
        few: system == Name::S3fs,
        cpu: 0.5,
        peak_mib: if system == Name::Bare { 0.0 } else { 100.0 },
        traffic: Traffic { get: 3, sent: 2 << 20, ..Traffic::default() },
    }
}

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for (pair, machine) in [(0, 1.0), (1, 2.0), (2, 1.5)] {
        for (name, speed) in [(Name::Ours, 95.0), (Name::S3fs, 30.0), (Name::Juicefs, 120.0), (Name::Bare, 100.0)] {
            all.push(sample("cold-read", name, pair, speed * machine));
        }
        for (name, time) in [(Name::Ours, 26.0), (Name::Bare, 22.0)] {
            all.push(sample("first-byte", name, pair, time / machine));
        }
    }
    all
}

fn promises() -> BTreeMap<Name, Promise> {
    let promise = Promise { attr_ttl: "1 s", excl: "node", close: "x", fsync: "y", fsync_in_s3: true };
    [Name::Ours, Name::S3fs, Name::Juicefs].map(|name| (name, promise)).into()
}

fn line(lines: &[Line], work: &str, system: Name) -> Line {
    lines.iter().find(|line| line.work == work && line.system == system).expect("a row").clone()
}

#[test]
fn ratios_are_of_pairs_and_slower_times_count_as_slower() {
    let lines = rows(&samples(), &[READ, FIRST], &promises());
    let read = line(&lines, "cold-read", Name::Ours);
    assert_eq!((read.median, read.min, read.max, read.samples), (Some(142.5), Some(95.0), Some(190.0), 3));
    let near = |ratio: Option<Ratio>, value: f64| (ratio.expect("a ratio").value - value).abs() < 1e-9;
    assert!(near(read.ratio_to_limit, 0.95) && near(read.ratio_to_s3fs, 95.0 / 30.0));
    assert_eq!(read.best_peer, Some(Name::Juicefs));
    assert!(near(read.ratio_to_best_peer, 95.0 / 120.0));
    assert_eq!(read.ratio_to_native, None);
    let held: Vec<_> = read.targets.iter().map(|verdict| verdict.held).collect();
    assert_eq!(held, [Some(true), Some(false), Some(false)], "{:?}", read.targets);
    let first = line(&lines, "first-byte", Name::Ours);
    assert!(near(first.ratio_to_limit, 22.0 / 26.0), "slower than one GET");
    assert!(first.targets.iter().all(|verdict| verdict.held == Some(true)), "{:?}", first.targets);
    assert!(line(&lines, "cold-read", Name::S3fs).targets.is_empty(), "targets are ours alone");
    assert_eq!(line(&lines, "cold-read", Name::S3fs).fewer, Some(512.0));
}

#[test]
fn daemons_have_rows_of_their_own() {
    let mut all = samples();
    all[0].peak_mib = 400.0;
    let lines = rows(&all, &[READ, FIRST], &promises());
    let peak = line(&lines, PEAK.id, Name::Ours);
    assert_eq!((peak.median, peak.targets[0].held), (Some(400.0), Some(false)));
    let cpu = line(&lines, CPU.id, Name::Ours);
    assert_eq!((cpu.median, cpu.targets[0].held), (Some(1.0), Some(true)));
    assert!(!lines.iter().any(|line| line.system == Name::Bare && line.work == PEAK.id));
}

#[test]
fn a_failure_is_told_and_nothing_is_held_without_a_rival() {
    let mut all = samples();
    all.retain(|sample| sample.system != Name::Bare);
    for sample in &mut all {
        if sample.system == Name::S3fs {
            sample.value = Err("no space".to_owned());
        }
    }
    let lines = rows(&all, &[READ], &promises());
    let s3fs = line(&lines, "cold-read", Name::S3fs);
    assert_eq!((s3fs.median, s3fs.error.as_deref()), (None, Some("no space")));
    assert_eq!(line(&lines, "cold-read", Name::Ours).targets[0].held, None);
}

#[test]
fn the_table_says_what_the_rows_say() {
    let report = Report {
        machine: "2 cores".to_owned(),
        command: "make bench".to_owned(),
        seconds: 3.0,
        sizes: Sizes::scaled(1.0),
        promises: BTreeMap::new(),
        rows: rows(&samples(), &[READ, FIRST], &promises()),
    };
    let text = markdown(&report);
    let row = text.lines().find(|line| line.starts_with("| cold sequential read")).expect("the row");
    assert!(row.contains("| 142 (95.0–190) | 45.0* (30.0–60.0) |"), "{row}");
    assert!(
        row.contains("0.90 x the limit: held (0.95)") && row.contains("1.00 x the best peer: **missed** (0.79)"),
        "{row}"
    );
    assert!(text.contains("| cold-read | ours | 0 | 0 | 0 | 3 |"), "{text}");
}
