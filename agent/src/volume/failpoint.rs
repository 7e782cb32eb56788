//! Test aids: `EC2MPI_VOLUME_FAILPOINT=NAME` (or `NAME:N`, the Nth time) makes the volume kill itself with SIGKILL when
//! it gets to a named place. The crash test dies at each of them; nothing else looks at it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const VARIABLE: &str = "EC2MPI_VOLUME_FAILPOINT";

/// Half of a record is in the journal.
pub const JOURNAL_TORN: &str = "journal-torn";
/// A record is in the journal, and nobody was told.
pub const JOURNAL_APPENDED: &str = "journal-appended";
/// The journal is on disk, and those who wait for that do not know.
pub const JOURNAL_SYNCED: &str = "journal-synced";
/// The journal is about to be rewritten.
pub const JOURNAL_REWRITE: &str = "journal-rewrite";
/// The journal was rewritten.
pub const JOURNAL_REWRITTEN: &str = "journal-rewritten";
/// The journal was replayed, and nothing was done.
pub const REPLAYED: &str = "replayed";
/// A closed file's bytes do not change any more, its upload is not in the journal.
pub const SEAL: &str = "seal";
/// A closed file's upload is in the journal.
pub const SEAL_BEGUN: &str = "seal-begun";
/// Bytes of closed files are on disk, the journal does not say so.
pub const SETTLE_SYNCED: &str = "settle-synced";
/// Bytes of closed files are on disk, and the journal that says so.
pub const SETTLED: &str = "settled";
/// An object is about to be written.
pub const PUT: &str = "put";
/// An object is written, and only S3 knows.
pub const PUT_DONE: &str = "put-done";
/// S3 knows of a multipart upload, the journal does not.
pub const MULTIPART_BEGUN: &str = "multipart-begun";
/// A multipart upload is in the journal.
pub const MULTIPART_NOTED: &str = "multipart-noted";
/// A part is in S3.
pub const MULTIPART_PART: &str = "multipart-part";
/// All parts are in S3, and no object.
pub const MULTIPART_COMPLETE: &str = "multipart-complete";
/// A multipart upload is complete, and only S3 knows.
pub const MULTIPART_DONE: &str = "multipart-done";
/// A renamed object is copied, and not yet deleted.
pub const RENAME_COPIED: &str = "rename-copied";
/// A renamed object is deleted, and only S3 knows.
pub const RENAME_DONE: &str = "rename-done";
/// One key of a directory was moved.
pub const RENAME_KEY: &str = "rename-key";
/// An object was deleted, and only S3 knows.
pub const DELETE_DONE: &str = "delete-done";
/// Attributes were changed, and only S3 knows.
pub const ATTRIBUTES_DONE: &str = "attributes-done";
/// An operation is done, and the journal does not have it.
pub const COMMIT: &str = "commit";
/// An operation is done and in the journal.
pub const COMMITTED: &str = "committed";
/// A part of an open file is in S3, the journal does not have it.
pub const SPILL_PUT: &str = "spill-put";
/// A part of an open file is in S3 and in the journal, and still in the cache.
pub const SPILL_NOTED: &str = "spill-noted";
/// A part of an open file is in S3 only.
pub const SPILL_PUNCHED: &str = "spill-punched";
/// A part that was in S3 only is back in the cache, and the journal does not know.
pub const UNSPILL: &str = "unspill";

/// All of them.
pub const ALL: &[&str] = &[
    JOURNAL_TORN,
    JOURNAL_APPENDED,
    JOURNAL_SYNCED,
    JOURNAL_REWRITE,
    JOURNAL_REWRITTEN,
    REPLAYED,
    SEAL,
    SEAL_BEGUN,
    SETTLE_SYNCED,
    SETTLED,
    PUT,
    PUT_DONE,
    MULTIPART_BEGUN,
    MULTIPART_NOTED,
    MULTIPART_PART,
    MULTIPART_COMPLETE,
    MULTIPART_DONE,
    RENAME_COPIED,
    RENAME_DONE,
    RENAME_KEY,
    DELETE_DONE,
    ATTRIBUTES_DONE,
    COMMIT,
    COMMITTED,
    SPILL_PUT,
    SPILL_NOTED,
    SPILL_PUNCHED,
    UNSPILL,
];

#[derive(Debug)]
struct Chosen {
    name: String,
    left: AtomicU32,
}

fn chosen() -> Option<&'static Chosen> {
    static CHOSEN: OnceLock<Option<Chosen>> = OnceLock::new();
    let parse = || {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Chosen { name: name.to_owned(), left: AtomicU32::new(count.parse().ok()?) })
    };
    CHOSEN.get_or_init(parse).as_ref()
}

/// Whether this is the place, and the time, that the environment names.
pub(crate) fn is_due(name: &'static str) -> bool {
    let Some(chosen) = chosen().filter(|chosen| chosen.name == name) else { return false };
    chosen.left.fetch_sub(1, Ordering::SeqCst) == 1
}

/// Dies here when this is the place that the environment names.
pub(crate) fn hit(name: &'static str) {
    if is_due(name) {
        die(name);
    }
}

/// Dies at once, as by `kill -9`.
pub(crate) fn die(name: &str) {
    eprintln!("failpoint {name}: killing myself, as told");
    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    // The signal is on its way; nothing may happen any more.
    loop {
        std::thread::park();
    }
}
