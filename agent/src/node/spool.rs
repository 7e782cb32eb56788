//! The spool directory of a process: the memory of `StartProcess` across restarts of the agent.
//!
//! ```text
//! lock      flock held by the wrapper for as long as it lives (its stdin), taken by the agent before it spawns it
//! argv.json the order: what to run, as whom, where
//! started   the wrapper is about to fork: from here on the order is never carried out again
//! pid       process id and start time of the process, for signals
//! stdout, stderr
//! exit      how it ended; written last, after the output is on disk
//! ```
//!
//! So "lock free, no exit, started" is a process that was lost (reboot, killed wrapper), and "lock free, no exit, not
//! started" is an order that may still be carried out.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::durable;

/// The name of a process and of its spool directory: 1 to 64 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(String);

impl ProcessId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProcessId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is not a process id: 1 to 64 characters of a-z, 0-9 and -"))
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a wrapper shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Program and arguments; the program is looked up in PATH of `environment`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Where to run.
    pub working_directory: PathBuf,
    /// As whom; ignored where the wrapper is not root.
    pub uid: u32,
    pub gid: u32,
}

/// Which process a wrapper waits for. The start time tells it from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub pid: i32,
    /// Clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 to 255; 128 + signal when ended by one.
    pub code: i32,
    /// 0: exited by itself.
    pub signal: i32,
    /// Not empty: it was not run to its end.
    #[serde(default)]
    pub error: String,
}

/// What is known of a process.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// No such directory.
    Unknown,
    /// Ordered, but not begun and nobody at it.
    Idle,
    /// Its wrapper lives.
    Running,
    /// It was begun, and its wrapper died without a word.
    Lost,
    Ended(Exit),
}

/// Looking whether a lock is free takes it for a moment; no other thread of the agent may see that moment.
static PROBE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// One spool directory.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// The spool in `dir`, which need not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Standard output, whole.
    pub fn stdout(&self) -> PathBuf {
        self.dir.join("stdout")
    }

    /// Standard error, whole.
    pub fn stderr(&self) -> PathBuf {
        self.dir.join("stderr")
    }

    /// Takes the lock: `None` while a wrapper (or another taker) holds it.
    pub fn try_lock(&self) -> io::Result<Option<File>> {
        let _alone = PROBE.lock();
        try_lock(&self.dir.join("lock"))
    }

    fn is_locked(&self) -> io::Result<bool> {
        let _alone = PROBE.lock();
        Ok(try_lock(&self.dir.join("lock"))?.is_none())
    }

    /// The present state.
    pub fn state(&self) -> io::Result<State> {
        if !self.dir.is_dir() {
            return Ok(State::Unknown);
        }
        // Asked before the exit is read: a wrapper writes its exit before it lets the lock go.
        let held = self.is_locked()?;
        match self.exit()? {
            Some(exit) => Ok(State::Ended(exit)),
            None if held => Ok(State::Running),
            None if self.is_started() => Ok(State::Lost),
            None => Ok(State::Idle),
        }
    }

    /// Stores the order, durably.
    pub fn write_order(&self, order: &Order) -> io::Result<()> {
        self.write("argv.json", order)
    }

    /// The order.
    pub fn order(&self) -> io::Result<Option<Order>> {
        self.read("argv.json")
    }

    /// Marks, durably, that the order is being carried out.
    pub fn write_started(&self) -> io::Result<()> {
        self.write("started", &true)
    }

    /// Whether the order was begun.
    pub fn is_started(&self) -> bool {
        self.dir.join("started").exists()
    }

    /// Stores which process it is.
    pub fn write_running(&self, running: Running) -> io::Result<()> {
        self.write("pid", &running)
    }

    /// Which process it is or was.
    pub fn running(&self) -> io::Result<Option<Running>> {
        self.read("pid")
    }

    /// Stores how it ended, durably.
    pub fn write_exit(&self, exit: &Exit) -> io::Result<()> {
        self.write("exit", exit)
    }

    /// How it ended.
    pub fn exit(&self) -> io::Result<Option<Exit>> {
        self.read("exit")
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        durable::overwrite(&self.dir.join(name), 0o600, &serde_json::to_vec(value)?)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match std::fs::read(self.dir.join(name)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Takes the flock on a file, made if missing: `None` while somebody else holds it.
pub fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_ids_cannot_leave_the_directory() {
        assert!("j-0123456789ab".parse::<ProcessId>().is_ok());
        for bad in ["", ".", "..", "a/b", "A", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<ProcessId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_state_follows_from_lock_started_and_exit() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path().join("j-1"));
        assert_eq!(spool.state().unwrap(), State::Unknown);
        std::fs::create_dir(spool.dir()).unwrap();
        assert_eq!(spool.state().unwrap(), State::Idle);
        let lock = spool.try_lock().unwrap().unwrap();
        assert_eq!(spool.state().unwrap(), State::Running);
        spool.write_started().unwrap();
        drop(lock);
        assert_eq!(spool.state().unwrap(), State::Lost);
        let exit = Exit { code: 143, signal: 15, error: String::new() };
        spool.write_exit(&exit).unwrap();
        assert_eq!(spool.state().unwrap(), State::Ended(exit));
    }
}
