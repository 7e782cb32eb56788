//! One coordinator a state directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

/// Who looks whether the lock is free holds it for a moment.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// Held as long as the file is open; the kernel lets go of it with the process, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the directory, or says who has it.
pub(super) async fn acquire(state_dir: &Path) -> anyhow::Result<Lock> {
    let path = state_dir.join("lock");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = opened.with_context(|| format!("cannot open the lock {}", path.display()))?;
    let begun = tokio::time::Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            Err(TryLockError::WouldBlock) => bail!(held(state_dir, &path)),
            Err(TryLockError::Error(error)) => return Err(error).context("cannot take the coordinator's lock"),
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Lock { _file: file })
}

fn held(state_dir: &Path, path: &Path) -> String {
    let pid = std::fs::read_to_string(path).unwrap_or_default();
    let pid = pid.trim();
    let who = if pid.is_empty() { String::new() } else { format!(" (pid {pid})") };
    format!(
        "another coordinator{who} works on {}; stop it with `ec2mpi stop` or choose another directory with --state-dir",
        state_dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_coordinator_on_a_directory_is_refused_with_the_pid_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = acquire(directory.path()).await.unwrap();
        let error = acquire(directory.path()).await.unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--state-dir"), "{error}");
        drop(first);
        acquire(directory.path()).await.unwrap();
    }
}
