//! The demo program by itself, on this machine alone: its physics, its restart, its refusals.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use ec2mpi_tests::outcome::{Outcome, Running};
use ec2mpi_tests::wait::seconds;
use ec2mpi_tests::{physics, place};

/// A directory with the compiled program, which is also mpirun's place for its session files.
fn compiled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("replica_exchange");
    let mut compiler = Command::new("mpicc");
    compiler.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(program).arg(place::program("replica_exchange.c"));
    compiler.arg("-lm");
    Running::start(compiler, directory.path()).wait(seconds(60)).ok();
    directory
}

fn mpirun(directory: &Path, ranks: u32, arguments: &str) -> Outcome {
    let mut command = Command::new("mpirun");
    command
        .args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"])
        .args(["-n", &ranks.to_string(), "./replica_exchange"])
        .args(arguments.split_whitespace())
        .env("TMPDIR", directory)
        .current_dir(directory);
    Running::start(command, directory).wait(seconds(60))
}

#[test]
fn the_measured_energies_agree_with_the_exact_ones() {
    let directory = compiled();
    for (ranks, seed) in [(8, 1), (5, 2), (1, 3)] {
        let arguments = format!("--out run{seed} --seed {seed} --sweeps 20000");
        let output = mpirun(directory.path(), ranks, &arguments).ok();
        physics::check(&output, ranks as usize);
        assert!(output.contains("every |z| is at most 5"), "{output}");
    }
}

#[test]
fn energies_are_those_of_the_exact_enumeration() {
    let directory = compiled();
    let output = mpirun(directory.path(), 2, "--out run -L 2 --tmin 2 --tmax 3 --sweeps 4000").ok();
    // 2x2 with its double bonds by hand: E = -8 twice, +8 twice, 0 twelve times.
    for (row, t) in physics::table(&output).iter().zip([2.0f64, 3.0]) {
        let (up, down) = ((8.0 / t).exp(), (-8.0 / t).exp());
        let expected = -8.0 * (2.0 * up - 2.0 * down) / (2.0 * up + 2.0 * down + 12.0);
        assert!((row.exact - expected).abs() < 2e-5, "T {t}: {} instead of {expected}", row.exact);
    }
    physics::check_rows_within(&output, 2, 8.0);
}

#[test]
fn a_restarted_run_takes_the_same_path() {
    let directory = compiled();
    let common = "-L 8 --seed 5 --thermalize 100 --checkpoint-every 300";
    mpirun(directory.path(), 3, &format!("--out straight --sweeps 2000 {common}")).ok();
    mpirun(directory.path(), 3, &format!("--out broken --sweeps 1000 {common}")).ok();
    let output = mpirun(directory.path(), 3, &format!("--out broken --sweeps 2000 {common} --restart")).ok();
    assert!(output.contains("restarted after 900 sweeps"), "{output}");
    for rank in 0..3 {
        let read = |run: &str| fs::read(directory.path().join(run).join(format!("replica-000{rank}.dat"))).unwrap();
        assert_eq!(read("straight"), read("broken"), "rank {rank}");
        assert_eq!(read("broken").iter().filter(|byte| **byte == b'\n').count(), 2001);
    }
}

#[test]
fn a_restart_needs_whole_checkpoints_of_the_same_run() {
    let directory = compiled();
    let refused = |arguments: &str, word: &str| {
        let outcome = mpirun(directory.path(), 2, arguments);
        assert_eq!(outcome.code, 3, "{outcome}");
        assert!(outcome.stderr.contains(word), "{outcome}");
    };
    refused("--out run --restart", "no checkpoint that all ranks have");
    mpirun(directory.path(), 2, "--out run --sweeps 500 --checkpoint-every 500").ok();
    refused("--out run --sweeps 500 --checkpoint-every 500 --restart --seed 9", "of a run with other options");
    refused("--out run --sweeps 64 --thermalize 1000 --restart --checkpoint-every 500", "more sweeps than asked");
    for generation in ["chk0", "chk1"] {
        let file = directory.path().join("run").join(format!("replica-0001.{generation}"));
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    }
    refused("--out run --sweeps 500 --checkpoint-every 500 --restart", "not a whole checkpoint");
}

#[test]
fn wrong_usage_is_told_once_and_ends_with_2() {
    let directory = compiled();
    let wrong = [
        ("--sweeps 100", "--out DIR is missing"),
        ("--out x --tmin 0", "--tmin must be a temperature above 0"),
        ("--out x --tmin nan", "--tmin must be a temperature above 0"),
        ("--out x --tmin 3 --tmax 2", "--tmax is below --tmin"),
        ("--out x -L 1", "-L must be a whole number from 2"),
        ("--out x --sweeps 10", "--sweeps must be a whole number from 64"),
        ("--out x --frobnicate", "unknown option"),
    ];
    for (arguments, message) in wrong {
        let outcome = mpirun(directory.path(), 2, arguments);
        assert_eq!(outcome.code, 2, "{outcome}");
        assert_eq!(outcome.stderr.matches(message).count(), 1, "{outcome}");
        assert!(!directory.path().join("x").exists(), "{arguments} made a directory");
    }
}
