//! `volume-bench`: ours and others through the same work, on the same S3 server, behind the same lab, in one run.
//!
//! [`works`] and [`scenes`] say what is measured and what must be reached; [`run`] is the schedule; [`systems`] are who
//! takes part; [`files`] and [`bare`] do the works; [`book`] keeps what was measured, and [`report`] turns it into rows.
//! Run it by `make bench`.
//!
//! Invariants: what is measured goes through the lab, and nothing else does; contents are checked; a work that fails is
//! a row that says so, and so is one that there was no time for; a run ends within its time; nothing outside 127.0.0.1 is
//! asked; nothing is left behind.

mod bare;
mod book;
mod content;
mod daemon;
mod files;
mod guard;
mod job;
mod material;
mod plan;
mod procs;
mod report;
mod run;
mod s3;
mod scenes;
mod seed;
mod server;
mod stats;
mod systems;
mod works;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use ec2mpi_tests::place;

use self::book::Book;
use self::guard::Ground;
use self::material::Material;
use self::plan::Costs;
use self::run::{Stage, play};
use self::server::{Kind, Setting, Tools};
use self::works::{Name, Scene, Sizes};

/// So much memory and more: the S3 server stores in memory, not on the disk that it would share with the caches.
const ROOMY: u64 = 16 << 30;
const SHARED_MEMORY: &str = "/dev/shm";

/// Measures the volume beside others on the same S3 server.
#[derive(Debug, Parser)]
struct Args {
    /// A short run: a quarter of everything, one setting, once.
    #[arg(long)]
    quick: bool,
    /// Sizes, as a part of the whole.
    #[arg(long)]
    scale: Option<f64>,
    /// Times that a scene is played at most; otherwise as long as there is time, and something to be found out.
    #[arg(long)]
    rounds: Option<usize>,
    /// The whole run takes no longer; what there is no time for is said to be missing.
    #[arg(long)]
    minutes: Option<f64>,
    /// Only those.
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<Name>,
    /// Only those.
    #[arg(long, value_delimiter = ',')]
    scenes: Vec<String>,
    /// Only on that server.
    #[arg(long, value_enum)]
    server: Option<Kind>,
    /// Only behind a lab of so many milliseconds: 20, or 0.
    #[arg(long)]
    latency: Option<u64>,
    /// Where the report is written, and everything lies while it runs.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where the S3 server stores; in memory where there is enough of it.
    #[arg(long)]
    server_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "mounting and dropping caches takes root: `make bench` uses sudo");
    let begun = Instant::now();
    let own = place::executables();
    let target = own.parent().context("the executables have a place")?.to_owned();
    let tools = Tools { venv: target.join("bench-venv"), own };
    let out = args.out.clone().unwrap_or_else(|| target.join("bench"));
    let ground = Ground::new(&out, &args.server_dir.clone().unwrap_or_else(|| server_parent(&out)))?;
    let names = names(args, &tools);
    let sizes = Sizes::scaled(args.scale.unwrap_or(if args.quick { 0.25 } else { 1.0 }));
    let budget = Duration::from_secs_f64(60.0 * args.minutes.unwrap_or(if args.quick { 7.5 } else { 38.0 }));
    let end = begun + budget.saturating_sub(CLOSING.min(budget / 10));
    guard::end_at(begun + budget);
    let machine = procs::machine();
    eprintln!("{machine}; the S3 server stores in {}", ground.server.display());
    let material = Material::new(&ground.disk.join("material"), sizes).context("making what is worked on")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let runtime = Arc::new(runtime);
    let promises = names.iter().map(|name| (*name, systems::promise(*name, &tools))).collect();
    let mut book = Book::new(&out, begun, machine, sizes, promises);
    let promises = book.promises.clone();
    let plan = settings(args, &chosen(args, scenes::scenes(&sizes))?);
    for (setting, scenes) in &plan {
        scenes.iter().flat_map(|scene| &scene.phases).for_each(|phase| book.plan(*setting, phase, &names));
    }
    let mut costs = Costs::new(sizes);
    for (index, (setting, scenes)) in plan.iter().enumerate() {
        // Those behind it are played once.
        let behind: Duration = plan[index + 1..].iter().map(|(_, scenes)| once(&costs, scenes, &names)).sum();
        let own = once(&costs, scenes, &names);
        let stage = Stage {
            ground: &ground,
            material: &material,
            tools: &tools,
            runtime: Arc::clone(&runtime),
            promises: &promises,
            setting: *setting,
            names: names.clone(),
            rounds: args.rounds,
            until: plan::before_those_behind(Instant::now(), end, own, behind),
        };
        play(&stage, scenes, &mut costs, &mut book).with_context(|| setting.text())?;
    }
    book.write(true)
}

/// What is left of the time when the last turn must end: for clearing away.
const CLOSING: Duration = Duration::from_secs(25);

/// What all scenes are expected to take.
fn once(costs: &Costs, scenes: &[Scene], names: &[Name]) -> Duration {
    let wanted = |phase: &works::Phase| phase.who.iter().copied().filter(|name| names.contains(name)).collect();
    scenes.iter().map(|scene| costs.scene(scene, &scene.phases.iter().map(wanted).collect::<Vec<_>>())).sum()
}

/// The settings with their scenes: all under the first, the core of them under the others.
fn settings(args: &Args, chosen: &[Scene]) -> Vec<(Setting, Vec<Scene>)> {
    let all = [
        Setting::distant(Kind::Seaweedfs),
        Setting::near(Kind::Seaweedfs),
        Setting::distant(Kind::Own),
        Setting::near(Kind::Own),
    ];
    let wanted = all.into_iter().filter(|setting| {
        args.server.is_none_or(|server| setting.server == server)
            && args.latency.is_none_or(|latency| setting.latency_ms == latency)
    });
    let wanted = wanted.take(if args.quick { 1 } else { 4 }).enumerate();
    let scenes = |first: bool| chosen.iter().filter(move |scene| first || scene.core || !args.scenes.is_empty());
    wanted.map(|(index, setting)| (setting, scenes(index == 0).cloned().collect())).collect()
}

/// Who takes part; says who cannot.
fn names(args: &Args, tools: &Tools) -> Vec<Name> {
    let wanted = Name::ALL.into_iter().filter(|name| args.systems.is_empty() || args.systems.contains(name));
    wanted
        .filter(|name| match systems::missing(*name, tools) {
            Some(why) => {
                eprintln!("{} does not take part: {why}", name.text());
                false
            }
            None => true,
        })
        .collect()
}

fn chosen(args: &Args, all: Vec<Scene>) -> anyhow::Result<Vec<Scene>> {
    let known: Vec<&str> = all.iter().map(|scene| scene.name).collect();
    for name in &args.scenes {
        ensure!(known.contains(&name.as_str()), "there is no scene {name}; there are {}", known.join(", "));
    }
    let wanted = |scene: &Scene| args.scenes.is_empty() || args.scenes.iter().any(|name| name == scene.name);
    Ok(all.into_iter().filter(wanted).collect())
}

fn server_parent(out: &Path) -> PathBuf {
    let shared = Path::new(SHARED_MEMORY);
    let free = nix::sys::statvfs::statvfs(shared).map_or(0, |found| found.blocks_available() * found.fragment_size());
    if procs::available() > ROOMY && free > ROOMY / 2 { shared.to_owned() } else { out.to_owned() }
}
