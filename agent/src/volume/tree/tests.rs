use std::collections::BTreeMap;
use std::time::SystemTime;

use super::adopt::Found;
use super::*;
use crate::volume::attr::Owner;
use crate::volume::store::{Etag, Headers, ObjectInfo};

const OWNER: Owner = Owner { uid: 1, gid: 1 };

fn tree() -> Tree {
    Tree::new(Attr::new(libc::S_IFDIR | 0o755, 0, 0), Extra::default(), Duration::from_secs(60))
}

fn directory() -> Node {
    Node::new(Attr::new(libc::S_IFDIR | 0o755, 0, 0), Kind::Dir(Dir::default()), Place::Gone)
}

fn found(path: &str, etag: &str) -> Option<Found> {
    let info = ObjectInfo {
        etag: Etag(etag.into()),
        size: 3,
        last_modified: SystemTime::UNIX_EPOCH,
        headers: Headers::default(),
    };
    Some(Found::File { path: path.into(), info })
}

fn ask(tree: &Tree, parent: Ino, name: &str) -> Question {
    match tree.knows(parent, name).unwrap() {
        Known::Ask(question) => question,
        known => panic!("nothing to ask: {known:?}"),
    }
}

fn answer(tree: &mut Tree, name: &str, found: Option<Found>) -> Option<Ino> {
    let question = Question { paths: vec![], asked: tree.ask(), hint: Hint::Unknown, older: false };
    tree.adopt(Ino::ROOT, name, &question, found, OWNER).unwrap()
}

#[test]
fn a_version_is_an_inode() {
    let mut tree = tree();
    let first = answer(&mut tree, "a", found("a", "1")).unwrap();
    assert_eq!(answer(&mut tree, "a", found("a", "1")), Some(first));
    tree.get_mut(first).unwrap().opens = 1;
    let second = answer(&mut tree, "a", found("a", "2")).unwrap();
    assert_ne!(first, second);
    assert!(matches!(tree.get(first).unwrap().place, Place::Replaced { .. }));
    assert_eq!(tree.upload_path(first).as_deref(), Some("a"), "an old version that is written to must meet the new");
    assert_eq!(tree.path(first), None);
}

#[test]
fn a_local_change_wins_over_an_older_answer() {
    let mut tree = tree();
    let ino = answer(&mut tree, "a", found("a", "1")).unwrap();
    tree.raise_epoch();
    let question = ask(&tree, Ino::ROOT, "a");
    tree.begin(Seq(1));
    tree.detach(ino, Place::Gone, Some(Child::Gone(Seq(1))));
    tree.touch(Ino::ROOT, "a");
    assert_eq!(tree.adopt(Ino::ROOT, "a", &question, found("a", "1"), OWNER).unwrap(), None);
    tree.end(Seq(1));
    tree.touch(Ino::ROOT, "a");
    let late = tree.adopt(Ino::ROOT, "a", &question, found("a", "1"), OWNER).unwrap();
    assert_eq!(late, None, "the answer was on its way while the deletion was committed");
    assert!(answer(&mut tree, "a", found("a", "3")).is_some());
}

#[test]
fn an_epoch_ends_trust_but_not_local_state() {
    let mut tree = tree();
    let clean = answer(&mut tree, "clean", found("clean", "1")).unwrap();
    let dirty = answer(&mut tree, "dirty", found("dirty", "1")).unwrap();
    tree.get_mut(dirty).unwrap().dirty = true;
    assert_eq!(answer(&mut tree, "none", None), None);
    assert!(matches!(tree.knows(Ino::ROOT, "clean").unwrap(), Known::Node(ino) if ino == clean));
    assert!(matches!(tree.knows(Ino::ROOT, "none").unwrap(), Known::Absent));
    tree.raise_epoch();
    assert_eq!(ask(&tree, Ino::ROOT, "clean").hint, Hint::File);
    ask(&tree, Ino::ROOT, "none");
    assert!(matches!(tree.knows(Ino::ROOT, "dirty").unwrap(), Known::Node(ino) if ino == dirty));
}

#[test]
fn an_answer_from_before_the_epoch_is_not_trusted_after_it() {
    let mut tree = tree();
    let question = Question { paths: vec![], asked: tree.ask(), hint: Hint::Unknown, older: false };
    tree.raise_epoch();
    tree.adopt(Ino::ROOT, "a", &question, found("a", "1"), OWNER).unwrap();
    ask(&tree, Ino::ROOT, "a");
}

#[test]
fn a_moved_directory_is_looked_for_where_it_was() {
    let mut tree = tree();
    let dir = tree.insert(Ino::ROOT, "b", directory()).unwrap();
    let sub = tree.insert(dir, "sub", directory()).unwrap();
    tree.begin(Seq(5));
    let moved = tree.get_mut(dir).unwrap().dir_mut().unwrap();
    moved.opaque = Some(Opaque::UntilStarted(Seq(5)));
    moved.moved_from = vec![(Seq(5), "x/a".into())];
    assert_eq!(tree.places(sub), ["x/a/sub"]);
    tree.started(Seq(5));
    assert_eq!(tree.places(sub), ["x/a/sub", "b/sub"]);
    tree.end(Seq(5));
    assert_eq!(tree.places(sub), ["b/sub"]);
}

#[test]
fn a_new_directory_does_not_show_what_was_there_before() {
    let mut tree = tree();
    let dir = tree.insert(Ino::ROOT, "d", directory()).unwrap();
    tree.begin(Seq(7));
    tree.get_mut(dir).unwrap().dir_mut().unwrap().opaque = Some(Opaque::UntilDone(Seq(7)));
    assert!(matches!(tree.knows(dir, "old").unwrap(), Known::Absent));
    tree.started(Seq(7));
    assert!(matches!(tree.knows(dir, "old").unwrap(), Known::Absent));
    tree.end(Seq(7));
    assert_eq!(ask(&tree, dir, "old").paths, ["d/old"]);
}

#[test]
fn a_listing_removes_what_is_gone_and_keeps_what_is_ours() {
    let mut tree = tree();
    let ours = answer(&mut tree, "ours", found("ours", "1")).unwrap();
    tree.get_mut(ours).unwrap().dirty = true;
    answer(&mut tree, "theirs", found("theirs", "1")).unwrap();
    let new = Listed::File { etag: Etag("9".into()), size: 1, last_modified: SystemTime::UNIX_EPOCH };
    tree.adopt_listing(Ino::ROOT, &BTreeMap::from([("new".to_owned(), new)]), tree.ask()).unwrap();
    assert_eq!(tree.names(Ino::ROOT).unwrap(), ["new", "ours"]);
    assert!(matches!(tree.knows(Ino::ROOT, "theirs").unwrap(), Known::Absent));
}
