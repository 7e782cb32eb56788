//! The works on a mounted directory, by ordinary calls and commands.

mod many;
mod programs;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::content::{Content, PAGE, numbers};
use crate::job::{Done, Job, Outcome, mib};
use crate::material::{BIG, PROGRAM};
use crate::seed::Expect;
use crate::works::Act;

const CALL: usize = 1 << 20;
const SMALL_CALL: usize = 512;
/// A warm work goes on for so long at least: one that is over in 10 ms says more of the moment than of the system.
const LEAST: Duration = Duration::from_millis(300);
/// After so long no default of ours trusts what it knows of a file.
const STALE: Duration = Duration::from_millis(1100);

/// Waits until everything is in S3.
pub(crate) type Drain<'a> = &'a mut dyn FnMut() -> anyhow::Result<()>;

/// Does `act` below `root`.
pub(crate) fn perform(act: Act, root: &Path, job: &mut Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    match act {
        Act::Idle => {
            std::thread::sleep(Duration::from_secs(2));
            Ok(Outcome::of(Done::in_time(0.0, Duration::ZERO)))
        }
        Act::ReadAll => read_all(&root.join(BIG), &job.state.big),
        Act::ReadAgain => read_again(&root.join(BIG), &job.state.big),
        Act::ReadRandom { reads } => read_random(&root.join(BIG), reads, Duration::ZERO, job),
        Act::ReadRandomAgain { reads } => {
            fs::metadata(root.join(BIG))?;
            read_random(&root.join(BIG), reads, LEAST, job)
        }
        Act::Reopen => reopen(&root.join(BIG), &job.state.big),
        Act::FirstByte => first_byte(root, job),
        Act::Write { fsync } => write(root, fsync, job, drain),
        Act::WriteSmall { calls } => write_small(root, calls, job),
        Act::Log { calls } => log(root, calls, job),
        Act::Overwrite { writes, span } => overwrite(root, writes, span, job, drain),
        Act::Append => append(root, job, drain),
        Act::Create { files } => many::create(root, files, job, drain),
        Act::List => many::list(root, job),
        Act::ReadFiles => many::read(root, job),
        Act::Stat { calls } => many::stat(root, calls, job),
        Act::Rename => many::rename(root, job, drain),
        Act::Untar { .. } => programs::untar(root, job, drain),
        Act::CopyTree => programs::copy_tree(root, job),
        Act::Find => programs::find(root, job),
        Act::Remove => programs::remove(root, job, drain),
        Act::Build => programs::build(root),
        Act::Exec => programs::exec(root, job),
        Act::ExecAgain => {
            fs::metadata(root.join(PROGRAM))?;
            programs::exec(root, job)
        }
    }
}

/// Reads a file from its beginning to its end.
pub(crate) fn read_all(path: &Path, content: &Content) -> anyhow::Result<Outcome> {
    let mut buffer = vec![0; CALL];
    let begun = Instant::now();
    let mut file = File::open(path)?;
    let mut offset = 0;
    while offset < content.bytes {
        let wanted = usize::try_from(content.bytes - offset)?.min(CALL);
        file.read_exact(&mut buffer[..wanted]).with_context(|| format!("reading {BIG} at {offset}"))?;
        content.glance(offset, &buffer[..wanted])?;
        offset += wanted as u64;
    }
    drop(file);
    Ok(Outcome::of(Done::since(begun, mib(content.bytes))))
}

/// Whole files, one after the other. Their attributes are known when the clock starts, so that the question to S3 whether
/// there is a new version is not part of it: [`reopen`] has that.
fn read_again(path: &Path, content: &Content) -> anyhow::Result<Outcome> {
    fs::metadata(path)?;
    let begun = Instant::now();
    let mut amount = 0.0;
    while amount == 0.0 || begun.elapsed() < LEAST {
        amount += read_all(path, content)?.done[0].amount;
    }
    Ok(Outcome::of(Done::since(begun, amount)))
}

fn reopen(path: &Path, content: &Content) -> anyhow::Result<Outcome> {
    std::thread::sleep(STALE);
    let mut page = [0; PAGE];
    let begun = Instant::now();
    let file = File::open(path)?;
    file.read_exact_at(&mut page, 0)?;
    let done = Done::since(begun, 1.0);
    content.check(0, &page)?;
    Ok(Outcome::of(done))
}

/// So many reads, and as many more as fill `least`.
fn read_random(path: &Path, reads: u64, least: Duration, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let content = &job.state.big;
    let mut buffer = vec![0; PAGE];
    let begun = Instant::now();
    let file = File::open(path)?;
    let mut done = 0;
    for page in numbers(job.turn, content.bytes / PAGE as u64) {
        let offset = page * PAGE as u64;
        file.read_exact_at(&mut buffer, offset)?;
        content.glance(offset, &buffer)?;
        done += 1;
        let enough = done >= reads && (least.is_zero() || done % 256 == 0 && begun.elapsed() > least);
        if enough || begun.elapsed() > job.patience {
            break;
        }
    }
    drop(file);
    Ok(Outcome::of(Done::since(begun, done as f64).stopped(done < reads)))
}

/// The median over the cold files.
fn first_byte(root: &Path, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let mut times = Vec::new();
    for (name, content) in job.material.cold() {
        let path = root.join(name);
        fs::metadata(&path)?;
        let mut page = [0; PAGE];
        let begun = Instant::now();
        let file = File::open(&path)?;
        file.read_exact_at(&mut page, 0)?;
        times.push(begun.elapsed());
        content.check(0, &page)?;
    }
    times.sort_unstable();
    Ok(Outcome::of(Done::in_time(1.0, times[times.len() / 2])))
}

fn write(root: &Path, fsync: bool, job: &Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    let name = format!("new-{}.bin", job.turn);
    let amount = mib(job.material.fresh.len() as u64);
    let begun = Instant::now();
    let mut file = File::create_new(root.join(&name))?;
    job.material.fresh.chunks(CALL).try_for_each(|chunk| file.write_all(chunk))?;
    if fsync {
        file.sync_all()?;
    }
    drop(file);
    let mut done = vec![Done::since(begun, amount)];
    if !fsync || !job.fsync_in_s3 {
        drain()?;
        done.push(Done::since(begun, amount));
    }
    if fsync {
        done.drain(..done.len() - 1);
    }
    let expect = Expect::Files(vec![(name, job.material.fresh_content.clone())]);
    Ok(Outcome { done, expect })
}

/// The clock runs for the writes alone, not for open and close.
fn write_small(root: &Path, calls: u64, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let name = format!("calls-{}.bin", job.turn);
    let whole = Content::new(job.turn, calls * SMALL_CALL as u64).whole()?;
    let mut file = File::create_new(root.join(&name))?;
    let begun = Instant::now();
    let mut done = 0;
    for chunk in whole.chunks(SMALL_CALL) {
        file.write_all(chunk)?;
        done += 1;
        if done % 256 == 0 && begun.elapsed() > job.patience {
            break;
        }
    }
    let result = Done::since(begun, done as f64).stopped(done < calls);
    drop(file);
    let content = Content::new(job.turn, done * SMALL_CALL as u64);
    Ok(Outcome { done: vec![result], expect: Expect::Files(vec![(name, content)]) })
}

fn log(root: &Path, calls: u64, job: &Job<'_>) -> anyhow::Result<Outcome> {
    let name = format!("log-{}", job.turn);
    let whole = Content::new(job.turn, calls * SMALL_CALL as u64).whole()?;
    let mut file = File::options().create_new(true).append(true).open(root.join(&name))?;
    let begun = Instant::now();
    let mut done = 0;
    for chunk in whole.chunks(SMALL_CALL) {
        file.write_all(chunk)?;
        file.sync_all()?;
        done += 1;
        if begun.elapsed() > job.patience {
            break;
        }
    }
    let result = Done::since(begun, done as f64).stopped(done < calls);
    drop(file);
    let content = Content::new(job.turn, done * SMALL_CALL as u64);
    Ok(Outcome { done: vec![result], expect: Expect::Files(vec![(name, content)]) })
}

fn overwrite(root: &Path, writes: u64, span: u64, job: &mut Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    let before = job.state.big.clone();
    let range = if span == 0 { before.bytes } else { span << 20 };
    let pages: Vec<u64> = numbers(job.turn, range / PAGE as u64).take(usize::try_from(writes)?).collect();
    let after = before.overwritten(job.turn, pages.clone());
    // Said first: when the work fails half way, what was written is unknown either way.
    job.state.big = after.clone();
    let mut page = vec![0; PAGE];
    let begun = Instant::now();
    let file = File::options().write(true).open(root.join(BIG))?;
    for number in pages {
        after.fill(number * PAGE as u64, &mut page);
        file.write_all_at(&page, number * PAGE as u64)?;
    }
    file.sync_all()?;
    drop(file);
    if !job.fsync_in_s3 {
        drain()?;
    }
    let amount = if span == 0 { mib(after.bytes) } else { writes as f64 };
    let done = vec![Done::since(begun, amount)];
    Ok(Outcome { done, expect: Expect::Files(vec![(BIG.to_owned(), after)]) })
}

fn append(root: &Path, job: &mut Job<'_>, drain: Drain<'_>) -> anyhow::Result<Outcome> {
    let before = job.state.big.bytes;
    let after = job.state.big.clone().appended(PAGE as u64);
    job.state.big = after.clone();
    let mut page = vec![0; PAGE];
    after.fill(before, &mut page);
    let begun = Instant::now();
    let mut file = File::options().append(true).open(root.join(BIG))?;
    file.write_all(&page)?;
    file.sync_all()?;
    drop(file);
    if !job.fsync_in_s3 {
        drain()?;
    }
    let done = vec![Done::since(begun, 1.0)];
    Ok(Outcome { done, expect: Expect::Files(vec![(BIG.to_owned(), after)]) })
}
