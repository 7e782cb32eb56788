//! Cache files that the kernel reads by itself: who has one, and whether somebody stored into it.

use std::fs::{File, FileTimes};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::DataFile;
use super::usage::Usage;

/// Not in every version of libc's bindings.
const F_SETSIG: libc::c_int = 10;

/// Whether the kernel knows a cache file; counted as long as it does.
#[derive(Debug)]
pub(super) struct Exposure {
    /// As counted; zero when it does not.
    bytes: AtomicU64,
    watched: AtomicBool,
    usage: Arc<Usage>,
}

impl Exposure {
    pub(super) fn none(usage: Arc<Usage>) -> Self {
        Self { bytes: AtomicU64::new(0), watched: AtomicBool::new(false), usage }
    }

    fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::SeqCst);
        self.usage.expose(before, bytes);
    }
}

impl Drop for Exposure {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The time of change of a watched file to which nobody has stored: no clock gives it.
fn unchanged() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1)
}

impl DataFile {
    /// The kernel knows the file: whoever opens it may map it.
    pub(crate) fn expose(&self) {
        self.exposure.set(self.bytes().max(1));
    }

    /// Nobody but this process has it any more.
    pub(crate) fn conceal(&self) {
        self.exposure.set(0);
    }

    /// Whether others may have it.
    pub(crate) fn is_exposed(&self) -> bool {
        self.exposure.bytes.load(Ordering::SeqCst) > 0
    }

    /// From now on stores into mappings show. Those before it show too when the file is synced only after this.
    pub(crate) fn watch(&self) -> io::Result<()> {
        self.exposure.watched.store(true, Ordering::SeqCst);
        self.file.set_times(FileTimes::new().set_modified(unchanged()))
    }

    pub(crate) fn unwatch(&self) {
        self.exposure.watched.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.exposure.watched.load(Ordering::SeqCst)
    }

    /// Whether a watched file was changed, by a mapping or by us.
    pub(crate) fn was_stored_to(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.modified()? != unchanged())
    }

    /// Whether nobody else has the file open or mapped; what cannot be told is no.
    pub(crate) fn is_alone(&self) -> bool {
        // The kernel gives a lease to write on a file that is open once only.
        let alone = fcntl(&self.file, libc::F_SETLEASE, libc::F_WRLCK).is_ok();
        if alone && let Err(error) = fcntl(&self.file, libc::F_SETLEASE, libc::F_UNLCK) {
            tracing::warn!(path = %self.path.display(), %error, "a lease cannot be given back");
        }
        alone
    }
}

/// An opener who meets a lease is announced by a signal; by this one, which does nothing unless somebody wants it to.
pub(super) fn announce_quietly(file: &File) -> io::Result<()> {
    fcntl(file, F_SETSIG, libc::SIGURG)
}

fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, and these commands take a number.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::Cache;
    use super::*;

    #[test]
    fn others_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let data = cache.create().unwrap();
        assert!(data.is_alone());
        let other = File::open(&data.path).unwrap();
        assert!(!data.is_alone());
        drop(other);
        assert!(data.is_alone());
        data.expose();
        assert!(data.is_exposed() && cache.usage().exposed() == 1);
        drop(data);
        assert_eq!(cache.usage().exposed(), 0);
    }

    #[test]
    fn changes_show_in_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let data = cache.create().unwrap();
        data.file.write_all_at(b"a", 0).unwrap();
        data.watch().unwrap();
        assert!(data.is_watched() && !data.was_stored_to().unwrap());
        data.file.write_all_at(b"b", 0).unwrap();
        assert!(data.was_stored_to().unwrap());
    }
}
