//! Every bad input gets a clear message in bounded time, and nothing is left running.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use ec2mpi_tests::outcome::Running;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::wait::seconds;
use ec2mpi_tests::{place, stranger};

/// A user without any rights; on Debian, `nobody`.
const NOBODY: u32 = 65534;

#[test]
fn what_names_no_cluster_is_refused() {
    let site = Site::new();
    let here = place::program("ends.c");
    let here = here.to_str().unwrap();
    for words in [
        "status ghost",
        "destroy ghost",
        "run ghost -n 2 -- true",
        "exec ghost -- true",
        "logs ghost",
        "jobs ghost",
        "cancel ghost j-0123456789ab",
        "hostfile ghost",
        "ssh ghost -- true",
        &format!("cp {here} ghost:/shared/"),
        "cp ghost:/shared/x /dev/null",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        site.run(&words).refused(&[1], &["ghost"]);
    }
    nothing_was_launched(&site);
}

#[test]
fn clusters_that_cannot_be_are_refused() {
    let site = Site::new();
    let long = "x".repeat(40);
    for name in ["Upper", "under_score", "1digit", "-dash", "dash-", "a.b", "a/b", "", "bl ank", "ä", &long] {
        site.run(&["create", "--nodes", "2", "--", name]).refused(&[1, 2], &[]);
        let said = site.run(&["create", "--nodes", "2", "--", name]).stderr;
        assert!(said.contains(name) && said.to_lowercase().contains("name"), "{name:?}: {said}");
    }
    for nodes in ["0", "-1", "10000", "two", "", "1.5", "99999999999999999999"] {
        site.run(&["create", "bad", &format!("--nodes={nodes}")]).refused(&[1, 2], &["nodes"]);
    }
    site.run(&["create", "bad", "--nodes", "2", "--min-nodes", "3"]).refused(&[1, 2], &["min-nodes"]);
    site.run(&["create", "bad", "--nodes", "2", "--type", "no.such"]).refused(&[1], &["no.such"]);
    site.run(&["create", "bad"]).refused(&[2], &["--nodes"]);
    site.run(&["frobnicate"]).refused(&[2], &["frobnicate"]);
    nothing_was_launched(&site);
}

#[test]
fn requests_that_a_cluster_cannot_meet_are_refused() {
    let site = Site::new();
    site.create("real", 2);
    site.run(&["create", "real", "--nodes", "1"]).refused(&[1], &["real", "already"]);
    site.run(&["run", "real", "-n", "5", "--", "hostname"]).refused(&[1], &["slots", "4", "5"]);
    site.run(&["hostfile", "real", "-n", "5"]).refused(&[1], &["slots", "4"]);
    site.run(&["run", "real", "-n", "0", "--", "hostname"]).refused(&[1, 2], &["0"]);
    site.run(&["run", "real", "-n", "-3", "--", "hostname"]).refused(&[1, 2], &["-3"]);
    site.run(&["run", "real", "-n", "2"]).refused(&[2], &["program"]);
    site.run(&["run", "real", "-n", "2", "--workdir", "shared", "--", "hostname"]).refused(&[1, 2], &["absolute"]);
    site.run(&["exec", "real", "--workdir", "/no/such", "--", "true"]).refused_anyhow("/no/such");
    site.run(&["exec", "real", "--env", "1A=b", "--", "true"]).refused(&[1, 2], &["1A"]);
    site.run(&["exec", "real", "--node", "2", "--", "true"]).refused(&[1], &["node 2"]);
    site.run(&["ssh", "real", "--node", "7", "--", "true"]).refused(&[1], &["node 7"]);
    site.run(&["logs", "real", "j-0123456789ab"]).refused(&[1], &["j-0123456789ab"]);
    site.run(&["logs", "real", "nonsense"]).refused(&[2], &["nonsense"]);
    site.run(&["cp", "/no/such/file", "real:/shared/"]).refused(&[1], &["/no/such/file"]);
    site.run(&["cp", "real:/shared/no-such", "/tmp/"]).refused(&[1], &["no-such"]);
    site.run(&["cp", "real:shared/x", "/tmp/"]).refused(&[1, 2], &["absolute"]);
    site.run(&["cp", "/etc/hostname", "/tmp/x"]).refused(&[1, 2], &[]);

    site.run(&["run", "real", "-n", "2", "--", "./missing-program"]).refused_anyhow("missing-program");
    site.run(&["exec", "real", "--", "missing-program"]).refused_anyhow("missing-program");
    site.run(&["exec", "real", "--", "/etc/hostname"]).refused_anyhow("/etc/hostname");

    // After all this it is as good as new.
    assert_eq!(site.run(&["run", "real", "-n", "4", "--", "echo", "well"]).ok(), "well\n".repeat(4));
    assert_eq!(stranger::instances(&site).len(), 2);
}

#[test]
fn who_is_not_root_is_told_so() {
    let site = Site::new();
    let open = tempfile::Builder::new().prefix("ec2mpi-nobody-").tempdir().unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The build directory may be closed to others.
    let copy = open.path().join("ec2mpi");
    fs::copy(place::executable("ec2mpi"), &copy).unwrap();
    let home = open.path().join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();

    for arguments in [&["create", "x", "--nodes", "1"][..], &["list"], &["cloud", "start"]] {
        let mut command = site.command_of(&copy, arguments);
        command.uid(NOBODY).gid(NOBODY).current_dir("/").env("HOME", &home);
        command.env("EC2MPI_STATE_DIR", home.join("state")).env("EC2MPI_SOCKET", home.join("socket"));
        command.env("EC2MPI_CLOUD_DIR", home.join("cloud"));
        site.start_command(command).wait(seconds(30)).refused(&[1], &["root"]);
    }
    // The socket of root's coordinator is closed to others.
    site.run(&["list"]).ok();
    let mode = fs::metadata(site.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn without_open_mpi_plain_commands_work_and_run_says_what_is_missing() {
    let site = Site::new();
    let library = format!("/usr/lib/{}-linux-gnu/openmpi", std::env::consts::ARCH);
    site.start_cloud(&["--mask", &library, "--mask", "/etc/alternatives"]);
    site.create("plain", 1);
    assert_eq!(site.run(&["exec", "plain", "--", "echo", "works"]).ok(), "works\n");
    site.run(&["run", "plain", "-n", "2", "--", "hostname"]).refused(&[1], &["Open MPI", "install"]);
}

#[test]
fn a_second_cloud_or_coordinator_in_one_directory_is_refused() {
    let site = Site::new();
    site.start_cloud(&[]);
    let pid = site.cloud()["pid"].clone();
    let again = site.run(&["cloud", "start"]);
    assert!(format!("{}{}", again.stdout, again.stderr).contains("already"), "{again}");
    site.run(&["cloud", "serve"]).refused(&[1], &["already"]);
    assert_eq!(site.cloud()["pid"], pid, "the first goes on");
    assert!(stranger::instances(&site).is_empty(), "and answers");

    site.run(&["list"]).ok();
    site.run(&["serve"]).refused(&[1], &["another coordinator"]);
    site.run(&["list"]).ok();
}

#[test]
fn what_is_not_running_can_be_stopped() {
    let site = Site::new();
    for words in [&["stop"][..], &["cloud", "stop"]] {
        let outcome = site.run(words);
        assert!(outcome.took < seconds(10) && !outcome.stderr.contains("panicked"), "{outcome}");
    }
    assert!(site.traces().is_empty(), "nothing was started to be stopped: {:?}", site.traces());
    // An executable that is not there is an error of the user's, not a crash.
    let mut command = site.command(&["create", "x", "--nodes", "1"]);
    command.env("EC2MPI_AGENT", "/no/such/agent");
    Running::start(command, &site.path("output")).wait(seconds(60)).refused(&[1, 2], &["/no/such/agent"]);
}

/// No cluster is known, and where a cloud was started at all it has no instance.
#[track_caller]
fn nothing_was_launched(site: &Site) {
    assert_eq!(site.run(&["list", "--json"]).json(), serde_json::json!([]));
    if site.path("cloud/cloud.json").exists() {
        let instances = stranger::instances(site);
        assert!(instances.is_empty(), "{instances:?}");
    }
}
