//! The user-data run by Debian's cloud-init, as on AWS, ends in a ready cluster; and it comes back after a reboot.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::panic::AssertUnwindSafe;

use ec2mpi_tests::ec2_server::Ec2Server;
use ec2mpi_tests::machine::Machine;
use ec2mpi_tests::place;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::wait::{seconds, until};
use serde_json::{Value, json};

#[test]
fn cloud_init_makes_nodes_of_machines() {
    let site = Site::new();
    let layer = place::executables().join("../cloud-init");
    assert!(layer.join("usr/bin/cloud-init").exists(), "{} is missing: run `make setup`", layer.display());
    site.start_cloud(&["--cloud-init", layer.to_str().unwrap()]);
    let status = site.create("demo", 2);
    for index in [0, 1] {
        let machine = Machine::of_node(&site, &status, index);
        // Without the link `instance`, which is absolute and would be followed on the host.
        let name = std::fs::read_to_string(machine.root().join("etc/hostname")).unwrap();
        let script = machine.read(&format!("var/lib/cloud/instances/{}/scripts/part-001", name.trim()));
        assert_eq!(script, machine.read("var/lib/cloud/seed/nocloud/user-data"), "cloud-init ran the user-data itself");
        let result = result(&machine);
        let datasource = result["v1"]["datasource"].as_str().unwrap().to_owned();
        assert!(datasource.starts_with("DataSourceNoCloud"), "{result}");
        println!(
            "{}: cloud-init from {datasource}, errors: {}",
            status["nodes"][index]["host_name"], result["v1"]["errors"]
        );
    }
    println!("timings: {}", status["timings"]);
    assert_eq!(site.run(&["run", "demo", "-n", "4", "--", "hostname"]).ok().lines().count(), 4);

    let before = Machine::of_node(&site, &status, 1);
    let server = Ec2Server::local_running(&site);
    server.call("ec2", "reboot_instances", &json!({"InstanceIds": [before.instance]}));
    until(seconds(60), "the machine boots anew, and cloud-init ends", || {
        let new = std::panic::catch_unwind(AssertUnwindSafe(|| Machine::find(&site, &before.instance))).ok()?;
        let booted = new.init != before.init && new.root().join("run/cloud-init/result.json").exists();
        booted.then_some(())
    });
    // A node whose session may come back any moment counts as ready: what it answers is what proves it.
    until(seconds(120), "its agent answers again", || {
        let answer = site.run(&["exec", "demo", "--node", "1", "--", "hostname"]);
        (answer.code == 0 && answer.stdout == "demo-1\n").then_some(())
    });
    assert_eq!(site.run(&["run", "demo", "-n", "4", "--", "hostname"]).ok().lines().count(), 4);
}

/// How cloud-init says that it went.
fn result(machine: &Machine) -> Value {
    until(seconds(60), "cloud-init has ended", || {
        let text = std::fs::read(machine.root().join("run/cloud-init/result.json")).ok()?;
        serde_json::from_slice(&text).ok()
    })
}
