//! The volume against a reference: sequences of operations, restarts, evictions and faults, on a store in memory and
//! without a kernel. After every step both say the same; after a drain S3 says it too, and so does a node that knows
//! nothing.
//!
//! `EC2MPI_MODEL_CASES` sets the number of cases (2,000), `EC2MPI_MODEL_SEED` their seed.

mod life;
mod reference;
mod steps;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use self::life::World;
use self::reference::Reference;
use self::steps::Step;
use super::store::memory::Operation;

/// Operations of one case.
const STEPS: usize = 60;
/// How often a case that once failed is tried before it is taken to pass.
const ATTEMPTS: usize = 8;
/// A failing case may wait for what never comes, again and again.
const SHRINK_MILLISECONDS: u32 = 120_000;
/// Cases run in so many threads.
const THREADS: u64 = 2;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn check(steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut world, mut reference) = (World::new(), Reference::default());
    for (number, step) in steps.iter().enumerate() {
        step.check(&mut world, &mut reference)
            .map_err(|difference| TestCaseError::fail(format!("step {number}, {step:?}: {difference}")))?;
    }
    world.check_s3(&reference).map_err(|difference| TestCaseError::fail(format!("in the end: {difference}")))
}

fn run(thread: u64, cases: u64) {
    let seed = number("EC2MPI_MODEL_SEED", 0x00EC_2001).wrapping_add(thread);
    let bytes: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(32).collect();
    let config = Config {
        cases: u32::try_from(cases).expect("a number of cases"),
        failure_persistence: None,
        max_shrink_iters: 4000,
        max_shrink_time: SHRINK_MILLISECONDS,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    // Threads that read files make no two runs quite the same: what failed once is tried several times when it is shrunk.
    let failed = std::cell::Cell::new(false);
    let attempts = || if failed.get() { ATTEMPTS } else { 1 };
    let run = |steps: Vec<Step>| (0..attempts()).try_for_each(|_| check(&steps)).inspect_err(|_| failed.set(true));
    match runner.run(&steps::any_steps(STEPS), run) {
        Ok(()) => {}
        Err(TestError::Fail(reason, steps)) => panic!("seed {seed}: {reason}\n{steps:#?}"),
        Err(TestError::Abort(reason)) => panic!("seed {seed}: given up, {reason}"),
    }
}

#[test]
fn the_volume_is_what_the_reference_says() {
    let cases = number("EC2MPI_MODEL_CASES", 2000);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread, cases / THREADS))).collect();
        for thread in running {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn a_large_file_is_written_on_after_its_directory_was_moved() {
    let (file, moved) = ("c/a".to_owned(), Step::Rename { from: "c".to_owned(), to: "a".to_owned() });
    let write = |offset| Step::WriteSlot { slot: 0, offset, length: 65_537, seed: 1 };
    for between in [Step::Drain, Step::Wait { turns: 200 }, Step::Wait { turns: 20 }] {
        let steps = [
            Step::Mkdir { path: "c".to_owned() },
            Step::Open { slot: 0, path: file.clone() },
            Step::Write { path: file.clone(), offset: 65_536, length: 65_536, seed: 2 },
            Step::Drain,
            moved.clone(),
            between,
            write(0),
            Step::Drain,
            write(100),
        ];
        check(&steps).unwrap();
    }
}

#[test]
fn a_file_is_written_again_after_the_move_of_its_directory_was_begun_twice() {
    let write = |path: &str, seed| Step::Write { path: path.to_owned(), offset: 0, length: 10, seed };
    let steps = [
        Step::Mkdir { path: "b".to_owned() },
        write("b/c", 1),
        Step::Lose { operation: Operation::Delete },
        Step::Rename { from: "b".to_owned(), to: "c".to_owned() },
        write("c/c", 2),
        Step::Drain,
    ];
    (0..20).for_each(|_| check(&steps).unwrap());
}
