//! `volume-bench`: ours and others through the same work, on the same S3 server, behind the same lab, in one run.
//!
//! [`works`] and [`scenes`] say what is measured and what must be reached; [`run`] is the schedule; [`systems`] are who
//! takes part; [`files`] and [`bare`] do the works; [`report`] turns what was measured into rows. Run it by `make bench`.
//!
//! Invariants: what is measured goes through the lab, and nothing else does; contents are checked; a work that fails is
//! a row that says so; nothing outside 127.0.0.1 is asked; nothing is left behind.

mod bare;
mod content;
mod daemon;
mod files;
mod guard;
mod job;
mod material;
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

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use ec2mpi_tests::place;

use self::guard::Ground;
use self::material::Material;
use self::report::{Report, Sample, markdown, rows};
use self::run::{Stage, play};
use self::server::{Kind, Setting, Tools};
use self::systems::Promise;
use self::works::{Name, Row, Scene, Sizes};

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
    /// Times that every scene is played, as long as there is time.
    #[arg(long)]
    rounds: Option<usize>,
    /// No repetition begins after so many minutes.
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
    let machine = procs::machine();
    eprintln!("{machine}; the S3 server stores in {}", ground.server.display());
    let material = Material::new(&ground.disk.join("material"), sizes).context("making what is worked on")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let runtime = Arc::new(runtime);
    let chosen = chosen(args, scenes::scenes(&sizes))?;
    let mut samples: Vec<Sample> = Vec::new();
    let plan = settings(args);
    let minutes = args.minutes.unwrap_or(if args.quick { 7.0 } else { 38.0 });
    for (index, (setting, rounds, core_only)) in plan.iter().enumerate() {
        let scenes: Vec<Scene> =
            chosen.iter().filter(|scene| scene.core || !core_only || !args.scenes.is_empty()).cloned().collect();
        let share = if index == 0 { FIRST_SHARE } else { (1.0 - FIRST_SHARE) * index as f64 / (plan.len() - 1) as f64 };
        let until = if index == 0 { share } else { FIRST_SHARE + share };
        let until = if plan.len() == 1 { 1.0 } else { until };
        let stage = Stage {
            ground: &ground,
            material: &material,
            tools: &tools,
            runtime: Arc::clone(&runtime),
            setting: *setting,
            names: names.clone(),
            rounds: args.rounds.unwrap_or(*rounds),
            deadline: begun + Duration::from_secs_f64(minutes * 60.0 * until),
        };
        samples.extend(play(&stage, &scenes).with_context(|| setting.text())?);
    }
    let table: Vec<Row> = chosen.iter().flat_map(|scene| &scene.phases).flat_map(|phase| phase.rows).copied().collect();
    let promises = names.iter().map(|name| (*name, systems::promise(*name))).collect();
    let rows = rows(&samples, &table, &promises);
    let named = promises.iter().map(|(name, promise)| (name.text(), *promise)).collect::<BTreeMap<&str, Promise>>();
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let report = Report {
        machine: format!("{machine} at the start"),
        command: format!("volume-bench {command}").trim_end().to_owned(),
        seconds: begun.elapsed().as_secs_f64(),
        sizes,
        promises: named,
        rows,
    };
    write(&report, &out)
}

/// The first setting has most of the time, and all scenes.
const FIRST_SHARE: f64 = 0.7;

/// Settings, with rounds, and whether only the core of the scenes is played.
fn settings(args: &Args) -> Vec<(Setting, usize, bool)> {
    let all = [
        (Setting::distant(Kind::Seaweedfs), 3, false),
        (Setting::near(Kind::Seaweedfs), 1, true),
        (Setting::distant(Kind::Own), 1, true),
        (Setting::near(Kind::Own), 1, true),
    ];
    let wanted = |(setting, _, _): &(Setting, usize, bool)| {
        args.server.is_none_or(|server| setting.server == server)
            && args.latency.is_none_or(|latency| setting.latency_ms == latency)
    };
    let wanted = all.into_iter().filter(wanted);
    if args.quick { wanted.take(1).map(|(setting, _, core)| (setting, 1, core)).collect() } else { wanted.collect() }
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

fn write(report: &Report, out: &Path) -> anyhow::Result<()> {
    let (json, table) = (out.join("volume.json"), out.join("volume.md"));
    fs::write(&json, serde_json::to_string_pretty(report)? + "\n")?;
    fs::write(&table, markdown(report))?;
    let verdicts = report.rows.iter().flat_map(|line| &line.targets);
    let missed = verdicts.clone().filter(|verdict| verdict.held == Some(false)).count();
    let held = verdicts.filter(|verdict| verdict.held == Some(true)).count();
    eprintln!(
        "{held} targets held, {missed} missed, in {:.0} s; wrote {} and {}",
        report.seconds,
        json.display(),
        table.display()
    );
    Ok(())
}
