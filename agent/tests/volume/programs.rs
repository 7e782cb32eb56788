//! What programs do: compile, run, map, checksum in loops.

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

/// Checks the mapped bytes, closes the descriptor, stores through the mapping, unmaps. Another process than this one:
/// a page fault on a mount that the faulting process serves itself holds a lock that the serving needs.
const MAPPER: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
  size_t n = (size_t)atol(argv[3]);
  int f = open(argv[1], O_RDWR), g = open(argv[2], O_RDONLY);
  char *expected = malloc(n);
  if (f < 0 || g < 0 || read(g, expected, n) != (ssize_t)n) return 1;
  char *m = mmap(0, n, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  if (m == MAP_FAILED) return 2;
  if (memcmp(m, expected, n)) return 3;
  close(f);
  memcpy(m + 50000, "mapped", 6);
  return munmap(m, n) ? 4 : 0;
}
"#;

#[test]
fn a_shared_mapping_is_read_and_written() {
    let lab = Lab::new();
    let mut expected = pattern(100_000, 9);
    lab.insert("m", &expected);
    let local = lab.dir.path().join("expected");
    std::fs::write(&local, &expected).unwrap();
    std::fs::write(lab.dir.path().join("map.c"), MAPPER).unwrap();
    let build = Command::new("cc").args(["-o", "map", "map.c"]).current_dir(lab.dir.path()).status().unwrap();
    assert!(build.success());
    let mount = lab.mount();
    let status =
        Command::new(lab.dir.path().join("map")).arg(mount.path("m")).arg(&local).arg("100000").status().unwrap();
    assert_eq!(status.code(), Some(0));
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
        if round % 7 == 6 {
            let (name, _) = expected.pop_first().unwrap();
            std::fs::remove_file(mount.path(&name)).unwrap();
        }
        if round % 13 == 0 {
            mount.epoch();
        }
        if let Some((name, bytes)) = expected.iter().nth(round % expected.len().max(1)) {
            assert!(mount.read(name) == *bytes, "round {round}, {name}");
        }
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

/// The last close and the rename race: whoever comes first, the bytes end up under the new name.
#[test]
fn written_and_renamed_at_once() {
    let lab = Lab::new();
    let mount = lab.mount();
    for round in 0..200_u8 {
        mount.write("part", &[round; 64]);
        std::fs::rename(mount.path("part"), mount.path(&format!("final-{}", round % 10))).unwrap();
    }
    mount.drain();
    assert_eq!(lab.store.keys(), (0..10).map(|index| format!("final-{index}")).collect::<Vec<_>>());
    for index in 0..10_u8 {
        assert_eq!(lab.body(&format!("final-{index}")), [190 + index; 64]);
    }
    assert_eq!(mount.ask(&ec2mpi_agent::volume::control::Request::Status).status.conflicts, 0);
}
