//! The table for people.

use std::fmt::Write;

use ec2mpi_tests::lab::Traffic;

use super::rows::{Line, Report};
use super::verdict::Verdict;
use crate::stats::Ratio;
use crate::works::{Name, Unit};

/// The section for docs/performance.md.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::from("## The volume and others\n\n");
    let _ = writeln!(text, "Measured by `{}` in {:.0} s on {}.\n", report.command, report.seconds, report.machine);
    if !report.finished {
        text.push_str("It was stopped before its end, or goes on.\n\n");
    }
    text.push_str(LEGEND);
    let mut shown: Vec<String> = Vec::new();
    for line in &report.rows {
        let setting = line.setting.text();
        if !shown.contains(&setting) {
            section(&mut text, report, &setting);
            shown.push(setting);
        }
    }
    promises(&mut text, report);
    costs(&mut text, report);
    text
}

const LEGEND: &str = "\
Medians; in brackets the smallest and the largest of several. *limit* is a parallel client without a file system, *native* the \
local disk. A star marks who was measured on fewer files or calls, and is compared by rate. Ratios are of measurements taken \
side by side, with their interval of 95% where there are several; above 1 ours is faster. A question mark behind a verdict: \
it may be chance.\n";

fn section(text: &mut String, report: &Report, setting: &str) {
    let _ = writeln!(text, "\n### {setting}\n");
    text.push_str("| work | unit | ours | s3fs | rclone | JuiceFS | native | limit | to s3fs | to best peer | to limit | to native | target |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    let own = report.rows.iter().filter(|line| line.setting.text() == setting);
    let ours = own.clone().filter(|line| line.system == Name::Ours);
    for line in ours {
        let of = |name| own.clone().find(|other| other.work == line.work && other.system == name);
        let cells = [Name::S3fs, Name::Rclone, Name::Juicefs, Name::Native, Name::Bare].map(|name| value(of(name)));
        let ratios =
            [line.ratio_to_s3fs, line.ratio_to_best_peer, line.ratio_to_limit, line.ratio_to_native].map(ratio);
        let targets: Vec<String> = line.targets.iter().map(verdict).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            line.title,
            line.unit.text(),
            value(Some(line)),
            cells.join(" | "),
            ratios.join(" | "),
            targets.join("; ")
        );
    }
    variants(text, own.clone());
    behind(text, own.clone());
    missing(text, own);
}

/// Other ways to run a system.
fn variants<'a>(text: &mut String, lines: impl Iterator<Item = &'a Line>) {
    text.push_str("\nVariants:\n\n");
    let is_variant = |line: &&Line| matches!(line.system, Name::OursPlain | Name::OursDisk | Name::JuicefsWriteback);
    for line in lines.filter(is_variant) {
        let targets = line.targets.iter().map(|target| format!("; {}", verdict(target))).collect::<String>();
        let (who, value, unit) = (line.system.text(), value(Some(line)), line.unit.text());
        let _ = writeln!(text, "- {who}, {}: {value} {unit}{targets}", line.title);
    }
}

/// Works in which others were expected to be faster.
fn behind<'a>(text: &mut String, lines: impl Iterator<Item = &'a Line>) {
    text.push_str("\nOthers were expected to be faster in these:\n\n");
    for line in lines.filter(|line| line.system == Name::Ours) {
        let Some(why) = line.expected else { continue };
        let found = match (line.best_peer, line.ratio_to_best_peer) {
            (Some(peer), Some(ratio)) => format!("ours is {} times as fast as {}", number(ratio.value), peer.text()),
            _ => "not compared".to_owned(),
        };
        let _ = writeln!(text, "- {}: {why}. Found: {found}.", line.title);
    }
}

/// What there was no time for, by work and reason; and what failed.
fn missing<'a>(text: &mut String, lines: impl Iterator<Item = &'a Line>) {
    let mut found: Vec<(&str, String, Vec<&str>)> = Vec::new();
    for line in lines {
        let failed = line.median.is_none().then(|| line.error.clone()).flatten();
        let Some(why) = line.missing.clone().or(failed) else { continue };
        let why = why.lines().next().unwrap_or_default().to_owned();
        match found.iter_mut().find(|(title, other, _)| *title == line.title && *other == why) {
            Some((_, _, names)) => names.push(line.system.text()),
            None => found.push((line.title, why, vec![line.system.text()])),
        }
    }
    if !found.is_empty() {
        text.push_str("\nNot measured:\n\n");
    }
    for (title, why, names) in found {
        let _ = writeln!(text, "- {title}: {} ({why})", names.join(", "));
    }
}

fn value(line: Option<&Line>) -> String {
    let Some(line) = line else { return String::new() };
    let Some(median) = line.median else {
        return if line.missing.is_some() { "not measured" } else { "failed" }.to_owned();
    };
    let star = if line.fewer.is_some() { "*" } else { "" };
    match (line.min, line.max) {
        (Some(min), Some(max)) if line.samples > 1 && line.unit != Unit::Mib => {
            format!("{}{star} ({}–{})", number(median), number(min), number(max))
        }
        _ => format!("{}{star}", number(median)),
    }
}

/// Three digits are as many as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn ratio(ratio: Option<Ratio>) -> String {
    let Some(ratio) = ratio else { return String::new() };
    match (ratio.low, ratio.high) {
        (Some(low), Some(high)) => format!("{} ({}–{})", number(ratio.value), number(low), number(high)),
        _ => number(ratio.value),
    }
}

fn verdict(verdict: &Verdict) -> String {
    let held = match verdict.held {
        Some(true) if verdict.sure => "held",
        Some(true) => "held?",
        Some(false) if verdict.sure => "**missed**",
        Some(false) => "**missed?**",
        None => "not measured",
    };
    let reached = verdict.reached.map(|value| format!(" ({})", number(value))).unwrap_or_default();
    format!("{}: {held}{reached}", verdict.target)
}

fn promises(text: &mut String, report: &Report) {
    text.push_str("\n### What each promises\n\n| system | attributes trusted for | O_EXCL among | close returns: the file is | fsync returns: it is |\n| --- | --- | --- | --- | --- |\n");
    for (name, promise) in &report.promises {
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} |",
            promise.attr_ttl, promise.excl, promise.close, promise.fsync
        );
    }
}

const COSTS: &str = "
### Requests to S3, and what the daemon needs

Of one time each work was done, until everything was in S3. *multipart* are uploads begun and completed; parts count as PUT
or COPY. *USD* is what S3 Standard asks for the requests of a thousand such works by its list prices (a thousand of PUT, COPY,
POST and LIST 0.005, of GET and HEAD 0.0004, DELETE nothing). JuiceFS's Redis is not in its CPU and memory, nor its questions
among the requests.

";

fn costs(text: &mut String, report: &Report) {
    text.push_str(COSTS);
    text.push_str("| work | system | PUT | COPY | multipart | GET | HEAD | LIST | DELETE | MiB sent | MiB received | USD | CPU s | peak RSS MiB |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    let first = report.rows.first().map(|line| line.setting);
    for line in report.rows.iter().filter(|line| Some(line.setting) == first) {
        let Some(traffic) = line.requests else { continue };
        let Traffic { put, copy, multipart, get, head, list, delete, sent, received, .. } = traffic;
        let [sent, received] = [sent, received].map(|bytes| number(crate::job::mib(bytes)));
        let star = if line.fewer.is_some() { "*" } else { "" };
        let cell = |value: Option<f64>| value.map(number).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | {}{star} | {put} | {copy} | {multipart} | {get} | {head} | {list} | {delete} | {sent} | {received} | {} | {} | {} |",
            line.work,
            line.system.text(),
            cell(line.bill_usd_per_1000),
            cell(line.cpu_seconds),
            cell(line.peak_rss_mib)
        );
    }
}
