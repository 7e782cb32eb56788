//! Works on many small files.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::{Drain, programs};
use crate::job::{Done, Job, Outcome};
use crate::seed::Expect;

pub(super) fn create(root: &Path, files: u64, job: &Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    let directory = format!("made-{}", job.turn);
    let files = if job.few { job.material.sizes.few } else { files };
    let contents = job.material.small(files);
    let bytes: Vec<Vec<u8>> = contents.iter().map(|(_, content)| content.whole()).collect::<Result<_, _>>()?;
    let mut made = Vec::new();
    let begun = Instant::now();
    fs::create_dir(root.join(&directory))?;
    for ((name, content), bytes) in contents.into_iter().zip(&bytes) {
        let name = format!("{directory}/{name}");
        File::create_new(root.join(&name))?.write_all(bytes)?;
        made.push((name, content));
        if begun.elapsed() > job.patience {
            break;
        }
    }
    let stopped = made.len() < bytes.len();
    let acknowledged = Done::since(begun, made.len() as f64).stopped(stopped);
    drain()?;
    let done = vec![acknowledged, Done::since(begun, made.len() as f64).stopped(stopped)];
    Ok(Outcome { done, expect: Expect::Files(made) })
}

pub(super) fn list(root: &Path, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let (printed, time) = programs::timed(Command::new("ls").arg("-l").arg(root.join(&job.state.small)))?;
    let right = printed.lines().filter(|line| line.starts_with("-rw") && line.contains(" 4096 ")).count() as u64;
    ensure!(right == job.files, "ls -l shows {right} files of the right size and kind, not {}", job.files);
    Ok(Outcome::of(Done::in_time(job.files as f64, time)))
}

pub(super) fn read(root: &Path, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let directory = root.join(&job.state.small);
    let mut read = Vec::new();
    let begun = Instant::now();
    for (name, content) in job.material.small(job.files) {
        let bytes = fs::read(directory.join(&name)).with_context(|| name)?;
        read.push((content, bytes));
        if begun.elapsed() > job.patience {
            break;
        }
    }
    let done = Done::since(begun, read.len() as f64).stopped((read.len() as u64) < job.files);
    for (content, bytes) in &read {
        ensure!(bytes.len() as u64 == content.bytes, "a file has {} bytes", bytes.len());
        content.check(0, bytes)?;
    }
    Ok(Outcome::of(done))
}

pub(super) fn stat(root: &Path, calls: u64, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let directory = root.join(&job.state.small);
    let paths: Vec<_> = job.material.small(job.files).into_iter().map(|(name, _)| directory.join(name)).collect();
    let begun = Instant::now();
    let mut done: u64 = 0;
    for path in paths.iter().cycle().take(usize::try_from(calls)?) {
        ensure!(fs::metadata(path)?.len() == 4096, "a wrong size");
        done += 1;
        if begun.elapsed() > job.patience {
            break;
        }
    }
    Ok(Outcome::of(Done::since(begun, done as f64).stopped(done < calls)))
}

pub(super) fn rename(root: &Path, job: &mut Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    let (from, to) = (job.state.small.clone(), format!("moved-{}", job.turn));
    let known = fs::read_dir(root.join(&from))?.count() as u64;
    ensure!(known == job.files, "{known} files in {from}, not {}", job.files);
    let begun = Instant::now();
    fs::rename(root.join(&from), root.join(&to))?;
    let acknowledged = Done::since(begun, job.files as f64);
    drain()?;
    let done = vec![acknowledged, Done::since(begun, job.files as f64)];
    job.state.small.clone_from(&to);
    Ok(Outcome { done, expect: Expect::Moved { files: job.files, from, to } })
}
