//! The schedule: first every scene once, then those again whose rows are not clear yet, as long as there is time. In a
//! scene the systems take turns. A turn is only begun when it is expected to end in time.

mod measure;
mod player;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Runtime;

use self::measure::{failed, measure};
use self::player::Player;
use crate::book::Book;
use crate::guard::{self, Ground};
use crate::material::Material;
use crate::plan::{Costs, players, share, too_long, with_needed};
use crate::report::{Sample, need};
use crate::server::{Server, Setting, Tools};
use crate::systems::{self, Promise};
use crate::works::{Name, Phase, Scene};

/// Characters of an error; some have a whole answer in them.
const LONGEST: usize = 240;
/// Nobody needs more.
const ROUNDS: usize = 12;
/// Putting a scene's files into one system's bucket may take no longer.
const SEED: Duration = Duration::from_secs(60);
/// Pairs of one round and the next are told apart by so much.
const REPEATS: usize = 16;

/// What a run needs, under one setting.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) material: &'a Material,
    pub(crate) tools: &'a Tools,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) promises: &'a BTreeMap<Name, Promise>,
    pub(crate) setting: Setting,
    pub(crate) names: Vec<Name>,
    /// Times that a scene is played at most.
    pub(crate) rounds: Option<usize>,
    /// No turn goes on after this.
    pub(crate) until: Instant,
}

/// Who of those who take part is to do a phase once more.
type Wants = fn(&[&Sample], &Phase, &[Name], &BTreeMap<Name, Promise>) -> Vec<Name>;

/// Plays all scenes; the book has what was measured, also when this fails half way.
pub(crate) fn play(stage: &Stage<'_>, scenes: &[Scene], costs: &mut Costs, book: &mut Book) -> anyhow::Result<()> {
    let directory = stage.ground.server.join(format!("server-{}", stage.setting.latency_ms));
    fs::create_dir_all(&directory)?;
    let server = Server::start(stage.setting, &directory, stage.tools)?;
    let mut run = Run { stage, server: &server, costs, book, turn: 0 };
    run.once(scenes)?;
    run.again(scenes)?;
    drop(server);
    fs::remove_dir_all(&directory).context("removing what the server stored")
}

struct Run<'a> {
    stage: &'a Stage<'a>,
    server: &'a Server,
    costs: &'a mut Costs,
    book: &'a mut Book,
    turn: u64,
}

impl<'a> Run<'a> {
    /// Every scene has a share of the time that is as large as its share of the work; what one does not need, those
    /// after it have.
    fn once(&mut self, scenes: &[Scene]) -> anyhow::Result<()> {
        for (index, scene) in scenes.iter().enumerate() {
            let wanted = self.everybody(scene);
            let all = scenes[index..].iter().map(|scene| self.costs.scene(scene, &self.everybody(scene))).sum();
            let until = share(Instant::now(), self.stage.until, self.costs.scene(scene, &wanted), all);
            self.scene(scene, 0, &wanted, until)?;
        }
        Ok(())
    }

    /// What is left of the time goes to works that there was no time for, then to rows that may be held or missed by
    /// chance, and then to those that were measured less than three times.
    fn again(&mut self, scenes: &[Scene]) -> anyhow::Result<()> {
        for round in 1..self.stage.rounds.unwrap_or(ROUNDS) {
            let wants: [Wants; 3] = [need::missing, need::undecided, need::thin];
            let mut played = false;
            for wants in wants {
                played = played || self.those(scenes, round, wants)?;
            }
            if !played {
                break;
            }
        }
        Ok(())
    }

    /// Plays what `wants` names, scene by scene, as far as there is time; whether there was any of it.
    fn those(&mut self, scenes: &[Scene], round: usize, wants: Wants) -> anyhow::Result<bool> {
        let mut played = false;
        for scene in scenes {
            let samples = self.book.samples(self.stage.setting);
            let wanted = scene.phases.iter().map(|phase| {
                let here = self.present(phase.who);
                wants(&samples, phase, &here, self.stage.promises)
            });
            let wanted = with_needed(scene, wanted.collect());
            let expected = self.costs.scene(scene, &wanted);
            if !players(&wanted).is_empty() && too_long(Instant::now(), self.stage.until, expected).is_none() {
                played = true;
                self.scene(scene, round, &wanted, self.stage.until)?;
            }
        }
        Ok(played)
    }

    fn everybody(&self, scene: &Scene) -> Vec<Vec<Name>> {
        scene.phases.iter().map(|phase| self.present(phase.who)).collect()
    }

    fn present(&self, names: &[Name]) -> Vec<Name> {
        names.iter().copied().filter(|name| self.stage.names.contains(name)).collect()
    }

    /// One round of a scene; the report is written at its end.
    fn scene(&mut self, scene: &Scene, round: usize, wanted: &[Vec<Name>], until: Instant) -> anyhow::Result<()> {
        let names = players(wanted);
        if names.is_empty() {
            return Ok(());
        }
        let around = self.costs.around(scene, wanted);
        if let Some(why) = too_long(Instant::now(), until, around) {
            let phases = scene.phases.iter().zip(wanted);
            phases.for_each(|(phase, names)| names.iter().for_each(|name| self.skip(phase, *name, &why)));
            return self.book.write(false);
        }
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        eprintln!("{}: {}, round {round}, at most {left} s", self.stage.setting.text(), scene.name);
        let begun = Instant::now();
        let mut play = Play { scene, round, wanted, until: until - around / 3, players: self.open(scene, &names)? };
        let opened = begun.elapsed();
        self.round(&mut play);
        let closing = Instant::now();
        self.close(scene, play.players)?;
        let (closed, all) = (closing.elapsed(), begun.elapsed());
        eprintln!("  {:.1} s: {:.1} to prepare, {:.1} to clear away", sec(all), sec(opened), sec(closed));
        self.costs.learn_scene(scene, names.len(), opened + closed);
        self.book.write(false)
    }

    /// Makes the buckets and puts into them what the scene begins with.
    fn open(&self, scene: &Scene, names: &[Name]) -> anyhow::Result<Vec<Player>> {
        self.server.come_near();
        let ground = self.stage.ground.disk.join(scene.name);
        let systems = systems::systems(names, &ground, self.server, self.stage.tools, &self.stage.runtime)?;
        systems.into_iter().map(|system| Player::new(self.stage, self.server, scene, system)).collect()
    }

    fn round(&mut self, play: &mut Play<'_>) {
        for (number, phase) in play.scene.phases.iter().enumerate() {
            for repeat in 0..phase.repeats {
                let names = if repeat == 0 { play.wanted[number].clone() } else { self.unclear(play, number) };
                for place in 0..play.players.len() {
                    let index = (place + play.round + repeat) % play.players.len();
                    if names.contains(&play.players[index].system.name()) {
                        self.turn(play, index, number, phase, play.round * REPEATS + repeat);
                    }
                }
            }
            if let Err(error) = self.server.clear_garbage() {
                eprintln!("  {error:#}");
            }
        }
    }

    /// Who is to do a phase once more: nobody when that would take the time of the phases behind it.
    fn unclear(&self, play: &Play<'_>, number: usize) -> Vec<Name> {
        let (scene, phase) = (play.scene, &play.scene.phases[number]);
        let names =
            need::undecided(&self.book.samples(self.stage.setting), phase, &play.wanted[number], self.stage.promises);
        let own = names.iter().map(|name| self.costs.work(scene, phase, *name)).sum::<Duration>();
        let behind = scene.phases.iter().zip(play.wanted).skip(number + 1);
        let behind = behind.flat_map(|(phase, names)| names.iter().map(|name| self.costs.work(scene, phase, *name)));
        let fits = too_long(Instant::now(), play.until, own + behind.sum::<Duration>()).is_none();
        if fits { names } else { Vec::new() }
    }

    /// One measurement, if there is time. Whatever goes wrong is a sample, too.
    fn turn(&mut self, play: &mut Play<'_>, index: usize, number: usize, phase: &Phase, pair: usize) {
        self.turn += 1;
        let turn = self.turn * 31 + number as u64;
        let player = &mut play.players[index];
        let name = player.system.name();
        let expected = self.costs.work(play.scene, phase, name);
        if let Some(error) = player.broken.clone() {
            return self.book.add(failed(self.stage.setting, phase, player, pair, &error, Duration::ZERO));
        }
        let why = player.lacks(phase).or_else(|| too_long(Instant::now(), play.until, expected));
        if let Some(why) = why {
            if !phase.chained {
                player.head = false;
            }
            return self.skip(phase, name, &why);
        }
        let begun = Instant::now();
        let limit = self.limit(expected);
        let measured = measure(self.stage, self.server, player, phase, turn, limit);
        self.costs.learn(play.scene, phase, name, begun.elapsed());
        match measured {
            Ok(measured) => {
                player.head |= !phase.chained;
                let samples = measured.samples(self.stage.setting, phase, player, pair, begun.elapsed());
                self.book.add(samples);
            }
            Err(error) => {
                player.head &= phase.chained;
                let error: String = format!("{error:#}").chars().take(LONGEST).collect();
                eprintln!("  {:14} {:18} failed: {error}", phase.id(), name.text());
                self.book.add(failed(self.stage.setting, phase, player, pair, &error, begun.elapsed()));
                player.recover(limit);
            }
        }
    }

    /// When a turn is ended by force: it is far from what was expected, or the run is over.
    fn limit(&self, expected: Duration) -> Duration {
        let patient = Duration::from_secs_f64(30.0 + 3.0 * self.stage.material.sizes.patience);
        let left = self.stage.until.saturating_duration_since(Instant::now());
        (expected * 6).max(patient).min(left.max(Duration::from_secs(2)))
    }

    fn skip(&mut self, phase: &Phase, name: Name, why: &str) {
        eprintln!("  {:14} {:18} {why}", phase.id(), name.text());
        self.book.skip(self.stage.setting, phase, name, why);
    }

    /// When the time is over, nothing is removed in order: the server's directory goes as a whole.
    fn close(&self, scene: &Scene, players: Vec<Player>) -> anyhow::Result<()> {
        self.server.come_near();
        let over = too_long(Instant::now(), self.stage.until, Duration::from_secs(1)).is_some();
        for mut player in players {
            if let Some(base) = player.system.base().filter(|_| over) {
                guard::kill_all(base);
            }
            player.system.unmount()?;
            drop(player.system);
            if !over {
                player.direct.remove().with_context(|| format!("removing the bucket {}", player.direct.name))?;
            }
        }
        let ground = self.stage.ground.disk.join(scene.name);
        fs::remove_dir_all(&ground).with_context(|| format!("removing {}", ground.display()))
    }
}

fn sec(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// A scene that is being played.
struct Play<'a> {
    scene: &'a Scene,
    round: usize,
    /// Who is to do which phase.
    wanted: &'a [Vec<Name>],
    until: Instant,
    players: Vec<Player>,
}
