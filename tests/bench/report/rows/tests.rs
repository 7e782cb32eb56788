use super::*;
use crate::report::markdown;
use crate::server::Kind;
use crate::works::{Act, Before, Phase, Sizes, Target, Whom};

const READ: Row = Row {
    expected: None,
    id: "cold-read",
    title: "cold sequential read",
    unit: Unit::MibPerSecond,
    targets: &[Target::Times(0.9, Whom::Limit), Target::Times(1.0, Whom::BestPeer), Target::SentAtMost(1.0)],
};
const FIRST: Row = Row {
    expected: Some("a reason"),
    id: "first-byte",
    title: "first byte",
    unit: Unit::Milliseconds,
    targets: &[Target::Times(1.0 / 1.3, Whom::Limit), Target::LimitAnd { milliseconds: 5.0 }],
};

pub(crate) fn sample(work: &'static str, system: Name, pair: usize, value: f64) -> Sample {
    Sample {
        setting: Setting::distant(Kind::Seaweedfs),
        work,
        system,
        pair,
        value: Ok(value),
        amount: 512.0,
        fewer: system == Name::S3fs,
        turn: 2.0,
        cpu: 0.5,
        peak_mib: if system == Name::Bare { 0.0 } else { 100.0 },
        traffic: Traffic { get: 3, sent: 2 << 20, ..Traffic::default() },
    }
}

pub(crate) fn phase() -> Phase {
    const ROWS: &[Row] = &[READ];
    const WHO: &[Name] = &[Name::Ours, Name::S3fs, Name::Juicefs, Name::Bare];
    Phase { act: Act::ReadAll, before: Before::Cold, chained: false, repeats: 1, who: WHO, rows: ROWS }
}

/// Everybody in every row.
fn planned(table: &[Row]) -> Vec<Planned> {
    let plan = |row: &Row, system| Planned {
        setting: Setting::distant(Kind::Seaweedfs),
        row: *row,
        system,
        missing: "not reached".to_owned(),
    };
    let names = [Name::Ours, Name::S3fs, Name::Juicefs, Name::Bare];
    table.iter().flat_map(|row| names.map(|name| plan(row, name))).collect()
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

pub(crate) fn promises() -> BTreeMap<Name, Promise> {
    let promise = Promise { attr_ttl: "1 s", excl: "node", close: "x", fsync: "y", fsync_in_s3: true };
    [Name::Ours, Name::S3fs, Name::Juicefs].map(|name| (name, promise)).into()
}

fn line(lines: &[Line], work: &str, system: Name) -> Line {
    lines.iter().find(|line| line.work == work && line.system == system).expect("a row").clone()
}

#[test]
fn ratios_are_of_pairs_and_slower_times_count_as_slower() {
    let lines = rows(&samples(), &planned(&[READ, FIRST]), &promises());
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
    let lines = rows(&all, &planned(&[READ, FIRST]), &promises());
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
    let lines = rows(&all, &planned(&[READ]), &promises());
    let s3fs = line(&lines, "cold-read", Name::S3fs);
    assert_eq!((s3fs.median, s3fs.error.as_deref()), (None, Some("no space")));
    let ours = line(&lines, "cold-read", Name::Ours);
    assert_eq!((ours.targets[0].held, ours.targets[0].sure), (None, false));
}

#[test]
fn what_was_not_measured_is_listed() {
    let mut all = samples();
    all.retain(|sample| sample.work != "first-byte" || sample.system != Name::Bare);
    let mut plan = planned(&[READ, FIRST]);
    plan[5].missing = "no time".to_owned();
    let lines = rows(&all, &plan, &promises());
    let missing = |name| line(&lines, "first-byte", name).missing;
    assert_eq!(missing(Name::Bare), Some("not reached".to_owned()));
    assert_eq!((missing(Name::S3fs), missing(Name::Ours)), (Some("no time".to_owned()), None));
    assert_eq!(line(&lines, "first-byte", Name::Ours).targets[0].held, None, "there is no limit to compare with");
}

#[test]
fn the_bill_is_that_of_the_list() {
    let traffic =
        Traffic { put: 100, copy: 60, multipart: 20, list: 20, get: 900, head: 100, delete: 7, ..Traffic::default() };
    assert!((bill(&traffic) - 1.4).abs() < 1e-9);
}

#[test]
fn the_table_says_what_the_rows_say() {
    let report = Report {
        machine: "2 cores".to_owned(),
        command: "make bench".to_owned(),
        seconds: 3.0,
        finished: false,
        sizes: Sizes::scaled(1.0),
        promises: BTreeMap::new(),
        rows: rows(&samples(), &planned(&[READ, FIRST]), &promises()),
    };
    let text = markdown(&report);
    let row = text.lines().find(|line| line.starts_with("| cold sequential read")).expect("the row");
    assert!(row.contains("| 142 (95.0–190) | 45.0* (30.0–60.0) |"), "{row}");
    assert!(
        row.contains("0.90 x the limit: held (0.95)") && row.contains("1.00 x the best peer: **missed** (0.79)"),
        "{row}"
    );
    assert!(text.contains("| cold-read | ours | 0 | 0 | 0 | 3 |"), "{text}");
    assert!(text.contains("It was stopped") && text.contains("first byte: a reason"), "{text}");
    assert!(text.contains("- first byte: s3fs, juicefs (not reached)"), "{text}");
}
