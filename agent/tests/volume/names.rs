//! Directories, links, moves.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::lab::{Lab, errno, pattern};

#[test]
fn directories_are_markers() {
    let lab = Lab::new();
    let mount = lab.mount();
    fs::create_dir_all(mount.path("a/b/c")).unwrap();
    assert_eq!(errno(fs::create_dir(mount.path("a"))), libc::EEXIST);
    mount.write("a/b/f", b"1");
    assert_eq!(errno(fs::remove_dir(mount.path("a/b"))), libc::ENOTEMPTY);
    mount.drain();
    assert_eq!(lab.store.keys(), ["a/", "a/b/", "a/b/c/", "a/b/f"]);
    let marker = lab.store.object("a/").unwrap().0;
    assert_eq!(marker.headers.content_type.as_deref(), Some("application/x-directory"));
    fs::remove_dir_all(mount.path("a")).unwrap();
    assert!(!mount.path("a").exists());
    mount.drain();
    assert!(lab.store.keys().is_empty());
}

#[test]
fn implicit_directories_are_directories() {
    let lab = Lab::new();
    lab.insert("d/e/one", b"1");
    let mount = lab.mount();
    mount.write("d/e/two", b"2");
    fs::create_dir(mount.path("d/sub")).unwrap();
    assert_eq!(mount.names("d"), ["e", "sub"]);
    assert_eq!(mount.names("d/e"), ["one", "two"]);
    assert_eq!(errno(fs::remove_dir(mount.path("d/e"))), libc::ENOTEMPTY);
    fs::remove_file(mount.path("d/e/one")).unwrap();
    fs::remove_file(mount.path("d/e/two")).unwrap();
    mount.drain();
    assert!(mount.path("d/e").is_dir(), "a directory does not vanish with its last file");
    assert!(lab.elsewhere().path("d/e").is_dir());
    fs::remove_dir(mount.path("d/e")).unwrap();
    assert!(!mount.path("d/e").exists());
    mount.drain();
    assert_eq!(lab.store.keys(), ["d/", "d/sub/"]);
}

#[test]
fn directories_in_all_four_forms() {
    use ec2mpi_agent::volume::store::Headers;
    let lab = Lab::new();
    let put = |key: &str, content_type: &str, mode: Option<u32>| {
        let metadata = mode.map(|mode| ("mode".to_owned(), mode.to_string())).into_iter().collect();
        let headers = Headers { content_type: Some(content_type.to_owned()), metadata, ..Headers::default() };
        lab.store.insert(key, Vec::new(), headers);
    };
    put("marker/", "application/x-directory", Some(0o040_711));
    for name in ["bare", "bare-full", "bare-moved"] {
        put(name, "httpd/unix-directory", Some(0o711));
    }
    for name in ["hadoop", "hadoop-moved"] {
        put(&format!("{name}_$folder$"), "binary/octet-stream", None);
    }
    lab.insert("bare-full/x", b"x");
    lab.insert("implicit/x", b"x");
    let mut options = lab.options("a");
    options.compat_dir = true;
    let mount = lab.mount_options(options);
    let all = ["bare", "bare-full", "bare-moved", "hadoop", "hadoop-moved", "implicit", "marker"];
    assert!(mount.path("hadoop").is_dir(), "without a listing");
    assert_eq!(mount.names(""), all);
    for name in all {
        let mode = mount.path(name).metadata().unwrap().mode();
        let expected = if name.starts_with("hadoop") || name == "implicit" { 0o040_750 } else { 0o040_711 };
        assert_eq!(mode, expected, "{name}");
    }
    assert_eq!((mount.names("bare-full"), mount.names("bare").len()), (vec!["x".to_owned()], 0));
    fs::remove_dir(mount.path("bare")).unwrap();
    fs::remove_dir(mount.path("hadoop")).unwrap();
    for name in ["bare", "hadoop"] {
        fs::rename(mount.path(&format!("{name}-moved")), mount.path(&format!("{name}-there"))).unwrap();
    }
    fs::set_permissions(mount.path("bare-full"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    mount.drain();
    let expected = ["bare-full/", "bare-full/x", "bare-there/", "hadoop-there/", "implicit/x", "marker/"];
    assert_eq!(lab.store.keys(), expected, "what changed has our form, and only that");
    mount.epoch();
    assert_eq!(mount.names(""), ["bare-full", "bare-there", "hadoop-there", "implicit", "marker"]);
    assert_eq!(lab.elsewhere().path("bare-there").metadata().unwrap().mode(), 0o040_711);
}

#[test]
fn two_thousand_entries() {
    let lab = Lab::new();
    for index in 0..2000 {
        lab.insert(&format!("many/{index:04}"), b"x");
    }
    let mount = lab.mount();
    mount.write("many/local", b"y");
    fs::remove_file(mount.path("many/0007")).unwrap();
    let mut expected: Vec<String> = (0..2000).map(|index| format!("{index:04}")).collect();
    expected.remove(7);
    expected.push("local".into());
    assert_eq!(mount.names("many"), expected);
    let sizes: u64 =
        fs::read_dir(mount.path("many")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(sizes, 2000);
    mount.drain();
    assert_eq!(lab.elsewhere().names("many"), expected);
}

#[test]
fn symbolic_links_are_small_objects() {
    let lab = Lab::new();
    let mount = lab.mount();
    mount.write("target", b"t");
    std::os::unix::fs::symlink("target", mount.path("link")).unwrap();
    assert_eq!(mount.read("link"), b"t");
    mount.drain();
    assert_eq!(lab.body("link"), b"target");
    assert_eq!(lab.metadata("link", "mode"), "41471");
    let other = lab.elsewhere();
    assert_eq!(fs::read_link(other.path("link")).unwrap().to_str(), Some("target"));
    assert!(other.path("link").symlink_metadata().unwrap().is_symlink());
    assert_eq!(other.path("link").symlink_metadata().unwrap().len(), 6);
    assert_eq!(other.read("link"), b"t");
    let kinds = fs::read_dir(&other.root).unwrap().map(|entry| entry.unwrap());
    assert!(kinds.filter(|entry| entry.file_type().unwrap().is_symlink()).count() == 1);
    fs::remove_file(other.path("link")).unwrap();
    other.drain();
    assert_eq!(lab.store.keys(), ["target"]);
}

#[test]
fn a_file_is_renamed_and_replaces() {
    let lab = Lab::new();
    lab.insert("old", b"old");
    let mount = lab.mount();
    mount.write("new", b"new");
    fs::rename(mount.path("new"), mount.path("old")).unwrap();
    assert_eq!(mount.read("old"), b"new");
    assert_eq!(mount.names(""), ["old"]);
    mount.drain();
    assert_eq!(lab.store.keys(), ["old"]);
    assert_eq!(lab.body("old"), b"new");
    fs::rename(mount.path("old"), mount.path("back.txt")).unwrap();
    mount.drain();
    assert_eq!(lab.store.keys(), ["back.txt"]);
    assert_eq!(lab.body("back.txt"), b"new");
    assert_eq!(lab.store.object("back.txt").unwrap().0.headers.content_type.as_deref(), Some("text/plain"));
    assert_eq!(mount.read("back.txt"), b"new");
}

#[test]
fn a_remote_file_is_renamed_without_being_fetched() {
    use ec2mpi_agent::volume::store::memory::Operation;
    let lab = Lab::new();
    lab.insert("a", &pattern(1 << 20, 1));
    let mount = lab.mount();
    fs::rename(mount.path("a"), mount.path("b")).unwrap();
    mount.drain();
    assert_eq!(lab.store.calls(Operation::GetRange), 0);
    assert!(mount.read("b") == pattern(1 << 20, 1));
    assert_eq!(lab.store.keys(), ["b"]);
}

#[test]
fn a_file_is_renamed_while_it_is_written() {
    use std::io::Write;
    let lab = Lab::new();
    lab.insert("final", b"previous");
    let mount = lab.mount();
    let mut file = fs::File::create(mount.path("part")).unwrap();
    file.write_all(b"first ").unwrap();
    fs::rename(mount.path("part"), mount.path("final")).unwrap();
    file.write_all(b"second").unwrap();
    drop(file);
    mount.drain();
    assert_eq!(lab.store.keys(), ["final"]);
    assert_eq!(lab.body("final"), b"first second");
    assert_eq!(mount.read("final"), b"first second");
}

#[test]
fn what_replaced_an_object_and_was_deleted_unwritten_takes_it_along() {
    let lab = Lab::new();
    lab.insert("final", b"previous");
    let mount = lab.mount();
    let file = fs::File::create(mount.path("part")).unwrap();
    fs::rename(mount.path("part"), mount.path("final")).unwrap();
    fs::remove_file(mount.path("final")).unwrap();
    drop(file);
    mount.drain();
    assert!(lab.store.keys().is_empty());
}

#[test]
fn a_replaced_file_stays_readable_where_it_is_open() {
    use std::io::Read;
    let lab = Lab::new();
    lab.insert("f", &pattern(200_000, 5));
    let mount = lab.mount();
    let mut old = fs::File::open(mount.path("f")).unwrap();
    mount.write("g", b"new");
    fs::rename(mount.path("g"), mount.path("f")).unwrap();
    mount.drain();
    let mut bytes = Vec::new();
    old.read_to_end(&mut bytes).unwrap();
    assert!(bytes == pattern(200_000, 5));
    assert_eq!(mount.read("f"), b"new");
}

#[test]
fn a_directory_is_renamed_with_all_below() {
    let lab = Lab::new();
    for index in 0..30 {
        lab.insert(&format!("src/deep/{index}"), format!("{index}").as_bytes());
    }
    let mount = lab.mount();
    mount.write("src/deep/local", b"local");
    fs::create_dir(mount.path("src/empty")).unwrap();
    fs::remove_file(mount.path("src/deep/3")).unwrap();
    fs::create_dir(mount.path("dst")).unwrap();
    fs::rename(mount.path("src"), mount.path("dst")).unwrap();
    assert_eq!(mount.names(""), ["dst"]);
    assert_eq!(mount.names("dst/deep").len(), 30);
    assert_eq!(mount.read("dst/deep/12"), b"12");
    assert!(!mount.path("dst/deep/3").exists());
    mount.write("dst/deep/12", b"changed");
    fs::create_dir(mount.path("src")).unwrap();
    mount.write("src/again", b"again");
    assert_eq!(mount.names("src"), ["again"]);
    mount.drain();
    assert_eq!(mount.names("src"), ["again"]);
    for mount in [&mount, &lab.elsewhere()] {
        assert_eq!(mount.names("dst"), ["deep", "empty"]);
        assert_eq!(mount.names("dst/deep").len(), 30);
        assert_eq!(mount.read("dst/deep/12"), b"changed");
        assert_eq!(mount.read("dst/deep/29"), b"29");
        assert_eq!(mount.read("dst/deep/local"), b"local");
        assert_eq!(mount.read("src/again"), b"again");
    }
    assert!(lab.store.keys().iter().all(|key| !key.starts_with("src/deep")));
}

#[test]
fn moves_and_removals_are_seen_at_once_though_s3_is_behind() {
    let lab = Lab::new();
    lab.insert("a/x", b"x");
    lab.insert("a/sub/y", b"y");
    lab.insert("b/old", b"old");
    let mount = lab.mount();
    assert_eq!(mount.names("a"), ["sub", "x"]);
    assert_eq!(mount.names("b"), ["old"]);
    assert_eq!(mount.names("a/sub"), ["y"]);
    lab.store.set_latency(std::time::Duration::from_millis(150));
    fs::remove_dir_all(mount.path("b")).unwrap();
    fs::rename(mount.path("a"), mount.path("b")).unwrap();
    fs::rename(mount.path("b/sub"), mount.path("c")).unwrap();
    fs::create_dir(mount.path("a")).unwrap();
    assert_eq!(mount.names(""), ["a", "b", "c"]);
    assert_eq!(mount.names("b"), ["x"]);
    assert_eq!(mount.names("c"), ["y"]);
    assert!(mount.names("a").is_empty());
    assert_eq!(mount.read("c/y"), b"y");
    assert!(!mount.path("b/old").exists());
    lab.store.set_latency(std::time::Duration::ZERO);
    mount.drain();
    let keys = lab.store.keys();
    assert!(keys.contains(&"b/x".to_owned()) && keys.contains(&"c/y".to_owned()), "{keys:?}");
    assert!(!keys.iter().any(|key| key == "b/old" || key == "a/x" || key.starts_with("b/sub")), "{keys:?}");
    assert_eq!(mount.names(""), ["a", "b", "c"]);
    assert_eq!(mount.read("c/y"), b"y");
}

#[test]
fn renames_that_posix_refuses() {
    let lab = Lab::new();
    let mount = lab.mount();
    fs::create_dir_all(mount.path("full/x")).unwrap();
    fs::create_dir_all(mount.path("dir")).unwrap();
    mount.write("file", b"1");
    let rename = |from: &str, to: &str| fs::rename(mount.path(from), mount.path(to));
    assert_eq!(errno(rename("dir", "full")), libc::ENOTEMPTY);
    assert_eq!(errno(rename("dir", "file")), libc::ENOTDIR);
    assert_eq!(errno(rename("file", "dir")), libc::EISDIR);
    assert_eq!(errno(rename("none", "new")), libc::ENOENT);
    assert_eq!(errno(rename("dir", "dir/sub")), libc::EINVAL);
    rename("file", "file").unwrap();
    assert_eq!(mount.read("file"), b"1");
}

#[test]
fn a_group_is_handed_down() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let mount = lab.mount();
    fs::create_dir(mount.path("g")).unwrap();
    std::os::unix::fs::chown(mount.path("g"), None, Some(77)).unwrap();
    fs::set_permissions(mount.path("g"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::create_dir(mount.path("g/sub")).unwrap();
    mount.write("g/sub/f", b"");
    assert_eq!(mount.path("g/sub").metadata().unwrap().gid(), 77);
    assert_eq!(mount.path("g/sub").metadata().unwrap().mode() & 0o2000, 0o2000);
    assert_eq!(mount.path("g/sub/f").metadata().unwrap().gid(), 77);
}
