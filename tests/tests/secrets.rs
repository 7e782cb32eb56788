//! Private keys and tokens are where they belong and nowhere else; a machine's identity cannot be taken over.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};
use ec2mpi_tests::machine::Machine;
use ec2mpi_tests::secret::{self, Secret};
use ec2mpi_tests::site::Site;
use ec2mpi_tests::{host, join, stranger};
use serde_json::Value;

/// Where a node keeps its own private keys. The user's stands twice: root's copy is there before the user is.
const OWN_KEYS: [&str; 4] = [
    "var/lib/ec2mpi/node.key",
    "var/lib/ec2mpi/ssh_user_ed25519_key",
    "etc/ec2mpi/ssh/ssh_host_ed25519_key",
    "home/mpi/.ssh/id_ed25519",
];

/// What of a node's root is its own: the rest is the host's, as the image of a machine on AWS would be.
const OWN_FOLDERS: [&str; 8] =
    ["var/lib/ec2mpi", "var/lib/cloud", "var/log", "etc/ec2mpi", "home", "root", "tmp", "run"];

#[test]
fn private_keys_are_nowhere_but_where_they_belong() {
    let site = Site::new();
    let status = site.create("demo", 2);
    site.run(&["run", "demo", "-n", "4", "--", "hostname"]).ok();
    site.run(&["ssh", "demo", "--", "true"]).ok();
    let machines = [0, 1].map(|index| Machine::of_node(&site, &status, index));
    let own = machines.each_ref().map(own_keys);
    let authorities = keys_of_the_authorities(&site);
    let everything: Vec<Secret> = own.iter().flatten().chain(&authorities).cloned().collect();
    assert_eq!(everything.len(), 2 * OWN_KEYS.len() + authorities.len());

    for (machine, (mine, other)) in machines.iter().zip([(&own[0], &own[1]), (&own[1], &own[0])]) {
        let foreign: Vec<&Secret> = other.iter().chain(&authorities).collect();
        check_root(machine, mine, &foreign);
    }
    check_the_clouds_view(&site, &status, &everything);
    check_logs_and_arguments(&site, &machines, &everything);
}

#[track_caller]
fn own_keys(machine: &Machine) -> Vec<Secret> {
    let found: Vec<Secret> = OWN_KEYS.iter().flat_map(|path| secret::secrets_in(path, &machine.read(path))).collect();
    assert_eq!(found.len(), OWN_KEYS.len(), "its private keys are on {}", machine.instance);
    for path in OWN_KEYS {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(machine.root().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path} is for its owner only");
    }
    found
}

/// The private keys in the coordinator's state: the X.509 CA's and the cluster's SSH CA's at least.
#[track_caller]
fn keys_of_the_authorities(site: &Site) -> Vec<Secret> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for path in secret::files_below(&site.path("coordinator"), &[]) {
        let bytes = fs::read(&path).unwrap();
        if secret::has_header(&bytes) {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{} is private", path.display());
        }
    }
    // By SQLite itself: in its files a long value may lie in several places, or half overwritten.
    found.extend(secret::secrets_in(
        "the state",
        stranger::dump(site, &site.path("coordinator/state.sqlite")).as_bytes(),
    ));
    assert!(found.len() >= 2, "the authorities' keys are in the state: {found:?}");
    found
}

/// No key header but in the three files, and in none of the others a secret, its own or a foreign one.
#[track_caller]
fn check_root(machine: &Machine, mine: &[Secret], foreign: &[&Secret]) {
    let root = machine.root();
    let mut looked_at = 0;
    for folder in OWN_FOLDERS {
        for path in secret::files_below(&root.join(folder), &[]) {
            let Ok(bytes) = fs::read(&path) else { continue };
            looked_at += 1;
            let is_own_key = OWN_KEYS.iter().any(|own| path == root.join(own));
            let place = path.display();
            assert!(is_own_key || !secret::has_header(&bytes), "a private key lies in {place}");
            let strangers: Vec<_> = foreign.iter().filter(|one| one.is_in(&bytes)).map(|one| &one.name).collect();
            assert!(strangers.is_empty(), "{place} holds what is of {strangers:?}");
            assert!(is_own_key || !mine.iter().any(|one| one.is_in(&bytes)), "{place} holds a key of its own node");
        }
    }
    assert!(looked_at > 10, "only {looked_at} files were looked at");
    let of_the_host = fs::read_dir(root.join("etc/ssh")).unwrap().flatten();
    for entry in of_the_host {
        assert!(
            !entry.file_name().to_string_lossy().starts_with("ssh_host_"),
            "a host key of this host is seen inside"
        );
    }
    assert_eq!(fs::read_dir(root.join("root")).unwrap().count(), 0, "the home of this host's root is not seen inside");
}

/// User-data, as the cloud has stored it, and everything else that the cloud knows of its instances.
#[track_caller]
fn check_the_clouds_view(site: &Site, status: &Value, everything: &[Secret]) {
    let cloud = site.path("cloud");
    let id = status["id"].as_str().unwrap();
    let mut user_data = 0;
    // What a machine wrote on its disk is looked at as its root; the rest is what a cloud's operator sees.
    let disks: Vec<_> = fs::read_dir(cloud.join("instances"))
        .unwrap()
        .flatten()
        .flat_map(|entry| ["upper", "work", "root"].map(|name| entry.path().join(name)))
        .collect();
    let skipped: Vec<&Path> = disks.iter().map(AsRef::as_ref).collect();
    for path in secret::files_below(&cloud, &skipped) {
        let bytes = fs::read(&path).unwrap_or_default();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let leaked: Vec<_> = everything.iter().filter(|one| one.is_in(&bytes)).map(|one| &one.name).collect();
        assert!(leaked.is_empty(), "{} holds what is of {leaked:?}", path.display());
        assert!(name == "document.key" || !secret::has_header(&bytes), "a private key lies in {}", path.display());
    }
    for node in status["nodes"].as_array().unwrap() {
        let machine = Machine::find(site, node["instance_id"].as_str().unwrap());
        let text = machine.read("var/lib/cloud/instance/user-data.txt");
        assert!(secret::contains(&text, id.as_bytes()) && text.len() <= 16 << 10, "{} bytes", text.len());
        assert!(!secret::has_header(&text));
        // The names of IMDS's header and path are no secrets.
        let words = String::from_utf8(text).unwrap().to_lowercase().replace("x-aws-ec2-metadata-token", "");
        let words = words.replace("api/token", "");
        for word in ["token", "password", "secret", "aws_access"] {
            assert!(!words.contains(word), "user-data speaks of {word}");
        }
        user_data += 1;
    }
    assert_eq!(user_data, 2);
}

#[track_caller]
fn check_logs_and_arguments(site: &Site, machines: &[Machine], everything: &[Secret]) {
    let secret_key = site.cloud()["secret_key"].as_str().unwrap().to_owned();
    let mut processes = host::processes_of(site.directory());
    processes.extend(machines.iter().flat_map(Machine::processes));
    assert!(processes.iter().filter(|process| process.is("ec2mpi-agent", "run")).count() == 2, "{processes:?}");
    for process in &processes {
        let words = process.words.join(" ");
        assert!(!words.contains(&secret_key) && !words.contains("PRIVATE KEY"), "{words}");
        assert!(!everything.iter().any(|one| one.is_in(words.as_bytes())), "{words}");
    }
    let mut logs = vec![site.path("coordinator/coordinator.log"), site.path("cloud/cloud.log")];
    for machine in machines {
        logs.extend(secret::files_below(&machine.root().join("var/log/ec2mpi"), &[]));
        logs.push(site.path(&format!("cloud/instances/{}/console.log", machine.instance)));
    }
    assert!(logs.len() >= 6, "{logs:?}");
    for log in logs {
        let bytes = fs::read(&log).unwrap_or_default();
        let place = log.display();
        assert!(!secret::has_header(&bytes) && !secret::contains(&bytes, secret_key.as_bytes()), "{place}");
        assert!(!everything.iter().any(|one| one.is_in(&bytes)), "{place}");
    }
}

#[test]
fn an_identity_is_bound_to_the_first_key() {
    let site = Site::new();
    let status = site.create("demo", 2);
    let [head, worker] = [0, 1].map(|index| Machine::of_node(&site, &status, index));
    let stolen = join::Document::of(&worker);

    let own = fs::read_to_string(worker.root().join("var/lib/ec2mpi/node.key")).unwrap();
    let certificate = String::from_utf8(worker.read("var/lib/ec2mpi/node.crt")).unwrap();
    let again = join::join(&worker, &stolen, &join::Key::from_pem(&own)).expect("the same key joins again");
    assert_eq!(again.certificate_pem.trim(), certificate.trim(), "and gets the same answer");
    assert_eq!(again.node.unwrap().instance_id, worker.instance);

    let denied = join::join(&worker, &stolen, &join::Key::new()).expect_err("another key is refused");
    assert_eq!(denied.code(), tonic::Code::PermissionDenied, "{denied:?}");
    let elsewhere = join::join(&head, &stolen, &join::Key::new()).expect_err("on another machine too");
    assert_eq!(elsewhere.code(), tonic::Code::PermissionDenied, "{elsewhere:?}");
    let with_the_key = join::join(&head, &stolen, &join::Key::from_pem(&own)).expect_err("even with the right key");
    assert_eq!(with_the_key.code(), tonic::Code::PermissionDenied, "{with_the_key:?}");

    let forged = join::Document { pkcs7: tampered(&stolen.pkcs7) };
    let refused = join::join(&worker, &forged, &join::Key::from_pem(&own)).expect_err("a changed document is refused");
    assert!(matches!(refused.code(), tonic::Code::PermissionDenied | tonic::Code::InvalidArgument), "{refused:?}");

    // The cluster is none the worse for it.
    let output = site.run(&["run", "demo", "-n", "4", "--", "hostname"]).ok();
    assert_eq!(output.lines().count(), 4);
}

/// The document with its instance id changed, its signature as it was.
fn tampered(pkcs7: &str) -> String {
    let compact: String = pkcs7.split_ascii_whitespace().collect();
    let mut bytes = BASE64_STANDARD.decode(compact).unwrap();
    let mark = b"\"i-";
    let at = bytes.windows(mark.len()).position(|window| window == mark).unwrap() + mark.len();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    BASE64_STANDARD.encode(bytes)
}
