//! What is left on the host: nothing, however it ended.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use ec2mpi_tests::machine::Machine;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::wait::{seconds, until};
use ec2mpi_tests::{host, stranger};

#[test]
fn stopping_everything_leaves_nothing_but_the_bucket() {
    let site = Site::new();
    let status = site.create("one", 2);
    let prefix = stranger::prefix(&status);
    site.run(&["exec", "one", "--", "sh", "-c", "echo kept > file"]).ok();
    site.run(&["destroy", "one"]).ok();
    site.run(&["stop"]).ok();
    site.run(&["cloud", "stop"]).ok();
    no_traces(&site);

    site.start_cloud(&[]);
    assert_eq!(stranger::object(&site, &format!("{prefix}file")), b"kept\n", "the bucket outlives the cloud");
    site.run(&["cloud", "stop", "--purge"]).ok();
    no_traces(&site);
    let left: Vec<_> =
        walk(&site).into_iter().filter(|path| path.contains("bucket") || path.contains("upper")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn stopping_the_cloud_ends_its_machines() {
    let site = Site::new();
    let status = site.create("two", 2);
    let machine = Machine::of_node(&site, &status, 1);
    assert!(machine.processes().iter().any(|process| process.is("ec2mpi-agent", "run")));
    site.run(&["exec", "two", "--node", "1", "--", "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo started"])
        .ok();
    site.run(&["stop"]).ok();
    site.run(&["cloud", "stop"]).ok();
    no_traces(&site);
    assert!(!std::path::Path::new(&format!("/proc/{}", machine.init)).exists());
}

#[test]
fn one_site_does_not_touch_another() {
    let (one, two) = (Site::new(), Site::new());
    one.start_cloud(&[]);
    two.start_cloud(&[]);
    assert_ne!(one.bridge().unwrap(), two.bridge().unwrap());
    assert_ne!(one.cloud()["cidr"], two.cloud()["cidr"], "their networks do not overlap");
    one.run(&["cloud", "stop", "--purge"]).ok();
    no_traces(&one);
    assert!(stranger::instances(&two).is_empty(), "the other still answers");
    let status = two.run(&["cloud", "status"]).ok();
    assert!(!status.is_empty());
}

#[test]
fn a_machine_that_is_dropped_from_the_cloud_takes_its_volume_along() {
    let site = Site::new();
    let status = site.create("three", 1);
    let machine = Machine::of_node(&site, &status, 0);
    let volume = machine.agent("mount");
    site.run(&["destroy", "three", "--discard"]).ok();
    until(seconds(20), "the volume's process ends", || {
        (!host::processes().iter().any(|process| process.pid == volume)).then_some(())
    });
    assert!(host::mounts_below(site.directory()).is_empty());
}

/// Processes may need a moment to be reaped; everything else is gone when the command returns.
#[track_caller]
fn no_traces(site: &Site) {
    until(seconds(5), &format!("no traces: {:?}", site.traces()), || site.traces().is_empty().then_some(()));
}

fn walk(site: &Site) -> Vec<String> {
    let mut folders = vec![site.path("cloud")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}
