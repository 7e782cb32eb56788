//! `--cloud aws`, rehearsed on the local cloud: what is asked of EC2, what machines are told, and how they end.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, Engine};
use ec2mpi_tests::nowhere::Nowhere;
use ec2mpi_tests::rehearsal::Rehearsal;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::wait::{seconds, until};
use ec2mpi_tests::{secret, stranger};
use serde_json::{Value, json};

#[test]
fn the_path_to_aws_from_configuration_to_proof() {
    let site = Site::new();
    let aws = Rehearsal::new(&site);
    aws.run(&["create", "demo", "--nodes", "2"]).ok();
    let status = aws.run(&["status", "demo", "--json"]).json();
    assert_eq!((&status["cloud"], &status["volume"]), (&json!("aws"), &json!("s3://ec2mpi/rehearsals/demo/")));
    let life = status["expires_at"].as_f64().unwrap() - status["created_at"].as_f64().unwrap();
    assert!((life - 12.0 * 3600.0).abs() < 1.0, "{life} seconds");

    let answer = aws.server.call("ec2", "describe_instances", &json!({}));
    let reservations = answer["Reservations"].as_array().unwrap();
    assert_eq!(reservations.len(), 1, "one call launches all");
    for instance in reservations[0]["Instances"].as_array().unwrap() {
        let options = &instance["MetadataOptions"];
        assert_eq!((&options["HttpTokens"], &options["HttpPutResponseHopLimit"]), (&json!("required"), &json!(1)));
        assert!(instance["IamInstanceProfile"]["Arn"].as_str().unwrap().ends_with("/my-node"), "{instance}");
        assert_eq!(instance["SubnetId"], aws.server.subnet.as_str());
        let launch = instance["ClientToken"].as_str().unwrap();
        let tag = |key: &str| instance["Tags"].as_array().unwrap().iter().find(|tag| tag["Key"] == key).unwrap();
        assert_eq!(tag("ec2mpi:launch-id")["Value"], launch);
        assert_eq!(tag("ec2mpi:cluster-id")["Value"], status["id"]);
        let behaviour = attribute(&aws, instance, "instanceInitiatedShutdownBehavior");
        assert_eq!(behaviour["InstanceInitiatedShutdownBehavior"]["Value"], "terminate");
    }
    let user_data = user_data(&aws, &reservations[0]["Instances"][0]);
    let elsewhere = Nowhere::run(&site, &user_data);

    let output = aws.run(&["run", "demo", "-n", "4", "--", "sh", "-c", "hostname > $(hostname)"]);
    assert_eq!(output.code, 0, "{output}");
    let objects = stranger::objects(&site, "rehearsals/demo/demo-");
    assert_eq!(objects.len(), 2, "{objects:?}");
    aws.run(&["--subnet", "subnet-2", "list"]).refused(&[1], &["--subnet", "ec2mpi stop"]);
    site.run(&["--cloud", "local", "list"]).refused(&[1], &["--cloud aws", "ec2mpi stop"]);
    let destroyed = aws.run(&["destroy", "demo"]).ok();
    assert!(destroyed.contains("2 instances terminated, 0 left"), "{destroyed}");

    check_text(&user_data, &aws.server.secret_key);
    let (outcome, changed) = elsewhere.end();
    assert!(outcome.code == 1 && outcome.stderr.contains("nothing was changed"), "{outcome}");
    assert!(changed.is_empty(), "it changed {changed:?}");
}

fn attribute(aws: &Rehearsal<'_>, instance: &Value, name: &str) -> Value {
    let asked = json!({"InstanceId": instance["InstanceId"], "Attribute": name});
    aws.server.call("ec2", "describe_instance_attribute", &asked)
}

fn user_data(aws: &Rehearsal<'_>, instance: &Value) -> String {
    let answer = attribute(aws, instance, "userData");
    String::from_utf8(BASE64_STANDARD.decode(answer["UserData"]["Value"].as_str().unwrap()).unwrap()).unwrap()
}

/// No secret, not too long, and its end before anything that could fail.
#[track_caller]
fn check_text(user_data: &str, secret_key: &str) {
    println!("user-data for AWS: {} bytes of {}", user_data.len(), 16 << 10);
    assert!(user_data.len() < 16 << 10);
    assert!(!secret::has_header(user_data.as_bytes()) && !user_data.contains(secret_key));
    let at = |text: &str| user_data.find(text).unwrap_or_else(|| panic!("no {text:?}"));
    assert!(at("until is_mine") < at("keep ec2mpi-deadline") && at("keep ec2mpi-deadline") < at("fetch \"$url\""));
}

#[test]
fn what_is_missing_or_wrong_is_said_before_anything_is_launched() {
    let site = Site::new();
    let nothing = site.run(&["--cloud", "aws", "create", "x", "--nodes", "1"]);
    nothing.refused(&[1], &["--region", "--image", "--subnet", "--security-group", "--instance-profile", "--bucket"]);
    assert!(site.traces().is_empty(), "nothing was started: {:?}", site.traces());

    let aws = Rehearsal::new(&site);
    let with = |more: &[&str]| aws.run(&[more, &["create", "x", "--nodes", "1"]].concat());
    with(&["--region", "mars-north-1", "--document-certificate", "/no/such.pem"]).refused(&[1], &["/no/such.pem"]);
    with(&["--subnet", "subnet-0123456789abcdef0"]).refused(&[1], &["subnet-0123456789abcdef0"]);
    let mut wrong_key = aws.command(&["create", "x", "--nodes", "1"]);
    wrong_key.env("AWS_SECRET_ACCESS_KEY", "wrong");
    site.start_command(wrong_key).wait(seconds(60)).refused(&[1], &["does not authorize"]);

    let text = fs::read_to_string(site.path("config.toml")).unwrap();
    let without = |key: &str| text.lines().filter(|line| !line.starts_with(key)).collect::<Vec<_>>().join("\n");
    for (changed, words) in [
        (format!("{text}colour = 1\n"), &["colour", "config.toml"][..]),
        (text.replace("bucket = \"ec2mpi\"", "bucket = 7"), &["bucket", "config.toml", "string"]),
        (without("advertise"), &["--advertise"]),
        (without("document_certificate"), &["--document-certificate", "local-1"]),
        (without("bucket"), &["--bucket", "EC2MPI_BUCKET"]),
    ] {
        fs::write(site.path("config.toml"), changed).unwrap();
        with(&[]).refused(&[1], words);
    }
    assert!(stranger::instances(&site).is_empty(), "{:?}", stranger::instances(&site));
}

const LIFE: f64 = 20.0;

#[test]
fn machines_end_themselves_when_their_time_is_over() {
    let site = Site::new();
    site.run(&["create", "brief", "--nodes", "2", "--ttl", &format!("{LIFE}s")]).ok();
    let status = site.status("brief");
    let born = status["created_at"].as_f64().unwrap();
    assert_eq!(status["expires_at"].as_f64().unwrap(), (born + LIFE).ceil());
    site.run(&["exec", "brief", "--", "sh", "-c", "echo last words > late"]).ok();
    // A reboot does not give it more time.
    let server = ec2mpi_tests::ec2_server::Ec2Server::local_running(&site);
    let rebooted = status["nodes"][1]["instance_id"].as_str().unwrap();
    server.call("ec2", "reboot_instances", &json!({"InstanceIds": [rebooted]}));
    // Whoever watches over the coordinator is not needed for it.
    site.run(&["stop"]).ok();

    until(seconds(60), "both machines have ended", || {
        let left = stranger::instances(&site).into_iter().filter(|one| one.state != "terminated").count();
        (left == 0).then_some(())
    });
    let took = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - born;
    println!("a time to live of {LIFE} s: both machines terminated {took:.1} s after create, one of them rebooted");
    assert!((LIFE..LIFE + 20.0).contains(&took), "{took}");
    let answer = server.call("ec2", "describe_instances", &json!({}));
    for instance in answer["Reservations"][0]["Instances"].as_array().unwrap() {
        assert_eq!(instance["StateReason"]["Code"], "Client.InstanceInitiatedShutdown", "{instance}");
    }
    assert_eq!(stranger::object(&site, "brief/late"), b"last words\n");

    until(seconds(20), "the coordinator has seen the end", || {
        let status = site.status("brief");
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["state"] == "gone").then_some(())
    });
    let destroyed = site.run(&["destroy", "brief"]).ok();
    assert!(destroyed.contains("0 left"), "{destroyed}");
}
