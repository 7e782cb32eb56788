//! The works without a file system: the bytes that the work needs, by a parallel client that knows beforehand what it
//! will need. What is faster than this is faster because it was in a cache.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use nix::libc;

use crate::content::{Content, PAGE, numbers};
use crate::job::{Done, Job, Outcome, mib};
use crate::material::{BIG, PROGRAM};
use crate::s3::Bucket;
use crate::seed::Expect;
use crate::works::Act;

const FILE: u32 = libc::S_IFREG | 0o644;

/// Does what comes nearest to `act`.
pub(crate) fn perform(act: Act, bucket: &Bucket, job: &mut Job<'_>) -> anyhow::Result<Outcome> {
    match act {
        Act::ReadAll => read_all(bucket, &job.state.big),
        Act::ReadRandom { reads } => read_random(bucket, reads, job),
        Act::FirstByte => first_byte(bucket, job),
        Act::Write { fsync } => write(bucket, fsync, job),
        Act::Overwrite { span: 0, .. } => {
            // The whole object anew: what a client must do that cannot tell what has changed.
            job.state.big = job.material.fresh_content.clone();
            let begun = Instant::now();
            bucket.upload(BIG, job.material.fresh.clone(), FILE)?;
            let done = vec![Done::since(begun, mib(job.material.fresh.len() as u64))];
            Ok(Outcome { done, expect: Expect::Files(vec![(BIG.to_owned(), job.state.big.clone())]) })
        }
        Act::Create { files } => create(bucket, files, job),
        Act::List => list(bucket, job),
        Act::ReadFiles => read_files(bucket, job),
        Act::Rename => rename(bucket, job),
        Act::Exec => exec(bucket, job),
        Act::Idle
        | Act::ReadAgain
        | Act::ReadRandomAgain { .. }
        | Act::Reopen
        | Act::ExecAgain
        | Act::WriteSmall { .. }
        | Act::Log { .. }
        | Act::Overwrite { .. }
        | Act::Append
        | Act::Stat { .. }
        | Act::Untar { .. }
        | Act::CopyTree
        | Act::Find
        | Act::Remove
        | Act::Build => bail!("{act:?} has no meaning without a file system"),
    }
}

fn read_all(bucket: &Bucket, content: &Content) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let parts = bucket.download(BIG, content.bytes)?;
    let done = Done::since(begun, mib(content.bytes));
    let mut offset = 0;
    for bytes in parts {
        content.glance(offset, &bytes)?;
        offset += bytes.len() as u64;
    }
    Ok(Outcome::of(done))
}

fn read_random(bucket: &Bucket, reads: u64, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let content = &job.state.big;
    let pages = numbers(job.turn, content.bytes / PAGE as u64).take(usize::try_from(reads)?);
    let ranges: Vec<Range<u64>> = pages.map(|page| page * PAGE as u64..(page + 1) * PAGE as u64).collect();
    let begun = Instant::now();
    let got = bucket.get_ranges(BIG, ranges)?;
    let done = Done::since(begun, got.len() as f64);
    got.iter().try_for_each(|(offset, bytes)| content.check(*offset, bytes))?;
    Ok(Outcome::of(done))
}

/// One GET of the first page.
fn first_byte(bucket: &Bucket, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let mut times: Vec<Duration> = Vec::new();
    for (name, content) in job.material.cold() {
        let begun = Instant::now();
        let bytes = bucket.get(&name, 0..PAGE as u64)?;
        times.push(begun.elapsed());
        content.check(0, &bytes)?;
    }
    times.sort_unstable();
    Ok(Outcome::of(Done::in_time(1.0, times[times.len() / 2])))
}

fn write(bucket: &Bucket, fsync: bool, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let name = format!("new-{}.bin", job.turn);
    let begun = Instant::now();
    bucket.upload(&name, job.material.fresh.clone(), FILE)?;
    let done = Done::since(begun, mib(job.material.fresh.len() as u64));
    let expect = Expect::Files(vec![(name, job.material.fresh_content.clone())]);
    Ok(Outcome { done: if fsync { vec![done] } else { vec![done, done] }, expect })
}

fn create(bucket: &Bucket, files: u64, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let small = job.material.small(files);
    let named: Vec<_> =
        small.into_iter().map(|(name, content)| (format!("made-{}/{name}", job.turn), content)).collect();
    let objects = named.iter().map(|(name, content)| Ok((name.clone(), content.whole()?)));
    let objects = objects.collect::<anyhow::Result<Vec<_>>>()?;
    let begun = Instant::now();
    bucket.put_all(objects, FILE)?;
    let done = Done::since(begun, files as f64);
    Ok(Outcome { done: vec![done, done], expect: Expect::Files(named) })
}

/// A listing, and a HEAD for the attributes of each.
fn list(bucket: &Bucket, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let keys: Vec<String> = bucket.list(&format!("{}/", job.state.small))?.into_iter().map(|(key, _)| key).collect();
    let heads = bucket.head_all(keys.into_iter().filter(|key| !key.ends_with('/')).collect())? as u64;
    ensure!(heads == job.files, "{heads} objects, not {}", job.files);
    Ok(Outcome::of(Done::since(begun, heads as f64)))
}

fn read_files(bucket: &Bucket, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let small = job.material.small(job.files);
    let keys = small.iter().map(|(name, _)| format!("{}/{name}", job.state.small)).collect();
    let begun = Instant::now();
    let mut got = bucket.get_all(keys)?;
    let done = Done::since(begun, got.len() as f64);
    got.sort();
    got.iter().zip(&small).try_for_each(|((_, bytes), (_, content))| content.check(0, bytes))?;
    Ok(Outcome::of(done))
}

/// A copy and a deletion for each object.
fn rename(bucket: &Bucket, job: &mut Job<'_>) -> anyhow::Result<Outcome> {
    let (from, to) = (job.state.small.clone(), format!("moved-{}", job.turn));
    let begun = Instant::now();
    let keys = bucket.list(&format!("{from}/"))?;
    // The directory's own object is nothing to wait for; SeaweedFS does not copy such ones.
    let files = keys.into_iter().map(|(key, _)| key).filter(|key| !key.ends_with('/'));
    let pairs = files.map(|key| (key.clone(), key.replacen(&from, &to, 1))).collect();
    bucket.copy_all(pairs)?;
    let done = Done::since(begun, job.files as f64);
    job.state.small.clone_from(&to);
    Ok(Outcome { done: vec![done, done], expect: Expect::Moved { files: job.files, from, to } })
}

/// The download; running it is not counted.
fn exec(bucket: &Bucket, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let size = job.material.program.metadata()?.len();
    let begun = Instant::now();
    let got = bucket.download(PROGRAM, size)?;
    let done = Done::since(begun, 1.0);
    ensure!(got.iter().map(|part| part.len() as u64).sum::<u64>() == size, "the program is not whole");
    Ok(Outcome::of(done))
}
