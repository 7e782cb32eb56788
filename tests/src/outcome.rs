//! A command while it runs and after it ended.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A command that has been started. Its output goes to files, so that a daemon that keeps the descriptors open cannot
/// make a reader wait. Killed with its process group when dropped before its end.
#[derive(Debug)]
pub struct Running {
    child: Child,
    words: String,
    stdout: PathBuf,
    stderr: PathBuf,
    begun: Instant,
    ended: bool,
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    pub words: String,
    /// As a shell says it: the exit code, or 128 + signal.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Running {
    /// Starts a command in a process group of its own; the files with its output lie in `folder`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut command: Command, folder: &Path) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let place = |stream: &str| folder.join(format!("command-{number}.{stream}"));
        let (stdout, stderr) = (place("stdout"), place("stderr"));
        let words = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).expect("the folder of a site can be written"))
            .stderr(File::create(&stderr).expect("the folder of a site can be written"))
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{words} cannot be started: {error}"));
        Self { child, words, stdout, stderr, begun: Instant::now(), ended: false }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is an i32")
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to the process alone.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a running process can be signalled");
    }

    /// Waits for the text on stdout.
    ///
    /// # Panics
    /// When it does not come within `limit`, or the command ends without it.
    #[track_caller]
    pub fn wait_for_stdout(&mut self, text: &str, limit: Duration) {
        let begun = Instant::now();
        while !self.stdout().contains(text) {
            let over = !self.is_running() && !self.stdout().contains(text);
            assert!(!over, "{} ended without {text:?}:\n{}\n{}", self.words, self.stdout(), self.stderr());
            assert!(begun.elapsed() < limit, "{}: no {text:?} within {limit:?}: {}", self.words, self.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            let (stdout, stderr) = (self.stdout(), self.stderr());
            assert!(
                self.begun.elapsed() < limit,
                "{} has not ended within {limit:?}\nstdout:\n{stdout}\nstderr:\n{stderr}",
                self.words
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        self.ended = true;
        Outcome {
            words: self.words.clone(),
            code: shell_code(status),
            stdout: self.stdout(),
            stderr: self.stderr(),
            took: self.begun.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended && self.is_running() {
            // The group is the child's own: see `start`.
            let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Outcome {
    /// Its stdout.
    ///
    /// # Panics
    /// When the command failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self}");
        self.stdout
    }

    /// Its stdout as JSON.
    ///
    /// # Panics
    /// When the command failed, or printed anything else.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let words = self.words.clone();
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words}: not JSON: {error}:\n{text}"))
    }

    /// That it failed as it should: with one of these codes, soon, saying `error:` and each of these words in any case.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn refused(&self, codes: &[i32], words: &[&str]) {
        assert!(codes.contains(&self.code), "wanted one of {codes:?}: {self}");
        assert!(self.took < Duration::from_secs(20), "the answer took {:?}: {self}", self.took);
        let said = self.stderr.to_lowercase();
        assert!(said.contains("error:"), "no `error:`: {self}");
        for word in words {
            assert!(said.contains(&word.to_lowercase()), "no {word:?} in the message: {self}");
        }
        assert!(!said.contains("panicked"), "{self}");
    }

    /// That it failed soon and its stderr has the word; for messages that are mpirun's or the shell's.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn refused_anyhow(&self, word: &str) {
        assert!(self.code != 0 && self.took < Duration::from_secs(30), "{self}");
        assert!(self.stderr.contains(word), "no {word:?} in the message: {self}");
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { words, code, stdout, stderr, took } = self;
        write!(f, "{words} ended with {code} after {took:.1?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn shell_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
