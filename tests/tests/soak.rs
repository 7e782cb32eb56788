//! Whole lives of clusters, with something killed at a random instant in each: nothing is left, nothing was launched
//! twice, every job ended with its code or names the node that was lost. A short form; with `EC2MPI_SOAK=1` 100 runs
//! (`EC2MPI_SOAK_RUNS`), from `EC2MPI_SOAK_SEED` on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ec2mpi_tests::place;
use ec2mpi_tests::soak::{HEADER, Phase, Plan, Row, Victim, scene, summary};

/// Runs at a time.
const AT_ONCE: usize = 2;

#[test]
fn random_kills_leave_nothing_behind_and_no_job_in_doubt() {
    let seeds = seeds();
    let compiled = tempfile::tempdir().expect("a temporary directory");
    let program = compile(compiled.path());
    println!("{HEADER}");
    let rows = play_all(&seeds, &program);
    println!("\n{}", summary(&rows));
    let wrong: Vec<_> = rows.iter().filter(|row| row.wrong.is_some()).map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{} of {} runs went wrong:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Each kind of victim once, or as many as are wanted.
fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("EC2MPI_SOAK_SEED").unwrap_or(1);
    if std::env::var("EC2MPI_SOAK").is_ok_and(|text| text == "1") {
        return (first..first + number("EC2MPI_SOAK_RUNS").unwrap_or(100)).collect();
    }
    let kinds = [
        (Phase::Create, Victim::Coordinator),
        (Phase::Run, Victim::Node),
        (Phase::Destroy, Victim::Cloud),
        (Phase::Create, Victim::Node),
    ];
    kinds.map(|(phase, victim)| Plan::seed_of(first, phase, victim)).into()
}

fn play_all(seeds: &[u64], program: &Path) -> Vec<Row> {
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = play(&Plan::of(*seed), program);
                    println!("{row}");
                    rows.lock().expect("no panic with the lock").push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no panic with the lock");
    rows.sort_by_key(|row| row.plan.seed);
    rows
}

/// A run that panics is a line of the table too.
fn play(plan: &Plan, program: &Path) -> Row {
    let begun = std::time::Instant::now();
    let played = std::panic::catch_unwind(|| scene::play(plan, program));
    played.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().cloned();
        let why = why.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        let (struck, happened) = (String::new(), String::new());
        Row { plan: plan.clone(), struck, happened, job: None, took: begun.elapsed(), wrong: Some(why) }
    })
}

fn compile(directory: &Path) -> PathBuf {
    let program = directory.join("ticker");
    let source = place::program("ticker.c");
    let status = Command::new("mpicc").args(["-O2", "-o"]).arg(&program).arg(source).status();
    assert!(status.is_ok_and(|status| status.success()), "ticker.c does not compile");
    program
}
