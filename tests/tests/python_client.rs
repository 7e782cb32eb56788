//! A script of twenty lines on grpcio, beside the command line on the same API.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::Command;

use ec2mpi_tests::outcome::Running;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::wait::seconds;
use ec2mpi_tests::{place, stranger};

#[test]
fn a_script_creates_runs_and_destroys() {
    let site = Site::new();
    let stubs = generate_stubs(&site);
    // Starts coordinator and cloud.
    assert_eq!(site.run(&["list", "--json"]).json(), serde_json::json!([]));

    let mut client = Command::new(place::python());
    client.arg(place::program("client.py")).arg(site.socket()).env("PYTHONPATH", stubs);
    let outcome = Running::start(client, &site.path("output")).wait(seconds(180));
    assert_eq!(outcome.code, 0, "{outcome}");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[lines.len() - 2..], ["exit code 0", "2 terminated, 0 left"], "{outcome}");
    let mut hosts: BTreeMap<&str, u32> = BTreeMap::new();
    for line in &lines[..lines.len() - 2] {
        *hosts.entry(line).or_default() += 1;
    }
    assert_eq!(hosts.values().collect::<Vec<_>>(), [&2, &2], "two ranks on each of two hosts: {outcome}");
    assert!(outcome.stderr.contains("READY"), "{outcome}");

    let instances = stranger::instances(&site);
    assert_eq!(instances.len(), 2);
    assert!(!instances.iter().any(stranger::Instance::is_paid_for), "{instances:?}");
}

/// From the protocol files of the checkout.
fn generate_stubs(site: &Site) -> std::path::PathBuf {
    let stubs = site.path("stubs");
    std::fs::create_dir(&stubs).unwrap();
    let mut generator = Command::new(place::python());
    generator.args(["-m", "grpc_tools.protoc", "-I"]).arg(place::protocol());
    generator.arg(format!("--python_out={}", stubs.display())).arg(format!("--grpc_python_out={}", stubs.display()));
    generator.arg("ec2mpi/v1/control.proto");
    Running::start(generator, &site.path("output")).wait(seconds(60)).ok();
    stubs
}
