//! Pure: how long works are expected to take, and whether there is time for them. What was measured in this run counts;
//! before that a guess, corrected by how much slower or faster the machine has been than the guesses so far.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::works::Name::{self, Juicefs, Ours, Rclone, S3fs};
use crate::works::{Act, Phase, Scene, Seed, Sizes};

/// Seconds of a work, of those for whom it is long: a share of the time after which it is stopped.
const LONG: &[(&str, Name, f64)] = &[
    ("re-read-random", Juicefs, 1.0),
    ("overwrite-cold", S3fs, 1.2),
    ("create", S3fs, 1.1),
    ("create", Juicefs, 1.0),
    ("rename", S3fs, 0.9),
    ("rename", Rclone, 0.6),
    ("list", Rclone, 0.6),
    ("read-files", S3fs, 1.0),
    ("read-files", Rclone, 0.7),
    ("read-files", Juicefs, 0.7),
    ("untar", Ours, 0.8),
    ("untar", S3fs, 1.2),
    ("untar", Rclone, 1.2),
    ("untar", Juicefs, 1.2),
    ("copy-tree", Ours, 0.8),
    ("copy-tree", S3fs, 0.5),
    ("copy-tree", Rclone, 1.0),
    ("copy-tree", Juicefs, 1.0),
    ("find", Ours, 0.8),
    ("find", Rclone, 1.0),
    ("remove", S3fs, 0.8),
    ("remove", Rclone, 1.0),
];
/// Mounting, checking, waiting for the disk.
const AROUND: f64 = 0.5;
/// MiB a second of a work on the big file, with the reading that comes before it and the check behind it.
const BIG: f64 = 80.0;

/// What is known of the costs of works, by the first row of their phase.
#[derive(Debug)]
pub(crate) struct Costs {
    sizes: Sizes,
    works: HashMap<(&'static str, Name), f64>,
    /// Of making a scene's files and clearing them away, for one system.
    scenes: HashMap<&'static str, f64>,
    guessed: f64,
    took: f64,
}

impl Costs {
    pub(crate) fn new(sizes: Sizes) -> Self {
        Self { sizes, works: HashMap::new(), scenes: HashMap::new(), guessed: 0.0, took: 0.0 }
    }

    /// A work took so long, with everything around it.
    pub(crate) fn learn(&mut self, scene: &Scene, phase: &Phase, name: Name, took: Duration) {
        let took = took.as_secs_f64();
        if !self.works.contains_key(&(phase.id(), name)) {
            self.guessed += self.guess(scene, phase, name);
            self.took += took;
        }
        self.works.insert((phase.id(), name), took);
    }

    /// Making and clearing away a scene for so many systems took so long.
    pub(crate) fn learn_scene(&mut self, scene: &Scene, systems: usize, took: Duration) {
        self.scenes.insert(scene.name, took.as_secs_f64() / systems.max(1) as f64);
    }

    /// What one measurement is expected to take.
    pub(crate) fn work(&self, scene: &Scene, phase: &Phase, name: Name) -> Duration {
        let known = self.works.get(&(phase.id(), name)).copied();
        Duration::from_secs_f64(known.unwrap_or_else(|| self.guess(scene, phase, name) * self.pace()))
    }

    /// What the works of these systems are expected to take in a scene, `wanted` being one list a phase.
    pub(crate) fn scene(&self, scene: &Scene, wanted: &[Vec<Name>]) -> Duration {
        let works = scene.phases.iter().zip(wanted);
        let works = works.flat_map(|(phase, names)| names.iter().map(|name| self.work(scene, phase, *name)));
        self.around(scene, wanted) + works.sum::<Duration>()
    }

    /// The scene's files, made and cleared away.
    pub(crate) fn around(&self, scene: &Scene, wanted: &[Vec<Name>]) -> Duration {
        let systems = players(wanted).len() as f64;
        let files = match scene.seed {
            Seed::Small | Seed::SmallThroughMount => self.sizes.files as f64 / 400.0,
            Seed::Cold | Seed::Program => (self.sizes.cold_files * self.sizes.cold_mib) as f64 / BIG,
            _ => 0.0,
        };
        let guess = || self.pace() * (0.3 + files + self.big_mib(scene) / BIG);
        Duration::from_secs_f64(systems * self.scenes.get(scene.name).copied().unwrap_or_else(guess))
    }

    fn guess(&self, scene: &Scene, phase: &Phase, name: Name) -> f64 {
        let long = LONG.iter().find(|(id, whose, _)| *id == phase.id() && *whose == name);
        let waiting = match phase.act {
            Act::Idle => 2.5,
            Act::Reopen => 1.2,
            Act::Build => 6.0,
            _ => 0.0,
        };
        AROUND + waiting + self.big_mib(scene) / BIG + long.map_or(0.0, |(_, _, part)| part * self.sizes.patience)
    }

    fn big_mib(&self, scene: &Scene) -> f64 {
        let big = scene.seed == Seed::Big || scene.name == "write";
        if big { self.sizes.big_mib as f64 } else { 0.0 }
    }

    /// How much slower than guessed.
    fn pace(&self) -> f64 {
        // A few works say little.
        ((self.took + 8.0) / (self.guessed + 8.0)).clamp(0.3, 5.0)
    }
}

/// All that are wanted in some phase.
pub(crate) fn players(wanted: &[Vec<Name>]) -> Vec<Name> {
    Name::ALL.into_iter().filter(|name| wanted.iter().any(|names| names.contains(name))).collect()
}

/// The phases that are wanted, and those whose work they need.
pub(crate) fn with_needed(scene: &Scene, mut wanted: Vec<Vec<Name>>) -> Vec<Vec<Name>> {
    for number in (1..wanted.len()).rev() {
        if scene.phases[number].chained {
            let (before, after) = wanted.split_at_mut(number);
            let missing = after[0].iter().filter(|name| scene.phases[number - 1].who.contains(name));
            let missing: Vec<Name> = missing.copied().filter(|name| !before[number - 1].contains(name)).collect();
            before[number - 1].extend(missing);
        }
    }
    wanted
}

/// The end of the first of several that share the time until `end` as they need it.
pub(crate) fn share(now: Instant, end: Instant, own: Duration, all: Duration) -> Instant {
    let part = own.as_secs_f64() / all.as_secs_f64().max(1e-9);
    now + end.saturating_duration_since(now).mul_f64(part.min(1.0))
}

/// The end of a part of a run: those behind it have what they are expected to need, but not before this one has it.
pub(crate) fn before_those_behind(now: Instant, end: Instant, own: Duration, behind: Duration) -> Instant {
    let left = end.saturating_duration_since(now);
    now + left.saturating_sub(behind).max((own + own / 4).min(left))
}

/// Why there is no time for something that is expected to take so long.
pub(crate) fn too_long(now: Instant, until: Instant, expected: Duration) -> Option<String> {
    let left = until.saturating_duration_since(now);
    (expected > left).then(|| {
        format!("no time: {:.0} s expected, {:.0} s left", expected.as_secs_f64().max(1.0), left.as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::scenes;
    use crate::works::Name::Native;

    fn named(name: &str, sizes: &Sizes) -> Scene {
        scenes(sizes).into_iter().find(|scene| scene.name == name).expect("a scene")
    }

    #[test]
    fn what_was_measured_counts_and_corrects_the_guesses() {
        let sizes = Sizes::scaled(0.25);
        let (create, mut costs) = (named("create", &sizes), Costs::new(sizes));
        let phase = &create.phases[0];
        let before = costs.work(&create, phase, Rclone);
        assert!(costs.work(&create, phase, S3fs) > before * 5);
        costs.learn(&create, phase, S3fs, Duration::from_secs(60));
        assert_eq!(costs.work(&create, phase, S3fs), Duration::from_secs(60));
        assert!(costs.work(&create, phase, Rclone) > before, "the machine is slow");
        costs.learn_scene(&create, 2, Duration::from_secs(8));
        assert_eq!(costs.around(&create, &[vec![Ours]]), Duration::from_secs(4));
        let whole = costs.scene(&create, &[vec![Ours, S3fs]]);
        assert!(whole > Duration::from_secs(68) && whole < Duration::from_secs(72), "{whole:?}");
    }

    #[test]
    fn what_a_phase_needs_is_played_too() {
        let tree = named("tree", &Sizes::scaled(0.25));
        let mut wanted = vec![Vec::new(); tree.phases.len()];
        wanted[2] = vec![Ours, S3fs];
        wanted[0] = vec![S3fs];
        let all = with_needed(&tree, wanted);
        assert_eq!(all, [vec![S3fs, Ours], vec![Ours, S3fs], vec![Ours, S3fs], vec![]]);
        assert_eq!(players(&all), [Ours, S3fs]);
        let read = named("read", &Sizes::scaled(0.25));
        let mut wanted = vec![Vec::new(); read.phases.len()];
        wanted[1] = vec![Native];
        assert_eq!(with_needed(&read, wanted.clone()), wanted);
    }

    #[test]
    fn time_is_shared_by_need_and_never_more_than_there_is() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(share(now, now + second * 100, second, second * 4), now + second * 25);
        assert_eq!(share(now + second, now, second, second * 4), now + second);
        assert_eq!(before_those_behind(now, now + second * 100, second * 10, second * 30), now + second * 70);
        assert_eq!(before_those_behind(now, now + second * 100, second * 60, second * 90), now + second * 75);
        assert_eq!(before_those_behind(now, now + second * 100, second * 90, second * 90), now + second * 100);
        assert_eq!(too_long(now, now + second * 10, second * 9), None);
        let why = too_long(now, now + second * 10, second * 12).expect("it does not fit");
        assert_eq!(why, "no time: 12 s expected, 10 s left");
    }
}
