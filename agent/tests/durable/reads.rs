//! What readers ask S3 for: nothing twice, much at a time, and little where little is read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ec2mpi_tests::lab::Faults;
use ec2mpi_tests::lab::Traffic;

use crate::place::{Mount, Place};

const MIB: usize = 1 << 20;
/// Larger than what is fetched whole for whoever reads any of it.
const SIZE: usize = 100 * MIB;
/// Room for listings and the like.
const BESIDE: u64 = 64 << 10;

/// Bytes that tell where they are.
fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes as u64 / 8).flat_map(u64::to_le_bytes).collect()
}

/// A large object, and a mount that knows nothing.
fn place(name: &str) -> (Place, Mount, Vec<u8>) {
    let (place, bytes) = (Place::new(name), numbered(SIZE));
    place.insert("large", &bytes);
    let mount = place.mount("a", |_| {});
    (place, mount, bytes)
}

fn read_in_order(mount: &Mount, expected: &[u8], call: usize) {
    let mut file = File::open(mount.path("large")).unwrap();
    let mut buffer = vec![0; call];
    for (index, chunk) in expected.chunks(call).enumerate() {
        file.read_exact(&mut buffer[..chunk.len()]).unwrap();
        assert!(buffer[..chunk.len()] == *chunk, "call {index} of {call} bytes");
    }
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
}

fn cost(place: &Place, work: impl FnOnce()) -> (Traffic, Duration) {
    let (before, begun) = (place.lab.traffic(), Instant::now());
    work();
    (place.lab.traffic().since(&before), begun.elapsed())
}

#[test]
fn a_sequential_reader_asks_for_no_byte_twice_and_for_many_at_a_time() {
    for call in [64 << 10, MIB] {
        let (place, mount, bytes) = place("in-order");
        let latency = Duration::from_millis(400);
        place.lab.set(Faults { latency_ms: 400, ..Faults::default() });
        let (cost, took) = cost(&place, || read_in_order(&mount, &bytes, call));
        println!("calls of {call} bytes: {} GETs of {} bytes in {took:?}", cost.get, cost.received);
        assert!((SIZE as u64..SIZE as u64 + BESIDE).contains(&cost.received), "{} bytes", cost.received);
        assert!((8..60).contains(&cost.get), "{} GETs", cost.get);
        let one_by_one = latency * u32::try_from(cost.get).unwrap();
        assert!(took < one_by_one / 2, "{took:?} for {} GETs", cost.get);
    }
}

#[test]
fn who_looks_at_the_beginning_gets_little() {
    let (place, mount, bytes) = place("beginning");
    let (cost, _) = cost(&place, || {
        let mut page = [0; 4096];
        File::open(mount.path("large")).unwrap().read_exact_at(&mut page, 0).unwrap();
        assert!(page == bytes[..4096]);
        std::thread::sleep(Duration::from_millis(300));
    });
    assert_eq!(cost.get, 1);
    assert!(cost.received <= (256 << 10) + BESIDE, "{} bytes", cost.received);
}

#[test]
fn answers_that_break_off_are_gone_on_with() {
    let (place, mount, bytes) = place("broken");
    place.lab.set(Faults { cut: 0.3, ..Faults::default() });
    let (cost, took) = cost(&place, || read_in_order(&mount, &bytes, MIB));
    println!("{} GETs, {} answers cut, {took:?}", cost.get, place.lab.counts().cut);
    assert!(place.lab.counts().cut > 3);
}
