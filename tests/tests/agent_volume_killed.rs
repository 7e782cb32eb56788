//! The agent and the volume of a node killed while files are dirty: ranks and output outlive the agent, and every
//! closed file comes to S3 whole.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use ec2mpi_tests::machine::Machine;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::stranger;
use ec2mpi_tests::wait::{seconds, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TICKS: usize = 60;
const RANKS: usize = 4;

#[test]
fn ranks_and_output_outlive_the_agents() {
    let site = Site::new();
    let status = site.create("demo", 2);
    site.install("demo", "ticker");
    site.run(&["exec", "demo", "--", "mkdir", "ticks"]).ok();
    let mut run = site.start(&["run", "demo", "-n", "4", "--", "./ticker", "60", "100", "ticks"]);
    run.wait_for_stdout("tick 10 rank 0", seconds(60));
    let machines = [0, 1].map(|index| Machine::of_node(&site, &status, index));
    let before = machines.each_ref().map(ranks_on);
    assert_eq!(before.each_ref().map(Vec::len), [2, 2]);
    let volumes = machines.each_ref().map(|machine| machine.agent("mount"));
    // The head's agent streams the output; the other's node has ranks too.
    machines.iter().for_each(|machine| machine.kill_agent("run"));
    assert!(!run.stdout().contains("tick 59"), "killed in the middle");
    assert_eq!(machines.each_ref().map(ranks_on), before, "the very same ranks");
    assert_eq!(machines.each_ref().map(|machine| machine.agent("mount")), volumes, "the very same volumes");

    let outcome = run.wait(seconds(120));
    assert_eq!(outcome.code, 0, "{outcome}");
    for tick in 0..TICKS {
        for rank in 0..RANKS {
            let line = format!("tick {tick} rank {rank} of 4 on ");
            assert_eq!(outcome.stdout.matches(&line).count(), 1, "{line:?} once in {}", outcome.stdout);
        }
    }
    check_ticks(&site, &stranger::prefix(&status));
    until(seconds(30), "both nodes are ready again", || {
        site.status("demo")["nodes"].as_array().unwrap().iter().all(|node| node["state"] == "ready").then_some(())
    });
}

/// After the job's closing barrier every file is in S3, and says what its name demands.
#[track_caller]
fn check_ticks(site: &Site, prefix: &str) {
    let objects = stranger::objects(site, &format!("{prefix}ticks/"));
    let files: Vec<_> = objects.iter().filter(|(key, _)| !key.ends_with('/')).collect();
    assert_eq!(files.len(), TICKS * RANKS, "one object a file");
    for (rank, tick) in [(0, 0), (1, 10), (2, 11), (3, 12), (0, 13), (1, 30), (2, 59), (3, 59)] {
        let expected: String = (0..1000).map(|line| format!("{rank} {tick} {line}\n")).collect();
        let key = format!("{prefix}ticks/{rank}-{tick}");
        assert!(stranger::object(site, &key) == expected.as_bytes(), "{key}");
    }
    for (key, size) in files {
        let name = key.rsplit('/').next().unwrap();
        let (rank, tick) = name.split_once('-').unwrap();
        let expected = (0..1000).map(|line| format!("{rank} {tick} {line}\n").len()).sum::<usize>();
        assert_eq!(*size, expected as u64, "{key}");
    }
}

fn ranks_on(machine: &Machine) -> Vec<i32> {
    let mut found: Vec<i32> = machine
        .processes()
        .iter()
        .filter(|process| process.words[0].ends_with("ticker"))
        .map(|process| process.pid)
        .collect();
    found.sort_unstable();
    found
}

const HELD: usize = 3;
/// More than the buffers of a connection hold: such an upload cannot be on its way when S3 stands still.
const HELD_BYTES: usize = 8 << 20;

#[test]
fn a_killed_volume_brings_every_closed_file_to_s3() {
    let site = Site::new();
    let status = site.create("demo", 2);
    let prefix = stranger::prefix(&status);
    site.install("demo", "holder");
    site.run(&["exec", "demo", "--", "mkdir", "held"]).ok();
    let machine = Machine::of_node(&site, &status, 1);

    // Not from the volume that dies: its pages might have to be read again.
    site.run(&["exec", "demo", "--node", "1", "--", "cp", "holder", "/tmp/holder"]).ok();
    let words = ["exec", "demo", "--node", "1", "--", "/tmp/holder", "held", "3", &HELD_BYTES.to_string(), "4"];
    let mut run = site.start(&words);
    run.wait_for_stdout("opened", seconds(30));
    let whole = |site: &Site| {
        let objects = stranger::objects(site, &format!("{prefix}held/held-"));
        objects.iter().filter(|(_, size)| *size == HELD_BYTES as u64).count()
    };
    assert_eq!(whole(&site), 0, "nothing is in S3 before the close");

    let s3 = Standstill::begin(&site);
    run.wait_for_stdout(&format!("closed {}", HELD - 1), seconds(20));
    let old = machine.agent("mount");
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    until(seconds(10), "the volume's process is gone", || {
        (!machine.processes().iter().any(|process| process.pid == old)).then_some(())
    });
    drop(s3);
    assert_eq!(run.wait(seconds(60)).code, 0, "every close succeeded");

    until(seconds(60), "the volume is mounted again, and clean", || {
        let node = site.status("demo")["nodes"][1].clone();
        let volume = &node["volume"];
        (volume["state"] == "mounted" && volume["dirty_files"] == 0 && node["state"] == "ready").then_some(())
    });
    assert_ne!(machine.agent("mount"), old, "another process has taken its place");
    for number in 0..HELD {
        let stored = stranger::object(&site, &format!("{prefix}held/held-{number}"));
        assert!(stored == held(number), "held-{number}: {} bytes", stored.len());
        let sum = site.run(&["exec", "demo", "--node", "0", "--", "cksum", &format!("held/held-{number}")]).ok();
        let own = site.run(&["exec", "demo", "--node", "1", "--", "cksum", &format!("held/held-{number}")]).ok();
        assert_eq!(sum, own, "both nodes read the same");
        assert!(sum.contains(&HELD_BYTES.to_string()), "{sum}");
    }
    let kept = site.run(&["status", "demo", "--json"]).json();
    assert_eq!(kept["nodes"][1]["volume"]["failed_files"], 0, "{kept}");
    site.run(&["destroy", "demo"]).ok();
}

/// What `holder.c` writes.
fn held(number: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at * 31 + at / 4096 * 7 + number) % 251).unwrap();
    (0..HELD_BYTES).map(byte).collect()
}

/// The cloud's process stopped, so that S3 neither answers nor refuses; goes on when dropped.
struct Standstill {
    pid: Pid,
}

impl Standstill {
    fn begin(site: &Site) -> Self {
        let pid = site.cloud()["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap();
        let pid = Pid::from_raw(pid);
        kill(pid, Signal::SIGSTOP).unwrap();
        Self { pid }
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGCONT);
    }
}
