//! What programs do: compile, run, map, checksum in loops.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::process::Command;

use crate::lab::{Lab, pattern};

#[test]
fn a_program_is_compiled_and_run_from_the_mount() {
    let lab = Lab::new();
    let mount = lab.mount();
    let source = b"#include <stdio.h>\nint main(void) { puts(\"from the volume\"); return 7; }\n";
    mount.write("main.c", source);
    let compiled = Command::new("cc").args(["-O1", "-o", "main", "main.c"]).current_dir(&mount.root).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let run = Command::new(mount.path("main")).output().unwrap();
    assert_eq!((run.stdout.as_slice(), run.status.code()), (&b"from the volume\n"[..], Some(7)));
    mount.drain();
    let other = lab.elsewhere();
    let run = Command::new(other.path("main")).output().unwrap();
    assert_eq!((run.stdout.as_slice(), run.status.code()), (&b"from the volume\n"[..], Some(7)));
}

struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(file: &File, length: usize) -> Self {
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a fresh mapping of an open file of at least that length.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, shared, file.as_raw_fd(), 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { start: start.cast(), length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is of this length, and borrowed as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

#[test]
fn a_shared_mapping_is_read_and_written() {
    let lab = Lab::new();
    let mut expected = pattern(100_000, 9);
    lab.insert("m", &expected);
    let mount = lab.mount();
    let file = OpenOptions::new().read(true).write(true).open(mount.path("m")).unwrap();
    let mut mapping = Mapping::new(&file, expected.len());
    assert!(mapping.bytes() == expected);
    drop(file);
    mapping.bytes()[50_000..50_006].copy_from_slice(b"mapped");
    drop(mapping);
    expected[50_000..50_006].copy_from_slice(b"mapped");
    assert!(mount.read("m") == expected);
    // The last reference to the file goes after munmap returned: wait for the kernel's release.
    crate::lab::eventually("the store through the mapping is in S3", || {
        mount.drain();
        lab.body("m") == expected
    });
}

#[test]
fn tar_and_checksums_agree_with_the_local_disk() {
    let lab = Lab::new();
    let mount = lab.mount();
    let source = lab.dir.path().join("source");
    for index in 0..60 {
        let dir = source.join(format!("d{}", index % 7));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("f{index}")), pattern(index * 997, index as u8)).unwrap();
    }
    std::os::unix::fs::symlink("d0/f0", source.join("link")).unwrap();
    let script = "tar -C \"$1\" -cf - . | tar -C \"$2\" -xf - && diff -r \"$1\" \"$2\"";
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(&source).arg(&mount.root).status().unwrap();
    assert!(status.success());
    mount.drain();
    let other = lab.elsewhere();
    assert!(Command::new("diff").arg("-r").args([&source, &other.root]).status().unwrap().success());
}

/// Each round creates, overwrites, renames, reads and deletes, and knows what must be there.
#[test]
fn a_soak_in_a_loop() {
    let lab = Lab::new();
    let mount = lab.mount();
    let mut expected = std::collections::BTreeMap::new();
    for round in 0..150_usize {
        let name = format!("file-{}", round % 23);
        let bytes = pattern((round * 7919) % 200_000, round as u8);
        mount.write(&name, &bytes);
        expected.insert(name.clone(), bytes);
        if round % 5 == 0 {
            let to = format!("moved-{}", round % 11);
            std::fs::rename(mount.path(&name), mount.path(&to)).unwrap();
            let bytes = expected.remove(&name).unwrap();
            expected.insert(to, bytes);
        }
        if round % 7 == 0 {
            let (name, _) = expected.pop_first().unwrap();
            std::fs::remove_file(mount.path(&name)).unwrap();
        }
        if round % 13 == 0 {
            mount.epoch();
        }
        let (name, bytes) = expected.iter().nth(round % expected.len()).unwrap();
        assert!(mount.read(name) == *bytes, "round {round}, {name}");
    }
    mount.drain();
    assert_eq!(lab.store.keys(), expected.keys().cloned().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(lab.body(name) == *bytes, "{name}");
    }
    assert_eq!(mount.ask(&ec2mpi_agent::volume::control::Request::Status).status.conflicts, 0);
}

#[test]
fn threads_write_side_by_side() {
    let lab = Lab::new();
    let mount = lab.mount();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let mount = &mount;
            scope.spawn(move || {
                let dir = format!("t{thread}");
                std::fs::create_dir(mount.path(&dir)).unwrap();
                for index in 0..40_u8 {
                    let name = format!("{dir}/{index}");
                    mount.write(&name, &pattern(5000, thread ^ index));
                    assert!(mount.read(&name) == pattern(5000, thread ^ index), "{name}");
                }
            });
        }
    });
    mount.drain();
    let other = lab.elsewhere();
    for thread in 0..8_u8 {
        assert_eq!(other.names(&format!("t{thread}")).len(), 40);
        assert!(other.read(&format!("t{thread}/39")) == pattern(5000, thread ^ 39));
    }
}
