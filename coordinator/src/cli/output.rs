//! Bytes to standard output and standard error, exactly as they come.

use anyhow::Context;
use tokio::io::{AsyncWriteExt, Stderr, Stdout};

/// Both streams of this process.
pub(super) struct Sink {
    stdout: Stdout,
    stderr: Stderr,
}

impl Sink {
    pub(super) fn new() -> Self {
        Self { stdout: tokio::io::stdout(), stderr: tokio::io::stderr() }
    }

    /// Returns when the bytes have left this process.
    pub(super) async fn write(&mut self, to_stderr: bool, data: &[u8]) -> anyhow::Result<()> {
        let written = match to_stderr {
            true => write_all(&mut self.stderr, data).await,
            false => write_all(&mut self.stdout, data).await,
        };
        written.with_context(|| {
            if to_stderr { "cannot write to standard error" } else { "cannot write to standard output" }
        })
    }
}

async fn write_all(stream: &mut (impl AsyncWriteExt + Unpin), data: &[u8]) -> std::io::Result<()> {
    stream.write_all(data).await?;
    stream.flush().await
}

/// Prints data; a reader that has gone away is an error, not a panic.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}
