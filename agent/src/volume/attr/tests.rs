use super::*;
use crate::volume::store::Etag;

const OWNER: Owner = Owner { uid: 2009, gid: 2010 };

fn object(content_type: Option<&str>, metadata: &[(&str, &str)]) -> ObjectInfo {
    ObjectInfo {
        etag: Etag("\"e\"".into()),
        size: 0,
        last_modified: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        headers: Headers {
            content_type: content_type.map(str::to_owned),
            metadata: metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            foreign: BTreeMap::new(),
        },
    }
}

fn mode(content_type: Option<&str>, metadata: &[(&str, &str)], directory_key: bool) -> u32 {
    from_object(&object(content_type, metadata), directory_key, OWNER).mode
}

#[test]
fn headers_are_s3fs_to_the_letter() {
    let attr = Attr {
        mode: 33261,
        uid: 1000,
        gid: 100,
        rdev: 0,
        atime: Time { seconds: 5, nanos: 0 },
        mtime: Time { seconds: 1_600_000_000, nanos: 7 },
        ctime: Time { seconds: -3, nanos: 500_000_000 },
    };
    let write = Uuid::from_u128(1);
    let extra = Extra {
        content_type: None,
        metadata: [("xattr".to_owned(), "{}".to_owned())].into(),
        foreign: [("cache-control".to_owned(), "no-store".to_owned())].into(),
    };
    let headers = to_headers(&attr, &extra, content_type("run.SH"), write);
    let expected = [
        ("atime", "5"),
        ("ctime", "-3.500000000"),
        ("ec2mpi-write", "00000000-0000-0000-0000-000000000001"),
        ("gid", "100"),
        ("mode", "33261"),
        ("mtime", "1600000000.000000007"),
        ("uid", "1000"),
        ("xattr", "{}"),
    ];
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(headers.metadata, expected);
    assert_eq!(headers.content_type.as_deref(), Some("application/x-sh"));
    assert_eq!(headers.foreign["cache-control"], "no-store");
    assert_eq!(write_id(&headers), Some(write));

    let back = ObjectInfo { headers, ..object(None, &[]) };
    assert_eq!(from_object(&back, false, OWNER), attr);
    assert_eq!(Extra::from(&back.headers).metadata, extra.metadata);
}

#[test]
fn modes_of_every_dialect_are_understood() {
    let table: [(&[(&str, &str)], u32); 8] = [
        (&[("mode", "33188")], 0o100_644),
        (&[("mode", "0100755")], 0o100_755),
        (&[("mode", "0x81a4")], 0o100_644),
        (&[("mode", "493")], 0o100_755),
        (&[("mode", "41471")], 0o120_777),
        (&[("permissions", "33188")], 0o100_644),
        (&[("goog-reserved-posix-mode", "755")], 0o100_755),
        (&[("mode", "32768")], 0o100_400),
    ];
    for (metadata, expected) in table {
        assert_eq!(mode(None, metadata, false), expected, "{metadata:?}");
    }
    assert_eq!(mode(None, &[], false), 0o100_640);
    assert_eq!(mode(None, &[("mode", "garbage")], false), 0o100_640);
}

#[test]
fn directories_are_recognized_by_key_and_by_type() {
    assert_eq!(mode(None, &[], true), 0o040_750);
    assert_eq!(mode(None, &[("mode", "493")], true), 0o040_755);
    assert_eq!(mode(Some("application/x-directory; charset=utf-8"), &[], false), 0o040_750);
    assert_eq!(mode(Some("httpd/unix-directory"), &[("mode", "16877")], false), 0o040_755);
    assert_eq!(mode(Some("binary/octet-stream"), &[], false), 0o100_640);
}

#[test]
fn missing_metadata_falls_back_to_owner_and_last_modified() {
    let attr = from_object(&object(None, &[]), false, OWNER);
    assert_eq!((attr.uid, attr.gid), (2009, 2010));
    let modified = Time { seconds: 1_700_000_000, nanos: 0 };
    assert_eq!([attr.atime, attr.mtime, attr.ctime], [modified; 3]);
    let s3sync = from_object(&object(None, &[("owner", "7"), ("group", "8")]), false, OWNER);
    assert_eq!((s3sync.uid, s3sync.gid), (7, 8));
}

#[test]
fn fractions_of_any_length_are_scaled() {
    assert_eq!(parse_time("1.5"), Some(Time { seconds: 1, nanos: 500_000_000 }));
    assert_eq!(parse_time("1.1234567891"), Some(Time { seconds: 1, nanos: 123_456_789 }));
    assert_eq!(parse_time("12"), Some(Time { seconds: 12, nanos: 0 }));
    assert_eq!(parse_time("x"), None);
    assert_eq!(parse_time("1.-5"), None);
}

#[test]
fn a_device_keeps_its_number() {
    let attr = Attr { rdev: 0x0801, ..Attr::new(libc::S_IFBLK | 0o660, 0, 6) };
    let headers = to_headers(&attr, &Extra::default(), UNKNOWN_TYPE, Uuid::nil());
    assert_eq!(headers.metadata["rdev"], "2049");
    let back = ObjectInfo { headers, ..object(None, &[]) };
    assert_eq!(from_object(&back, false, OWNER), attr);
}

#[test]
fn privileges_go_with_a_change() {
    for (before, after) in [(0o6755, 0o755), (0o6745, 0o2745), (0o2750, 0o750), (0o755, 0o755)] {
        let mut attr = Attr::new(libc::S_IFREG | before, 0, 0);
        attr.drop_privileges();
        assert_eq!(attr.mode, libc::S_IFREG | after, "{before:o}");
    }
}

#[test]
fn times_survive_the_system_type() {
    for time in [Time { seconds: -3, nanos: 500_000_000 }, Time { seconds: 0, nanos: 1 }, Time { seconds: 9, nanos: 0 }]
    {
        assert_eq!(Time::from(SystemTime::from(time)), time);
    }
}
