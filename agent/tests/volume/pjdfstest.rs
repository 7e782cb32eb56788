//! pjdfstest, as root on a mount. What must fail is written down with its reason, and nothing else may.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::lab::{Lab, Mount, tool};

/// Names of tests below the reason why they fail.
const EXPECTED: &str = include_str!("pjdfstest.txt");
/// All that the suite has for Linux, but for one that needs a limit on links.
const LEAST_RUN: usize = 397;

const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = REMOUNT
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Some of the tests mount the file system anew, read-only, which needs mount(8)'s helper. In a namespace of its own.
const WITH_HELPER: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1/up" "$1/work"
mount -t overlay none -o "lowerdir=/usr/sbin,upperdir=$1/up,workdir=$1/work" /usr/sbin
ln -s "$2" /usr/sbin/mount.fuse.ec2mpi
shift 2
exec "$@"
"#;

/// Each name with its reason, the comment above it.
fn expected() -> BTreeMap<&'static str, &'static str> {
    let mut reason = "";
    let mut names = BTreeMap::new();
    for line in EXPECTED.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix('#') {
            Some(text) => reason = text.trim(),
            None => {
                assert!(!reason.is_empty(), "{line} has no reason");
                assert!(names.insert(line, reason).is_none(), "{line} is there twice");
            }
        }
    }
    names
}

/// `name  outcome` lines, without colours.
fn outcomes(text: &str) -> BTreeMap<String, String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\x1b') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    let lines = plain.lines().filter_map(|line| {
        let (name, outcome) = line.split_once(char::is_whitespace)?;
        let outcome = outcome.trim();
        (name.contains("::") && ["ok", "FAILED", "skipped"].contains(&outcome))
            .then(|| (name.to_owned(), outcome.to_owned()))
    });
    lines.collect()
}

/// Runs the tests of one pattern, or all, which may mount the file system anew or not.
fn run(lab: &Lab, mount: &Mount, pattern: Option<&str>) -> BTreeMap<String, String> {
    let configuration = lab.dir.path().join("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION.replace("REMOUNT", if pattern.is_some() { "true" } else { "false" }))
        .unwrap();
    let (second, helpers) = (lab.dir.path().join("second"), lab.dir.path().join("helpers"));
    std::fs::create_dir_all(&second).unwrap();
    std::fs::create_dir_all(&helpers).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITH_HELPER, "sh"]).arg(&helpers).arg(env!("CARGO_BIN_EXE_ec2mpi-agent"));
    command.arg(tool("pjdfstest")).arg("-c").arg(&configuration).arg("-p").arg(&mount.root).arg("-s").arg(&second);
    let output = command.args(pattern).env("RUST_BACKTRACE", "0").output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stderr));
    outcomes(&String::from_utf8_lossy(&output.stdout))
}

#[test]
fn all_of_pjdfstest_but_what_is_written_down() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut outcomes = run(&lab, &mount, None);
    // The suite leaves files open for writing, after which nothing can become read-only: a run of their own.
    outcomes.extend(run(&lab, &mount, Some("erofs")));
    let of = |wanted: &str| -> BTreeSet<&str> {
        outcomes.iter().filter(|(_, outcome)| *outcome == wanted).map(|(name, _)| name.as_str()).collect()
    };
    let (passed, failed, skipped) = (of("ok"), of("FAILED"), of("skipped"));
    println!("pjdfstest: {} passed, {} failed, skipped {skipped:?}", passed.len(), failed.len());
    let expected: BTreeSet<&str> = expected().into_keys().collect();
    let surprises: Vec<_> = failed.difference(&expected).collect();
    let healed: Vec<_> = expected.difference(&failed).collect();
    assert!(surprises.is_empty(), "these fail and are not written down: {surprises:#?}");
    assert!(healed.is_empty(), "these are written down and do not fail: {healed:#?}");
    assert!(passed.len() + failed.len() >= LEAST_RUN, "only {} ran", passed.len() + failed.len());
}
