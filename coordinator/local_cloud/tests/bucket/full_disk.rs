//! A disk that is full. It is a tmpfs in a mount namespace of its own, which goes with the process that holds it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::service::{Service, files};

const DISK: usize = 16 << 20;
const OBJECT: usize = 1 << 20;

/// A mount namespace where `s3` below a directory is a small disk.
struct SmallDisk {
    holder: Child,
    directory: PathBuf,
}

impl SmallDisk {
    fn new(directory: &Path) -> Self {
        fs::create_dir(directory.join("s3")).unwrap();
        let script =
            format!("mount -t tmpfs -o size={DISK} ec2mpi-test \"$0\"/s3 && : >\"$0\"/mounted && exec sleep 600");
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .arg(directory)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut disk = Self { holder, directory: directory.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !directory.join("mounted").exists() {
            assert!(disk.holder.try_wait().unwrap().is_none(), "no disk: is this root?");
            assert!(Instant::now() < deadline, "the disk was not mounted");
            thread::sleep(Duration::from_millis(5));
        }
        disk
    }

    /// A service that sees the disk.
    fn service(&self) -> Service {
        let target = self.holder.id().to_string();
        Service::start_by(&self.directory, &["nsenter", "--mount", "--target", &target, "--"])
    }

    /// The disk, as seen from outside.
    fn path(&self, rest: &str) -> PathBuf {
        let directory = self.directory.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(directory).join("s3").join(rest)
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn body(number: usize) -> Vec<u8> {
    format!("object {number:08}\n").into_bytes().into_iter().cycle().take(OBJECT).collect()
}

fn is_full(reply: &Reply) {
    assert_eq!((reply.status, reply.one("Code").as_str()), (507, "InsufficientStorage"), "{}", reply.text());
    assert!(reply.one("Message").contains("full"), "{}", reply.text());
}

/// Objects 0 and up are there, whole, and nothing else.
fn holds(client: &Client, objects: usize) {
    assert_eq!(client.list(1000).len(), objects);
    for number in 0..objects {
        assert!(client.get(&format!("{number:02}")).unwrap().body == body(number), "object {number} has changed");
    }
}

#[test]
fn a_full_disk_refuses_cleanly_and_can_be_cleared() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(directory.path());
    let mut service = disk.service();
    let client = service.client.clone();
    let upload = client.send("POST", "/bkt/upload", "uploads", &[], b"").unwrap().one("UploadId");

    let mut objects = 0;
    let refusal = loop {
        let reply = client.put(&format!("{objects:02}"), &[], &body(objects)).unwrap();
        if reply.status != 200 {
            break reply;
        }
        objects += 1;
        assert!(objects <= DISK / OBJECT, "the disk never was full");
    };
    assert!(objects > DISK / OBJECT / 2, "only {objects} objects");
    is_full(&refusal);
    is_full(&client.put("00", &[], &body(99)).unwrap());
    let part = format!("partNumber=1&uploadId={upload}");
    is_full(&client.send("PUT", "/bkt/upload", &part, &[], &body(99)).unwrap());
    assert_eq!(files(&disk.path("blobs")), objects, "what was refused left a file");
    holds(&client, objects);

    // Not a byte is left: what needs none goes on, what frees some too.
    disk.fill();
    is_full(&client.put("empty", &[], b"x").unwrap());
    holds(&client, objects);
    service.kill();
    drop(service);
    service = disk.service();
    let client = service.client.clone();
    holds(&client, objects);
    is_full(&client.put("empty", &[], b"x").unwrap());
    for number in (objects - 2..objects).rev() {
        assert_eq!(client.delete(&format!("{number:02}")).unwrap().status, 204);
    }
    assert_eq!(client.put(&format!("{:02}", objects - 2), &[], &body(objects - 2)).unwrap().status, 200);
    holds(&client, objects - 1);
    let aborted = client.send("DELETE", "/bkt/upload", &format!("uploadId={upload}"), &[], b"").unwrap();
    assert_eq!(aborted.status, 204);
    println!(
        "{objects} objects of {OBJECT} bytes on a disk of {DISK}, then 507; all whole, deletions and restart on it"
    );
}
