//! What works cost in requests to S3, which are the user's bill.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, Instant};

use ec2mpi_agent::volume::store::memory::Operation;

use crate::lab::{Lab, eventually, pattern};

const FILES: usize = 300;

/// HEADs and LISTs so far.
fn questions(lab: &Lab) -> usize {
    lab.store.calls(Operation::Head) + lab.store.calls(Operation::List)
}

fn create(mount: &crate::lab::Mount, dir: &str) {
    for index in 0..FILES {
        mount.write(&format!("{dir}/new-{index}"), b"some");
    }
}

#[test]
fn files_in_a_new_directory_cost_a_put_each_and_no_question() {
    let lab = Lab::new();
    let mount = lab.mount();
    lab.store.set_latency(Duration::from_millis(20));
    fs::create_dir(mount.path("made")).unwrap();
    let begun = Instant::now();
    create(&mount, "made");
    // A listing and a look at the directory's own name for every second that it takes.
    let bound = 10 + 6 * usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(questions(&lab) <= bound, "{} questions in {:?}", questions(&lab), begun.elapsed());
    mount.drain();
    assert_eq!(lab.store.calls(Operation::Put), FILES + 1, "one for each file, and the directory's");
    assert_eq!(lab.store.keys().len(), FILES + 1);
}

#[test]
fn a_listing_answers_for_new_names_and_for_no_longer_than_the_attribute_time() {
    let lab = Lab::new();
    (0..50).for_each(|index| lab.insert(&format!("d/old-{index}"), b"theirs"));
    let mount = lab.mount();
    let begun = Instant::now();
    create(&mount, "d");
    assert!(questions(&lab) <= 12 + 6 * usize::try_from(begun.elapsed().as_secs()).unwrap(), "{}", questions(&lab));
    assert_eq!(mount.read("d/old-7"), b"theirs", "what the listing has is there");
    lab.insert("d/theirs", b"theirs");
    let made = Instant::now();
    eventually("a file made elsewhere is seen", || mount.path("d/theirs").exists());
    assert!(made.elapsed() < Duration::from_millis(1500), "{:?}", made.elapsed());
    mount.epoch();
    lab.insert("d/later", b"theirs");
    mount.epoch();
    assert!(mount.path("d/later").exists(), "nothing that was asked before an epoch is trusted");
    mount.drain();
    assert_eq!(lab.store.keys().len(), 50 + FILES + 2);
}

#[test]
fn with_an_attribute_time_of_zero_every_name_is_asked_about() {
    let lab = Lab::new();
    let mut options = lab.options("a");
    options.attr_ttl = Duration::ZERO;
    let mount = lab.mount_options(options);
    fs::create_dir(mount.path("made")).unwrap();
    mount.drain();
    create(&mount, "made");
    assert!(lab.store.calls(Operation::Head) >= FILES);
    lab.insert("made/theirs", b"theirs");
    assert_eq!(mount.read("made/theirs"), b"theirs");
}

/// A large object that is here: only the parts that were written to are sent, S3 copies the others.
#[test]
fn a_change_of_a_large_file_sends_the_parts_that_it_touches() {
    let lab = Lab::new();
    let mut bytes = pattern((100 << 20) + 77, 9);
    lab.insert("large", &bytes);
    let mount = lab.mount();
    assert!(mount.read("large") == bytes);
    let file = fs::File::options().write(true).open(mount.path("large")).unwrap();
    let mut change = |at: usize| {
        file.write_all_at(&[1; 5000], at as u64).unwrap();
        bytes[at..at + 5000].fill(1);
    };
    // In two parts of seven, one of them at the edge of a third.
    change(1 << 20);
    change((32 << 20) - 2500);
    file.sync_all().unwrap();
    let calls = |operation| lab.store.calls(operation);
    assert_eq!((calls(Operation::MultipartPut), calls(Operation::MultipartCopy)), (3, 4));
    // The next change is one of the version that is there now.
    change(90 << 20);
    file.sync_all().unwrap();
    assert_eq!((calls(Operation::MultipartPut), calls(Operation::MultipartCopy)), (4, 10));
    assert!(lab.body("large") == bytes && mount.read("large") == bytes);
    // Longer, and cut and made longer again.
    file.set_len(60 << 20).unwrap();
    file.set_len((100 << 20) + 99).unwrap();
    bytes.resize(60 << 20, 0);
    bytes.resize((100 << 20) + 99, 0);
    file.sync_all().unwrap();
    assert_eq!((calls(Operation::MultipartPut), calls(Operation::MultipartCopy)), (8, 13));
    assert!(lab.body("large") == bytes);
    assert_eq!((calls(Operation::Put), calls(Operation::Copy)), (0, 0));
}

/// Somebody else's version is never mixed with ours.
#[test]
fn a_change_of_a_large_file_that_somebody_replaced_is_sent_whole() {
    let lab = Lab::new();
    let mut bytes = pattern(70 << 20, 3);
    lab.insert("large", &bytes);
    let mount = lab.mount();
    assert!(mount.read("large") == bytes);
    let file = fs::File::options().write(true).open(mount.path("large")).unwrap();
    file.write_all_at(b"ours", 0).unwrap();
    bytes[..4].copy_from_slice(b"ours");
    lab.insert("large", b"theirs");
    drop(file);
    mount.drain();
    assert_eq!(lab.body("large"), b"theirs");
    let copy = lab.store.keys().into_iter().find(|key| key.contains(".conflict-")).unwrap();
    assert!(lab.body(&copy) == bytes);
    assert_eq!(lab.store.keys().len(), 2);
}

#[test]
fn attributes_set_before_the_upload_begins_go_up_with_the_file() {
    let lab = Lab::new();
    let mount = lab.mount();
    fs::create_dir(mount.path("made")).unwrap();
    mount.drain();
    // As many uploads as there may be at a time, and they take long: what comes later waits.
    lab.store.set_latency(Duration::from_secs(2));
    (0..128).for_each(|index| mount.write(&format!("made/first-{index}"), b"some"));
    for index in 0..20 {
        let path = mount.path(&format!("made/later-{index}"));
        fs::write(&path, b"some").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o754)).unwrap();
    }
    lab.store.set_latency(Duration::ZERO);
    mount.drain();
    assert_eq!(lab.store.calls(Operation::Copy), 0);
    assert_eq!(lab.store.calls(Operation::Put), 1 + 128 + 20);
    assert_eq!(lab.metadata("made/later-7", "mode"), (libc::S_IFREG | 0o754).to_string());
}

#[test]
fn attributes_of_new_directories_cost_no_question_and_are_gathered() {
    let lab = Lab::new();
    let mount = lab.mount();
    assert!(mount.names("").is_empty());
    lab.store.set_latency(Duration::from_millis(200));
    fs::create_dir(mount.path("made")).unwrap();
    let before = lab.store.calls(Operation::Head);
    for mode in [0o700, 0o710, 0o711, 0o751] {
        fs::set_permissions(mount.path("made"), fs::Permissions::from_mode(mode)).unwrap();
    }
    mount.drain();
    assert_eq!(lab.store.calls(Operation::Head), before);
    let puts = lab.store.calls(Operation::Put);
    assert!(puts <= 3, "{puts} PUTs for a directory and its attributes");
    assert_eq!(lab.metadata("made/", "mode"), (libc::S_IFDIR | 0o751).to_string());
}

#[test]
fn the_status_counts_requests() {
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("f", b"some");
    mount.drain();
    let requests = mount.volume.as_ref().unwrap().status().requests;
    assert_eq!((requests.put, requests.copy, requests.delete), (1, 0, 0));
    assert_eq!(requests.head + requests.list, questions(&lab) as u64);
}
