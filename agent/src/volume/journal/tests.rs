#![allow(clippy::cast_possible_truncation)]

use super::*;
use crate::volume::attr::{Attr, Extra};
use crate::volume::store::Etag;
use std::io::Write;
use uuid::Uuid;

fn put(path: &str, base: Base) -> Op {
    Op::Put {
        path: path.into(),
        data: serde_json::from_str(r#""00000000000000000000000000000001""#).unwrap(),
        spilled: Vec::new(),
        attr: Attr::new(libc::S_IFREG | 0o644, 1, 2),
        extra: Extra::default(),
        base,
        write: Uuid::from_u128(9),
    }
}

fn begin(seq: u64, op: Op) -> Record {
    Record::Begin { seq: Seq(seq), op, supersedes: Vec::new(), on_disk: false }
}

fn version(text: &str) -> Base {
    Base::Version(Etag(text.into()))
}

#[test]
fn what_is_done_is_gone_and_what_is_not_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, left) = Journal::open(dir.path()).unwrap();
    assert!(left.is_empty());
    journal.append(&begin(1, put("a", Base::Absent))).unwrap();
    journal.append(&begin(2, Op::Rmdir { path: "d".into() })).unwrap();
    journal.append(&Record::Open { seq: Seq(3), op: put("b", Base::Absent), supersedes: vec![] }).unwrap();
    journal.append(&Record::Done { seq: Seq(2), outcome: vec![] }).unwrap();
    drop(journal);
    for _ in 0..2 {
        let (_, left) = Journal::open(dir.path()).unwrap();
        let seqs: Vec<_> = left.iter().map(|(seq, entry)| (seq.0, entry.open)).collect();
        assert_eq!(seqs, [(1, false), (3, true)]);
        assert_eq!(left[&Seq(1)].op, left[&Seq(1)].op.clone());
    }
}

#[test]
fn superseded_operations_and_amended_attributes() {
    let new_attr = Attr::new(libc::S_IFREG | 0o600, 5, 5);
    let left = unfinished(
        [
            begin(1, put("a", Base::Absent)),
            Record::Begin { seq: Seq(2), op: put("a", Base::Absent), supersedes: vec![Seq(1)], on_disk: false },
            Record::Amend { seq: Seq(2), attr: new_attr, extra: None },
            begin(3, Op::Delete { path: "b".into(), base: Base::Unknown }),
            Record::Failed { seq: Seq(3), error: "refused".into() },
        ],
        None,
    );
    assert_eq!(left.len(), 1);
    assert!(matches!(left[&Seq(2)].op, Op::Put { attr, .. } if attr == new_attr));
}

#[test]
fn an_outcome_becomes_the_base_of_later_operations_only() {
    let left = unfinished(
        [
            begin(1, put("a", Base::Absent)),
            begin(2, put("a", Base::Unknown)),
            begin(3, put("b", Base::Absent)),
            Record::Done { seq: Seq(1), outcome: vec![("a".into(), version("e1"))] },
        ],
        None,
    );
    assert!(matches!(&left[&Seq(2)].op, Op::Put { base, .. } if *base == version("e1")));
    assert!(matches!(&left[&Seq(3)].op, Op::Put { base, .. } if *base == Base::Absent));
}

#[test]
fn a_torn_end_is_cut_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.append(&begin(1, put("a", Base::Absent))).unwrap();
    let first = std::fs::read(&path).unwrap();
    journal.append(&begin(2, put("b", Base::Absent))).unwrap();
    let both = std::fs::read(&path).unwrap();
    drop(journal);
    for length in first.len()..both.len() {
        std::fs::write(&path, &both[..length]).unwrap();
        let (journal, left) = Journal::open(dir.path()).unwrap();
        assert_eq!(left.keys().copied().collect::<Vec<_>>(), [Seq(1)], "cut at {length}");
        journal.append(&begin(3, put("c", Base::Absent))).unwrap();
        drop(journal);
        assert_eq!(Journal::open(dir.path()).unwrap().1.len(), 2, "the journal goes on after the cut at {length}");
    }
    assert!(dir.path().join("journal.torn").exists());
}

#[test]
fn a_flipped_bit_ends_the_journal_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.append(&begin(1, put("a", Base::Absent))).unwrap();
    let length = std::fs::read(&path).unwrap().len();
    journal.append(&begin(2, put("b", Base::Absent))).unwrap();
    drop(journal);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[length + 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().1.len(), 1);
}

#[test]
fn a_foreign_file_or_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    std::fs::write(&path, b"something else entirely").unwrap();
    assert!(Journal::open(dir.path()).is_err());
    let mut bytes = b"EC2MPIJL".to_vec();
    bytes.extend_from_slice(&99u32.to_le_bytes());
    std::fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
    assert!(Journal::open(dir.path()).unwrap_err().to_string().contains("version"));
}

/// The format of version 1, byte for byte: a program that cannot read this any more must raise the version.
#[test]
fn version_1_is_readable_for_ever() {
    let time = r#"{"seconds":1,"nanos":2}"#;
    let attr = format!(r#"{{"mode":33188,"uid":1,"gid":2,"atime":{time},"mtime":{time},"ctime":{time}}}"#);
    let amend = format!(r#"{{"Amend":{{"seq":3,"attr":{attr}}}}}"#);
    let begin = r#"{"Begin":{"seq":7,"op":{"Rmdir":{"path":"old/dir"}},"supersedes":[3]}}"#;
    let mut bytes = b"EC2MPIJL\x01\x00\x00\x00".to_vec();
    for payload in [amend.as_bytes(), begin.as_bytes()] {
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        bytes.extend_from_slice(payload);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("journal"), bytes).unwrap();
    let (_, left) = Journal::open(dir.path()).unwrap();
    assert_eq!(left[&Seq(7)].op, Op::Rmdir { path: "old/dir".into() });
}

#[test]
fn spilled_parts_and_uploads_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let run = |first, count| Run { key: format!("k{first}"), etag: Etag("e".into()), shift: 0, first, count };
    journal.append(&Record::Open { seq: Seq(1), op: put("a", Base::Absent), supersedes: vec![] }).unwrap();
    journal.append(&Record::Spill { seq: Seq(1), run: run(0, 3) }).unwrap();
    journal.append(&Record::Unspill { seq: Seq(1), first: 1, count: 1 }).unwrap();
    journal.append(&begin(2, put("b", Base::Absent))).unwrap();
    let upload = OpenUpload { key: "b".into(), id: "u".into() };
    journal.append(&Record::Upload { seq: Seq(2), upload: upload.clone() }).unwrap();
    drop(journal);
    for _ in 0..2 {
        let (_, left) = Journal::open(dir.path()).unwrap();
        let parts: Vec<_> = left[&Seq(1)].op.spilled().iter().map(|run| (run.first, run.count)).collect();
        assert_eq!(parts, [(0, 1), (2, 1)]);
        assert_eq!(left[&Seq(2)].upload, Some(upload.clone()));
    }
}

#[test]
fn a_whole_record_that_is_not_understood_is_no_torn_end() {
    let dir = tempfile::tempdir().unwrap();
    drop(Journal::open(dir.path()).unwrap());
    let payload = br#"{"Tomorrow":{"seq":7}}"#;
    let mut file = std::fs::File::options().append(true).open(dir.path().join("journal")).unwrap();
    file.write_all(&(payload.len() as u32).to_le_bytes()).unwrap();
    file.write_all(&crc32fast::hash(payload).to_le_bytes()).unwrap();
    file.write_all(payload).unwrap();
    assert!(Journal::open(dir.path()).unwrap_err().to_string().contains("not understood"));
}

#[tokio::test]
async fn many_wait_for_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let positions: Vec<_> = (0..50).map(|seq| journal.append(&begin(seq, put("a", Base::Absent))).unwrap()).collect();
    futures::future::try_join_all(positions.into_iter().map(|position| journal.sync(position))).await.unwrap();
}

#[tokio::test]
async fn compaction_keeps_what_is_left_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    for seq in 0..100 {
        journal.append(&begin(seq, put("a", Base::Absent))).unwrap();
    }
    let left = BTreeMap::from([(
        Seq(99),
        Unfinished { op: put("a", Base::Absent), open: true, upload: None, on_disk: false },
    )]);
    let long = std::fs::metadata(dir.path().join("journal")).unwrap().len();
    journal.compact(&left).unwrap();
    assert!(std::fs::metadata(dir.path().join("journal")).unwrap().len() < long / 20);
    let position = journal.append(&begin(100, put("b", Base::Absent))).unwrap();
    journal.sync(position).await.unwrap();
    drop(journal);
    let left = Journal::open(dir.path()).unwrap().1;
    let seqs: Vec<_> = left.into_iter().map(|(seq, entry)| (seq.0, entry.open)).collect();
    assert_eq!(seqs, [(99, true), (100, false)]);
}

/// Frames written in another boot: what is named by `Synced`, or was on disk at its `Begin`, is trusted.
#[test]
fn after_another_boot_only_bytes_that_were_on_disk_are_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open_in(dir.path(), "first".into()).unwrap();
    let open = |seq, path| Record::Open { seq: Seq(seq), op: put(path, Base::Absent), supersedes: vec![] };
    journal.append(&begin(1, put("synced", Base::Absent))).unwrap();
    journal.append(&begin(2, put("not", Base::Absent))).unwrap();
    journal.append(&open(3, "open")).unwrap();
    journal.append(&open(4, "open-synced")).unwrap();
    journal.append(&Record::Synced { seqs: vec![Seq(1), Seq(4)] }).unwrap();
    let on_disk = Record::Begin { seq: Seq(5), op: put("at-once", Base::Absent), supersedes: vec![], on_disk: true };
    journal.append(&on_disk).unwrap();
    journal.append(&begin(6, Op::Rmdir { path: "d".into() })).unwrap();
    drop(journal);
    let kinds = |boot: &str| {
        let (_, left) = Journal::open_in(dir.path(), boot.into()).unwrap();
        let kind = |entry: Unfinished| match entry.op {
            Op::Put { .. } if entry.open => "open",
            Op::Put { .. } => "put",
            Op::Salvage { .. } => "salvage",
            _ => "other",
        };
        left.into_values().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds("first"), ["put", "put", "open", "open", "put", "other"]);
    let expected = ["put", "salvage", "salvage", "open", "put", "other"];
    assert_eq!(kinds("second"), expected);
    // What was decided stays decided, in this boot and in the next.
    assert_eq!(kinds("second"), expected);
    assert_eq!(kinds("third"), expected);
}

/// Older programs had bytes on disk before they wrote that they had them.
#[test]
fn a_journal_that_names_no_boot_is_trusted() {
    let records = [begin(1, put("a", Base::Absent)), begin(2, put("b", Base::Absent))];
    let left = unfinished(records, Some("now"));
    assert!(left.values().all(|entry| entry.on_disk && matches!(entry.op, Op::Put { .. })));
}

#[test]
fn what_was_moved_and_is_lost_does_not_move_what_is_older() {
    let moved = |from: &str, to: &str| Op::Rename {
        from: from.into(),
        to: to.into(),
        source: Base::Unknown,
        base: Base::Unknown,
        size: 1,
        attr: Attr::new(libc::S_IFREG | 0o644, 1, 2),
        extra: Extra::default(),
        write: Uuid::from_u128(8),
    };
    let boot = |id: &str| Record::Boot { id: id.into() };
    let records = [
        boot("first"),
        begin(1, put("a", version("old"))),
        begin(2, moved("a", "b")),
        begin(3, put("a", Base::Unknown)),
        begin(4, moved("a", "c")),
        boot("second"),
        Record::Failed { seq: Seq(1), error: "lost".into() },
    ];
    let left = unfinished(records, Some("second"));
    let source = |seq: u64| match &left[&Seq(seq)].op {
        Op::Rename { source, .. } => source.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((source(2), source(4)), (Base::Absent, Base::Unknown));
}

/// A file system may have made a file longer and not have written what belongs there.
#[test]
fn zeros_are_a_torn_end() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.append(&begin(1, put("a", Base::Absent))).unwrap();
    drop(journal);
    let mut file = std::fs::File::options().append(true).open(dir.path().join("journal")).unwrap();
    file.write_all(&[0; 5000]).unwrap();
    let (journal, left) = Journal::open(dir.path()).unwrap();
    assert_eq!(left.len(), 1);
    journal.append(&begin(2, put("b", Base::Absent))).unwrap();
    drop(journal);
    assert_eq!(Journal::open(dir.path()).unwrap().1.len(), 2);
}
