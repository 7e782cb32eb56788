//! One measurement: getting ready and checking are near the server and not counted, the work is at a distance.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ec2mpi_tests::lab::Traffic;

use super::Stage;
use super::player::Player;
use crate::guard::Limit;
use crate::job::{Done, Job, Outcome};
use crate::procs::{self, Usage};
use crate::report::Sample;
use crate::seed::{self, Expect};
use crate::server::{Server, Setting};
use crate::systems::Layout;
use crate::works::{Act, Phase};
use crate::{bare, files};

/// One measurement as it comes out of [`measure`].
pub(super) struct Measured {
    done: Vec<Done>,
    usage: Usage,
    traffic: Traffic,
}

/// The work, and everything around it, within `limit`.
pub(super) fn measure(
    stage: &Stage<'_>,
    server: &Server,
    player: &mut Player,
    phase: &Phase,
    turn: u64,
    limit: Duration,
) -> anyhow::Result<Measured> {
    let watch = Limit::new(limit, player.system.base());
    let measured = watched(stage, server, player, phase, turn);
    server.come_near();
    let late = || format!("it was killed after {} s", limit.as_secs());
    if watch.fired() { measured.with_context(late) } else { measured }
}

fn watched(
    stage: &Stage<'_>,
    server: &Server,
    player: &mut Player,
    phase: &Phase,
    turn: u64,
) -> anyhow::Result<Measured> {
    player.prepare(phase.before).context("getting ready")?;
    settle(&stage.ground.disk)?;
    let daemon = player.system.daemon();
    if let Some(daemon) = daemon {
        procs::forget_peak(daemon);
    }
    let usage = daemon.map(procs::usage).unwrap_or_default();
    let traffic = server.lab.traffic();
    server.keep_distance();
    let outcome = perform(stage, player, phase.act, turn);
    server.come_near();
    let outcome = outcome.context("the work")?;
    if player.system.root().is_some() && phase.act != Act::Idle {
        // What is still to be sent belongs to the work's bill, though nobody waited for it.
        player.system.drain().context("what was left to be sent")?;
    }
    let after = daemon.map(procs::usage).unwrap_or_default();
    let measured = Measured {
        done: outcome.done,
        usage: Usage { cpu: after.cpu.saturating_sub(usage.cpu), ..after },
        traffic: server.lab.traffic().since(&traffic),
    };
    verify(player, &outcome.expect)?;
    Ok(measured)
}

fn perform(stage: &Stage<'_>, player: &mut Player, act: Act, turn: u64) -> anyhow::Result<Outcome> {
    let promise = stage.promises.get(&player.system.name());
    let mut job = Job {
        material: stage.material,
        turn,
        files: player.files,
        few: player.few,
        patience: Duration::from_secs_f64(stage.material.sizes.patience),
        fsync_in_s3: promise.is_some_and(|promise| promise.fsync_in_s3),
        state: &mut player.state,
    };
    if let Some(bucket) = player.system.bucket() {
        return bare::perform(act, bucket, &mut job);
    }
    let root = player.system.root().context("a mount")?.to_owned();
    let system = &mut player.system;
    files::perform(act, &root, &mut job, &mut || system.drain())
}

/// That the work is right, and that no large file stays that nobody needs.
fn verify(player: &mut Player, expect: &Expect) -> anyhow::Result<()> {
    seed::check(expect, player.system.as_mut(), &player.direct).context("checking")?;
    if player.system.root().is_some() && !matches!(expect, Expect::Nothing) {
        // The check of blocks mounts anew.
        player.read &= player.system.layout() == Layout::Objects;
    }
    let Expect::Files(files) = expect else { return Ok(()) };
    for (name, _) in files.iter().filter(|(name, _)| name.starts_with("new-")) {
        match player.system.root() {
            Some(root) => fs::remove_file(root.join(name))?,
            None => player.direct.delete_all(vec![name.clone()])?,
        }
    }
    player.system.drain()
}

/// Nothing of what was done before is to be written while the clock runs.
fn settle(directory: &Path) -> anyhow::Result<()> {
    Ok(nix::unistd::syncfs(fs::File::open(directory)?)?)
}

impl Measured {
    pub(super) fn samples(
        &self,
        setting: Setting,
        phase: &Phase,
        player: &Player,
        pair: usize,
        turn: Duration,
    ) -> Vec<Sample> {
        let name = player.system.name();
        let rows = phase.rows.iter().zip(&self.done);
        rows.map(|(row, done)| {
            let idle = (phase.act == Act::Idle).then_some(self.usage.rss_kib as f64 / 1024.0);
            let value = idle.unwrap_or_else(|| row.unit.value(done.amount, done.time.as_secs_f64()));
            let (id, unit, all) = (row.id, row.unit.text(), turn.as_secs_f64());
            eprintln!("  {id:15} {:18} {value:12.1} {unit:8} {all:6.1} s", name.text());
            Sample {
                setting,
                work: row.id,
                system: name,
                pair,
                value: Ok(value),
                amount: done.amount,
                fewer: player.few || done.stopped,
                turn: turn.as_secs_f64(),
                cpu: self.usage.cpu.as_secs_f64(),
                peak_mib: self.usage.peak_kib as f64 / 1024.0,
                traffic: self.traffic,
            }
        })
        .collect()
    }
}

/// Samples that say why there is nothing.
pub(super) fn failed(
    setting: Setting,
    phase: &Phase,
    player: &Player,
    pair: usize,
    error: &str,
    turn: Duration,
) -> Vec<Sample> {
    let sample = |row: &crate::works::Row| Sample {
        setting,
        work: row.id,
        system: player.system.name(),
        pair,
        value: Err(error.to_owned()),
        amount: 0.0,
        fewer: player.few,
        turn: turn.as_secs_f64(),
        cpu: 0.0,
        peak_mib: 0.0,
        traffic: Traffic::default(),
    };
    phase.rows.iter().map(sample).collect()
}
