//! Objects larger than the memory they may take.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use md5::{Digest, Md5};

use crate::client::{Client, finish};
use crate::is_soak;
use crate::service::Service;

const BLOCK: usize = 1 << 20;

/// The memory that may be taken for bodies on their way, in KiB: far less than an object.
const MAY_GROW: u64 = 48 << 10;

#[test]
fn memory_does_not_grow_with_the_object() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path());
    let blocks = if is_soak() { 1024 } else { 128 };
    // The first one also pays for what is allocated once.
    let (start, peak) = (service.memory("VmRSS"), |name: &str| service.memory(name));
    assert_eq!(put(&service.client, "warm", 4), get(&service.client, "warm", 4));
    let before = peak("VmHWM");
    let sum = put(&service.client, "large", blocks);
    let after_put = peak("VmHWM");
    assert_eq!(get(&service.client, "large", blocks), sum);
    let after_get = peak("VmHWM");
    println!(
        "RSS: {start} KiB at the start; peak {before} KiB before, {after_put} KiB after the PUT and {after_get} KiB \
         after the GET of {blocks} MiB"
    );
    assert!(after_get - before < MAY_GROW, "the peak grew from {before} to {after_get} KiB");
}

/// Writes an object of so many blocks, no two the same; the sum of its bytes.
fn put(client: &Client, key: &str, blocks: u64) -> String {
    let length = blocks * BLOCK as u64;
    let mut stream = client.begin("PUT", &format!("/bkt/{key}"), "", &[], length).unwrap();
    let (mut block, mut sum) = (vec![7; BLOCK], Md5::new());
    for number in 0..blocks {
        block[..8].copy_from_slice(&number.to_be_bytes());
        sum.update(&block);
        stream.write_all(&block).unwrap();
    }
    let reply = finish(stream).unwrap();
    let sum = hex::encode(sum.finalize());
    assert_eq!((reply.status, &reply.headers["etag"]), (200, &format!("\"{sum}\"")));
    sum
}

/// Reads an object of so many blocks; the sum of its bytes.
fn get(client: &Client, key: &str, blocks: u64) -> String {
    let mut stream = client.begin("GET", &format!("/bkt/{key}"), "", &[], 0).unwrap();
    let head = head(&mut stream).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (mut block, mut sum, mut left) = (vec![0; BLOCK], Md5::new(), blocks * BLOCK as u64);
    loop {
        let read = stream.read(&mut block).unwrap();
        if read == 0 {
            break;
        }
        sum.update(&block[..read]);
        left -= read as u64;
    }
    assert_eq!(left, 0, "the reply was cut off");
    hex::encode(sum.finalize())
}

/// The head of a reply, up to its empty line.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
