//! The schedule: scene by scene, in rounds, the systems taking turns, each measurement behind the lab and everything
//! else not.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ec2mpi_tests::lab::Traffic;
use tokio::runtime::Runtime;

use crate::guard::{Ground, Limit};
use crate::job::{Done, Job, Outcome, State};
use crate::material::{BIG, Material, SMALL};
use crate::procs::{self, Usage};
use crate::report::Sample;
use crate::s3::Bucket;
use crate::seed::{self, Expect};
use crate::server::{Server, Setting, Tools};
use crate::systems::{self, System};
use crate::works::{Act, Before, Name, Phase, Scene};
use crate::{bare, files};

/// A single work may take no longer; then its daemon is killed.
const HANGS: Duration = Duration::from_secs(240);
/// A system that has used so much time for a phase is not measured again in it.
const ENOUGH: Duration = Duration::from_secs(40);

/// What a run needs, under one setting.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) material: &'a Material,
    pub(crate) tools: &'a Tools,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) setting: Setting,
    pub(crate) names: Vec<Name>,
    pub(crate) rounds: usize,
    /// No repetition begins after this.
    pub(crate) deadline: Instant,
}

/// Plays all scenes; what was measured.
pub(crate) fn play(stage: &Stage<'_>, scenes: &[Scene]) -> anyhow::Result<Vec<Sample>> {
    let directory = stage.ground.server.join(format!("server-{}", stage.setting.latency_ms));
    fs::create_dir_all(&directory)?;
    let server = Server::start(stage.setting, &directory, stage.tools)?;
    let mut samples = Vec::new();
    let begun = Instant::now();
    for (index, scene) in scenes.iter().enumerate() {
        // Each scene may use its share of the time; what one does not need, those after it have.
        let share = (index + 1) as f64 / scenes.len() as f64;
        let until = begun + stage.deadline.saturating_duration_since(begun).mul_f64(share);
        eprintln!("{}: {}", stage.setting.text(), scene.name);
        let mut play = Play::open(stage, &server, scene)?;
        for round in 0..stage.rounds {
            if round == 0 || Instant::now() < until {
                play.round(round);
            }
        }
        samples.append(&mut play.samples);
        play.close()?;
    }
    drop(server);
    fs::remove_dir_all(&directory).context("removing what the server stored")?;
    Ok(samples)
}

/// A system in a scene.
struct Player {
    system: Box<dyn System>,
    direct: Bucket,
    state: State,
    files: u64,
    few: bool,
    mounted: bool,
    /// `big.bin` has been read as a whole since the mount.
    read: bool,
    /// Why it plays no more.
    broken: Option<String>,
}

struct Play<'a> {
    stage: &'a Stage<'a>,
    server: &'a Server,
    scene: &'a Scene,
    players: Vec<Player>,
    spent: HashMap<(usize, Name), (Duration, usize)>,
    turn: u64,
    samples: Vec<Sample>,
}

impl<'a> Play<'a> {
    /// Makes the buckets and puts into them what the scene begins with.
    fn open(stage: &'a Stage<'a>, server: &'a Server, scene: &'a Scene) -> anyhow::Result<Self> {
        server.come_near();
        let names: Vec<Name> = scene.who().into_iter().filter(|name| stage.names.contains(name)).collect();
        let ground = stage.ground.disk.join(scene.name);
        let systems = systems::systems(&names, &ground, server, stage.tools, &stage.runtime)?;
        let sizes = stage.material.sizes;
        let mut players = Vec::new();
        for system in systems {
            let name = system.name();
            let few = scene.few.contains(&name);
            let bucket = format!("{}-{}", scene.name, name.text());
            let state = State { big: stage.material.big(), small: SMALL.to_owned(), tree: String::new() };
            let direct = Bucket::new(&stage.runtime, &server.direct, &bucket);
            direct.create().with_context(|| format!("making the bucket {bucket}"))?;
            let files = if few { sizes.few } else { sizes.files };
            let mut player = Player { system, direct, state, files, few, mounted: false, read: false, broken: None };
            let planted = player
                .system
                .adopt(&bucket)
                .and_then(|()| seed::plant(scene.seed, stage.material, player.system.as_mut(), &player.direct, files));
            player.mounted = player.system.daemon().is_some();
            player.broken = planted.err().map(|error| format!("{error:#}"));
            if let Some(error) = &player.broken {
                eprintln!("  {} does not take part: {error}", name.text());
            }
            players.push(player);
        }
        Ok(Self { stage, server, scene, players, spent: HashMap::new(), turn: 0, samples: Vec::new() })
    }

    fn round(&mut self, round: usize) {
        for (number, phase) in self.scene.phases.iter().enumerate() {
            for repeat in 0..phase.repeats {
                for place in 0..self.players.len() {
                    let index = (place + round + repeat) % self.players.len();
                    let name = self.players[index].system.name();
                    let (spent, times) = self.spent.get(&(number, name)).copied().unwrap_or_default();
                    let enough = times > 0 && spent > ENOUGH;
                    if phase.who.contains(&name) && self.players[index].broken.is_none() && !enough {
                        self.turn(index, number, phase, round * phase.repeats + repeat);
                    }
                }
            }
            if let Err(error) = self.server.clear_garbage() {
                eprintln!("  {error:#}");
            }
        }
    }

    /// One measurement. Whatever goes wrong is a sample, too.
    fn turn(&mut self, index: usize, number: usize, phase: &Phase, pair: usize) {
        self.turn += 1;
        let turn = self.turn * 31 + number as u64;
        let player = &mut self.players[index];
        let name = player.system.name();
        let begun = Instant::now();
        let measured = measure(self.stage, self.server, player, phase, turn);
        let (spent, times) = self.spent.entry((number, name)).or_default();
        (*spent, *times) = (*spent + begun.elapsed(), *times + 1);
        match measured {
            Ok(measured) => self.samples.extend(measured.samples(self.stage.setting, phase, player, pair)),
            Err(error) => {
                let error = format!("{error:#}");
                eprintln!("  {:14} {:18} failed: {error}", phase.rows[0].id, name.text());
                self.samples.extend(failed(self.stage.setting, phase, player, pair, &error));
                player.recover();
            }
        }
    }

    fn close(self) -> anyhow::Result<()> {
        self.server.come_near();
        for mut player in self.players {
            player.system.unmount()?;
            drop(player.system);
            player.direct.remove().with_context(|| format!("removing the bucket {}", player.direct.name))?;
        }
        let ground = self.stage.ground.disk.join(self.scene.name);
        fs::remove_dir_all(&ground).with_context(|| format!("removing {}", ground.display()))
    }
}

impl Player {
    /// In the state that the phase wants.
    fn prepare(&mut self, before: Before) -> anyhow::Result<()> {
        if before == Before::Cold || !self.mounted {
            self.system.mount()?;
            (self.mounted, self.read) = (true, false);
        }
        let wants_read = matches!(before, Before::Read | Before::ReadThenDropped);
        if let Some(root) = self.system.root().filter(|_| wants_read && !self.read) {
            files::read_all(&root.join(BIG), &self.state.big)?;
            self.read = true;
        }
        if before == Before::ReadThenDropped {
            drop_caches()?;
        }
        Ok(())
    }

    /// A new mount after a failure; when that fails too, it is out of the scene.
    fn recover(&mut self) {
        let again = self.system.unmount().and_then(|()| self.system.mount());
        (self.mounted, self.read) = (again.is_ok(), false);
        self.broken = again.err().map(|error| format!("{error:#}"));
    }
}

/// One measurement as it comes out of [`measure`].
struct Measured {
    done: Vec<Done>,
    usage: Usage,
    traffic: Traffic,
}

fn measure(
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
    let limit = Limit::new(HANGS, daemon);
    let outcome = perform(stage, player, phase.act, turn);
    let fired = limit.fired();
    drop(limit);
    server.come_near();
    let outcome = outcome.with_context(|| if fired { "it hung and was killed" } else { "the work" })?;
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
    let mut job = Job {
        material: stage.material,
        turn,
        files: player.files,
        few: player.few,
        fsync_in_s3: systems::promise(player.system.name()).fsync_in_s3,
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
        player.read &= player.system.layout() == systems::Layout::Objects;
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

fn drop_caches() -> anyhow::Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the kernel's caches")
}

impl Measured {
    fn samples(&self, setting: Setting, phase: &Phase, player: &Player, pair: usize) -> Vec<Sample> {
        let name = player.system.name();
        let rows = phase.rows.iter().zip(&self.done);
        rows.map(|(row, done)| {
            let idle = (phase.act == Act::Idle).then_some(self.usage.rss_kib as f64 / 1024.0);
            let value = idle.unwrap_or_else(|| row.unit.value(done.amount, done.time.as_secs_f64()));
            eprintln!("  {:14} {:18} {value:12.1} {}", row.id, name.text(), row.unit.text());
            Sample {
                setting,
                work: row.id,
                system: name,
                pair,
                value: Ok(value),
                amount: done.amount,
                few: player.few,
                cpu: self.usage.cpu.as_secs_f64(),
                peak_mib: self.usage.peak_kib as f64 / 1024.0,
                traffic: self.traffic,
            }
        })
        .collect()
    }
}

fn failed(setting: Setting, phase: &Phase, player: &Player, pair: usize, error: &str) -> Vec<Sample> {
    let sample = |row: &crate::works::Row| Sample {
        setting,
        work: row.id,
        system: player.system.name(),
        pair,
        value: Err(error.to_owned()),
        amount: 0.0,
        few: player.few,
        cpu: 0.0,
        peak_mib: 0.0,
        traffic: Traffic::default(),
    };
    phase.rows.iter().map(sample).collect()
}
