use std::process::Command;

use insta::assert_snapshot;

use super::*;

/// Of the length of a real one, but no certificate.
const CA: &str = "-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUZXhhbXBsZWV4YW1wbGVleGFtcGwwCgYIKoZIzj0EAwIw
HTEbMBkGA1UEAwwSZWMybXBpIGNvb3JkaW5hdG9yMB4XDTI2MTEyMjAwMDAwMFoX
-----END CERTIFICATE-----
";

fn data() -> UserData {
    let agent = |architecture: &str| AgentBinary {
        url: format!("http://10.213.0.1:41235/agent/{architecture}"),
        sha256: "0123456789abcdef".repeat(4),
    };
    UserData {
        coordinator: "https://10.213.0.1:41234".to_owned(),
        server_name: "coordinator.ec2mpi".to_owned(),
        cluster: "demo".parse().unwrap(),
        cluster_id: "c-0123456789abcdef0123456789abcdef".parse().unwrap(),
        launch: "l-0123456789abcdef0123456789abcdef".parse().unwrap(),
        ca_pem: CA.to_owned(),
        agents: ["aarch64", "x86_64"].map(|name| (name.to_owned(), agent(name))).into(),
        deadline: Some(1_795_395_707),
    }
}

#[test]
fn the_script() {
    assert_snapshot!(render(&data()).unwrap());
}

#[test]
fn shells_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("user-data");
    std::fs::write(&path, render(&data()).unwrap()).unwrap();
    let output = Command::new("sh").arg("-n").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_end_is_armed_before_anything_else_and_only_where_there_is_one() {
    let script = render(&data()).unwrap();
    let at = |text: &str| script.find(text).unwrap_or_else(|| panic!("no {text:?}"));
    assert!(at("until is_mine") < at("mkdir") && at("keep ec2mpi-deadline") < at("/etc/ec2mpi/agent.toml"));
    assert!(script.contains("echo 1795395707 >/etc/ec2mpi/deadline\n"));
    let endless = render(&UserData { deadline: None, ..data() }).unwrap();
    assert!(!endless.contains("deadline.service") && !endless.contains("poweroff"), "{endless}");
    for text in [script, endless] {
        assert!(!text.contains("@\n") && text.len() < LIMIT / 2, "{} bytes", text.len());
    }
}

#[test]
fn the_settings_are_what_the_agent_reads() {
    let data = data();
    let settings: toml::Table = settings(&data).unwrap().parse().unwrap();
    let mut keys: Vec<&str> = settings.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["ca_pem", "cluster", "cluster_id", "coordinator", "launch_id", "server_name"]);
    assert_eq!(settings["ca_pem"].as_str(), Some(CA));
    assert_eq!(settings["launch_id"].as_str(), Some(data.launch.as_str()));
}

#[test]
fn what_could_break_out_of_the_script_is_refused() {
    let changed = |change: &dyn Fn(&mut UserData)| {
        let mut data = data();
        change(&mut data);
        render(&data)
    };
    let agent = |url: &str, sha256: &str| AgentBinary { url: url.to_owned(), sha256: sha256.to_owned() };
    let sum = "0123456789abcdef".repeat(4);
    assert!(changed(&|d| d.coordinator = "http://10.213.0.1:1".to_owned()).is_err());
    assert!(changed(&|d| d.coordinator = "https://a\nEC2MPI_END\nreboot".to_owned()).is_err());
    assert!(changed(&|d| d.server_name = "a\"".to_owned()).is_err());
    assert!(changed(&|d| d.server_name = String::new()).is_err());
    assert!(changed(&|d| d.ca_pem = "-----BEGIN EC PRIVATE KEY-----".to_owned()).is_err());
    assert!(changed(&|d| d.ca_pem = format!("{CA}-----BEGIN PRIVATE KEY-----\nAA\n{CA}")).is_err());
    assert!(changed(&|d| d.ca_pem = CA.replace("MII", "$(x")).is_err());
    assert!(changed(&|d| d.agents.clear()).is_err());
    assert!(changed(&|d| drop(d.agents.insert("x86_64".to_owned(), agent("http://a/'$(reboot)'", &sum)))).is_err());
    assert!(changed(&|d| drop(d.agents.insert("x86_64".to_owned(), agent("file:///agent", &sum)))).is_err());
    assert!(changed(&|d| drop(d.agents.insert("x86_64".to_owned(), agent("http://a/b", "00")))).is_err());
    assert!(changed(&|d| drop(d.agents.insert("*".to_owned(), agent("http://a/b", &sum)))).is_err());
}

#[test]
fn what_is_too_long_is_refused() {
    let mut data = data();
    data.ca_pem = CA.replace("MII", &"A".repeat(LIMIT));
    assert!(render(&data).unwrap_err().to_string().contains("EC2 takes 16384"));
}
