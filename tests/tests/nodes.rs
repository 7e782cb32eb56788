//! Nodes that fail: missing from the start, rebooted, cut off. What is left goes on, and what is not is named.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use ec2mpi_tests::machine::Machine;
use ec2mpi_tests::place;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::stranger;
use ec2mpi_tests::wait::{seconds, until};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use serde_json::Value;

/// More than the buffers of a connection hold: such an upload cannot be on its way when S3 stands still.
const DIRTY_BYTES: usize = 8 << 20;

#[test]
fn a_cluster_goes_on_without_a_missing_node_and_a_rebooted_one_brings_its_files() {
    let site = Site::new();
    site.start_cloud(&[]);
    let words = ["create", "demo", "--nodes", "3", "--min-nodes", "2", "--slots", "1", "--timeout", "60s"];
    let create = site.start(&words);
    let victim = until(seconds(20), "a machine runs", || Machine::all(&site).pop());
    victim.cut_power();
    let outcome = create.wait(seconds(90));
    assert_eq!(outcome.code, 0, "{outcome}");
    let status = site.status("demo");
    let missing =
        status["nodes"].as_array().unwrap().iter().find(|node| node["instance_id"] == victim.instance.as_str());
    let missing = missing.unwrap().clone();
    let name = missing["host_name"].as_str().unwrap();
    assert!(outcome.stdout.contains("2 of 3 nodes"), "{outcome}");
    assert!(outcome.stdout.contains(&format!("without {name}: its machine ended: ")), "{outcome}");
    why_is_it_missing(&site, name);
    reboot_with_a_dirty_file(&site, &status);
}

#[track_caller]
fn why_is_it_missing(site: &Site, name: &str) {
    let report = site.run(&["why", "demo", name, "--json"]).json();
    assert_eq!(report["instance_state"], "terminated", "{report}");
    assert!(report["instance_reason"].as_str().unwrap().contains("pid 1 ended"), "{report}");
    assert_eq!(report["last_phase"], "lost", "{report}");
    let phases: Vec<&str> =
        report["history"].as_array().unwrap().iter().map(|moment| moment["phase"].as_str().unwrap()).collect();
    assert!(phases.starts_with(&["requested", "launched"]), "{report}");
    assert!(report["next"].as_str().unwrap().contains("ec2mpi destroy demo"), "{report}");
    let page = site.run(&["why", "demo", name]).ok();
    assert!(page.contains("terminated") && page.contains("next     "), "{page}");
}

#[track_caller]
fn reboot_with_a_dirty_file(site: &Site, status: &Value) {
    let index = status["nodes"].as_array().unwrap().iter().rposition(|node| node["state"] == "ready").unwrap();
    let node = index.to_string();
    let healthy = site.run(&["why", "demo", &node, "--json"]).json();
    assert_eq!((healthy["instance_state"].as_str(), healthy["last_phase"].as_str()), (Some("running"), Some("ready")));
    assert!(healthy["console"].as_str().unwrap().contains("boot script ended"), "{healthy}");
    assert_eq!(healthy["next"], "nothing: it is ready");

    let machine = Machine::of_node(site, status, index);
    compile("holder", &machine.root().join("tmp/holder"));
    site.run(&["exec", "demo", "--node", &node, "--", "mkdir", "held"]).ok();
    let words = ["exec", "demo", "--node", &node, "--", "/tmp/holder", "held", "1", &DIRTY_BYTES.to_string(), "4"];
    let mut run = site.start(&words);
    run.wait_for_stdout("opened", seconds(30));
    let cloud = Pid::from_raw(i32::try_from(site.cloud()["pid"].as_i64().unwrap()).unwrap());
    kill(cloud, Signal::SIGSTOP).unwrap();
    run.wait_for_stdout("closed 0", seconds(30));
    machine.reset();
    until(seconds(20), "it has booted again", || {
        Machine::look_for(site, &machine.instance).filter(|again| again.init != machine.init)
    });
    kill(cloud, Signal::SIGCONT).unwrap();
    // The program was over, or it went with its node; its file was closed in any case.
    let outcome = run.wait(seconds(60));
    assert!(outcome.code == 0 || outcome.stderr.contains(&format!("demo-{index}")), "{outcome}");

    let key = format!("{}held/held-0", stranger::prefix(status));
    until(seconds(60), "what was closed before the reset is in S3, and the node is ready", || {
        let node = site.status("demo")["nodes"][index].clone();
        let clean = node["state"] == "ready" && node["volume"]["dirty_files"] == 0;
        (clean && stranger::objects(site, &key).iter().any(|(_, size)| *size == DIRTY_BYTES as u64)).then_some(())
    });
    let byte = |at: usize| u8::try_from((at * 31 + at / 4096 * 7) % 251).unwrap();
    assert!(stranger::object(site, &key) == (0..DIRTY_BYTES).map(byte).collect::<Vec<_>>(), "its bytes");
    let hosts = site.run(&["run", "demo", "-n", "2", "--", "hostname"]).ok();
    assert_eq!(hosts.lines().collect::<BTreeSet<_>>().len(), 2, "the rebooted node takes part: {hosts}");
    site.run(&["destroy", "demo"]).ok();
}

/// Compiles a program of `tests/programs` on this machine, for any user to run.
#[track_caller]
fn compile(name: &str, place: &std::path::Path) {
    let status = std::process::Command::new("mpicc")
        .arg("-O2")
        .arg("-o")
        .arg(place)
        .arg(place::program(&format!("{name}.c")))
        .status();
    assert!(status.unwrap().success(), "{name}.c");
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_job_outlives_a_short_cut_and_is_lost_by_a_long_one() {
    let site = Site::new();
    site.run(&["create", "demo", "--nodes", "3", "--slots", "1"]).ok();
    let status = site.status("demo");
    site.install("demo", "ticker");
    let worker = Machine::of_node(&site, &status, 2);

    let mut run = site.start(&["run", "demo", "-n", "3", "--", "./ticker", "140", "100"]);
    run.wait_for_stdout("tick 5 rank 2", seconds(30));
    worker.set_cut_off(true);
    until(seconds(30), "its session has ended", || {
        let words = site.run(&["why", "demo", "2", "--json"]).json()["words"].clone();
        words
            .as_array()?
            .iter()
            .any(|word| word["text"].as_str().is_some_and(|text| text.contains("session ended")))
            .then_some(())
    });
    worker.set_cut_off(false);
    let outcome = run.wait(seconds(90));
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_eq!(outcome.stdout.matches("tick 139 rank").count(), 3, "{outcome}");

    let words = ["run", "demo", "-n", "3", "--node-timeout", "8s", "--", "./ticker", "1000", "100"];
    let mut run = site.start(&words);
    run.wait_for_stdout("tick 5 rank 2", seconds(60));
    worker.set_cut_off(true);
    let outcome = run.wait(seconds(60));
    assert_eq!(outcome.code, 75, "{outcome}");
    assert!(outcome.stderr.contains("node demo-2 is lost"), "{outcome}");
    assert!(outcome.stderr.contains("out of reach for 8 s") && outcome.stderr.contains("ec2mpi why demo"), "{outcome}");
    let job = site.run(&["jobs", "demo", "--json"]).json().as_array().unwrap().last().unwrap().clone();
    assert_eq!((job["state"].as_str(), job["exit_code"].as_i64()), (Some("lost"), Some(75)), "{job}");
    for index in 0..2 {
        assert_eq!(ranks_on(&Machine::of_node(&site, &status, index)), 0, "the other ranks are ended");
    }
    let away = until(seconds(20), "the node is unreachable", || {
        let report = site.run(&["why", "demo", "2", "--json"]).json();
        (report["node"]["state"] == "unreachable").then_some(report)
    });
    assert_eq!((away["instance_state"].as_str(), away["last_phase"].as_str()), (Some("running"), Some("unreachable")));

    worker.set_cut_off(false);
    until(seconds(30), "the node comes back, and its rank ends", || {
        (site.status("demo")["nodes"][2]["state"] == "ready" && ranks_on(&worker) == 0).then_some(())
    });
    site.run(&["destroy", "demo"]).ok();
}

fn ranks_on(machine: &Machine) -> usize {
    machine.processes().iter().filter(|process| process.words[0].ends_with("ticker")).count()
}

/// For the machine's disk: the agent's program takes a third of it.
const DISK_BYTES: u64 = 160 << 20;

#[test]
fn a_full_disk_is_told_and_what_was_acknowledged_stays() {
    let site = Site::new();
    let disk = site.path("cloud/instances");
    std::fs::create_dir_all(&disk).unwrap();
    let options = format!("size={DISK_BYTES}");
    mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
    site.run(&["create", "demo", "--nodes", "1"]).ok();
    let status = site.status("demo");
    site.run(&["exec", "demo", "--", "sh", "-c", "echo before > kept"]).ok();

    // Room for a command, not for its file.
    let ballast = Ballast::leave(&disk, 3 << 20);
    let big = site.run(&["exec", "demo", "--", "sh", "-c", "head -c 8000000 /dev/zero > big"]);
    assert_ne!(big.code, 0, "{big}");
    assert!(big.stderr.contains("No space left") || big.stderr.contains("demo-0: the node's disk is full"), "{big}");
    // Room for nothing.
    let _all = Ballast::leave(&disk, 0);
    let none = site.run(&["exec", "demo", "--", "true"]);
    assert_ne!(none.code, 0, "{none}");
    assert!(
        none.stderr.contains("demo-0: ") && none.stderr.contains("disk is full")
            || none.stderr.contains("No space left"),
        "{none}"
    );

    drop((ballast, _all));
    let kept = site.run(&["exec", "demo", "--", "sh", "-c", "cat kept; rm -f big; echo after > new"]).ok();
    assert_eq!(kept, "before\n");
    site.run(&["run", "demo", "-n", "1", "--", "true"]).ok();
    let prefix = stranger::prefix(&status);
    assert_eq!(stranger::object(&site, &format!("{prefix}kept")), b"before\n");
    assert_eq!(stranger::object(&site, &format!("{prefix}new")), b"after\n");
    let node = site.status("demo")["nodes"][0].clone();
    assert_eq!((node["state"].as_str(), node["volume"]["failed_files"].as_i64()), (Some("ready"), Some(0)), "{node}");
    site.run(&["destroy", "demo"]).ok();
}

/// A file that takes what is free of a disk; gone when dropped.
struct Ballast(std::path::PathBuf);

impl Ballast {
    fn leave(disk: &std::path::Path, bytes: u64) -> Self {
        let free = statvfs(disk).unwrap();
        let free = free.blocks_available() * free.fragment_size();
        let path = disk.join(format!("ballast-{bytes}"));
        let file = std::fs::File::create(&path).unwrap();
        let length = i64::try_from(free.saturating_sub(bytes)).unwrap();
        if length > 0 {
            fallocate(&file, FallocateFlags::empty(), 0, length).unwrap();
        }
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
