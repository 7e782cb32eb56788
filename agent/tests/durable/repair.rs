//! `ec2mpi-agent repair` on what a dead node left: in the bucket, in its journal, in its lost+found.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use ec2mpi_tests::lab::{Faults, Outage};

use crate::place::Place;

const MIB: usize = 1 << 20;
/// Over what the cache may have of dirty bytes.
const LARGE: usize = 96 * MIB;

/// Whether it went well, and what it said.
fn repair(place: &Place, cache: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ec2mpi-agent"));
    command.args(["repair", "--endpoint", &place.lab.endpoint(), "--cache-dir"]).arg(cache).args(arguments);
    let output = command.arg(place.source()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn findings(place: &Place, cache: &Path, arguments: &[&str]) -> serde_json::Value {
    let (ok, said) = repair(place, cache, &[arguments, &["--json", "--older-than-hours", "0"]].concat());
    assert!(ok, "{said}");
    serde_json::from_str(&said).unwrap()
}

/// A node that dies with a file that could not be uploaded, some of whose parts are in S3 only, and one that S3 does not
/// know of.
fn dead_node(place: &Place) -> usize {
    let mut agent = place.start("a", &["--cache-size", "67108864"], &[]);
    assert!(agent.is_ready());
    let mut file = File::create(agent.root.join("large")).unwrap();
    (0..LARGE / MIB).for_each(|number| file.write_all(&vec![number as u8; MIB]).unwrap());
    let parts = place.keys();
    assert!(parts.len() > 1 && parts.iter().all(|key| key.starts_with(".ec2mpi-spill/")), "{parts:?}");
    // Somebody cleans up who should not.
    place.remove(&parts[0]);
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    drop(file);
    let answer = agent.drain();
    assert!(!answer.ok && answer.status.lost_found_files == 1, "{answer:?}");
    // Now the names in here are known, and new ones can be made without S3.
    fs::read_dir(&agent.root).unwrap().count();
    place.lab.set(Faults { outage: Some(Outage::Reset), ..Faults::default() });
    fs::write(agent.root.join("late"), b"late").unwrap();
    agent.kill();
    place.lab.set(Faults::default());
    parts.len() - 1
}

#[test]
fn repair_tells_what_a_dead_node_has_and_keeps_what_it_needs() {
    let place = Place::new("repair");
    let kept = dead_node(&place);
    let cache = place.dir.path().join("cache-a");
    let found = findings(&place, &cache, &["--delete"]);
    assert_eq!(found["unfinished"], serde_json::json!(["upload late"]), "{found}");
    assert!(found["lost"].as_array().unwrap().len() == 1 && found["lost"][0].as_str().unwrap().ends_with("-large"));
    assert_eq!((&found["deleted"], place.keys().len()), (&0.into(), kept), "{found}");
    // A torn end is told and left as it is.
    let journal = cache.join("journal");
    let whole = fs::read(&journal).unwrap();
    fs::write(&journal, [&whole[..], &[9, 0, 0, 0, 1]].concat()).unwrap();
    let found = findings(&place, &cache, &[]);
    assert_eq!((&found["torn_bytes"], &found["unfinished"][0]), (&5.into(), &"upload late".into()));
    assert!(!cache.join("journal.torn").exists());
    // One of a later program, and one that is none, are errors, and nothing is removed.
    for (bytes, says) in [(b"EC2MPIJL\x63\0\0\0", "version"), (b"something el", "not a journal")] {
        fs::write(&journal, bytes).unwrap();
        let (ok, said) = repair(&place, &cache, &["--delete", "--older-than-hours", "0"]);
        assert!(!ok && said.contains(says), "{said}");
        assert_eq!(place.keys().len(), kept);
    }
    // The next mount brings what the journal has, and lost+found keeps its parts.
    fs::write(&journal, &whole).unwrap();
    let mut agent = place.start("a", &[], &[]);
    assert!(agent.is_ready(), "{}", agent.log());
    assert!(agent.drain().ok);
    assert_eq!(place.object("late").unwrap(), b"late");
    assert_eq!(place.keys().len(), kept + 1);
}
