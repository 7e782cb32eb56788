//! Programs in Python, whose S3 is boto3's.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::service::Service;

/// Checks of s3probe.py that fail here: what they are about does not exist, and says so.
const NOT_HERE: [&str; 5] =
    ["object tagging", "versioning enable", "rename_object", "append WriteOffsetBytes", "lifecycle abort-mpu"];

/// So many checks has s3probe.py.
const CHECKS: usize = 97;

/// So many tests has s3_operations.py.
const OPERATION_TESTS: usize = 31;

const RACE: &str = "race 16x PUT If-None-Match * (1 winner), 10 rounds";

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs")
}

/// Runs a program of `tests/programs` with the Python that has boto3; what it printed, and whether it succeeded.
fn run(program: &str, arguments: &[&str]) -> (String, bool) {
    let own = std::env::current_exe().unwrap();
    let python = own.parent().unwrap().join("../../venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make setup`", python.display());
    let output = Command::new("timeout")
        .arg("180")
        .arg(python)
        .arg("-B")
        .arg(programs().join(program))
        .args(arguments)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&printed).into_owned(), output.status.success())
}

/// What is wrong with the output of s3probe.py.
fn judge(output: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let results: Vec<(bool, &str)> = output.lines().filter_map(result).collect();
    if results.len() != CHECKS {
        wrong.push(format!("{} checks ran instead of {CHECKS}", results.len()));
    }
    for (passed, line) in results {
        match (passed, NOT_HERE.iter().any(|name| line.starts_with(&format!("{name}: ")))) {
            (false, false) => wrong.push(format!("failed: {line}")),
            (true, true) => wrong.push(format!("passed, though it is in the list of what is not here: {line}")),
            (true, false) | (false, true) => {}
        }
    }
    let one_each = format!("[ok ] {RACE}: {:?}", [1; 10]);
    if !output.lines().any(|line| line == one_each) {
        wrong.push("a race did not have one winner in each of 10 rounds".to_owned());
    }
    wrong
}

/// Whether a check passed, and its line from the name on.
fn result(line: &str) -> Option<(bool, &str)> {
    let passed = line.strip_prefix("[ok ] ").map(|rest| (true, rest));
    passed.or_else(|| line.strip_prefix("[BAD] ").map(|rest| (false, rest)))
}

#[test]
fn the_probe_passes_but_for_what_is_not_here() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path());
    let endpoint = format!("http://{}", service.client.address);
    let (output, success) = run("s3probe.py", &[&endpoint, "probe", "permanent:secret"]);
    println!("{output}");
    assert!(success, "{output}");
    let wrong = judge(&output);
    assert!(wrong.is_empty(), "{wrong:#?}\n{output}");
}

#[test]
fn the_judge_of_the_probe_is_strict() {
    let race = format!("[ok ] {RACE}: {:?}\n", [1; 10]);
    let right: String = NOT_HERE.iter().map(|name| format!("[BAD] {name}: EXC 501\n")).collect();
    let passed: String = (0..CHECKS - NOT_HERE.len() - 1).map(|n| format!("[ok ] check {n}: 200\n")).collect();
    let output = [race, right, passed].concat();
    assert_eq!(judge(&output), [""; 0]);
    let changed = |from: &str, to: &str| judge(&output.replacen(from, to, 1)).len();
    assert_eq!(changed("[ok ] check 7:", "[BAD] check 7:"), 1, "a check that failed");
    assert_eq!(changed("[BAD] rename_object", "[ok ] rename_object"), 1, "a listed one that passed");
    assert_eq!(changed("[ok ] check 7: 200\n", ""), 1, "one that did not run");
    assert_eq!(changed("[1, 1,", "[1, 2,"), 1, "two winners");
}

#[test]
fn the_operations_do_what_they_do_on_s3() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path());
    let endpoint = format!("http://{}", service.client.address);
    let keys = ["permanent:secret", "temporary:secret:token/+=", "expired:secret:token/+="];
    let (output, success) = run("s3_operations.py", &[&[endpoint.as_str(), "bkt"], keys.as_slice()].concat());
    println!("{output}");
    assert!(success && output.contains(&format!("Ran {OPERATION_TESTS} tests")), "{output}");
}

#[test]
fn the_validator_of_replies_finds_what_is_wrong() {
    let (output, success) = run("validate_test.py", &[]);
    assert!(success && output.contains("OK"), "{output}");
}
