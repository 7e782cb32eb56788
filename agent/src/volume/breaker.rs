//! Keeps programs from waiting for an S3 that is away.
//!
//! The first question that gets no answer in [`PATIENCE`] opens the breaker: for [`PAUSE`] every question fails at once,
//! then the next one may try, for [`PROBE`] only. Any answer closes it.

use std::future::Future;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::{Result, VolumeError};
use super::store::StoreError;

/// How long a program waits for S3 in one operation.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long a question waits that is to find out whether S3 is back.
const PROBE: Duration = Duration::from_secs(2);
/// How long nobody asks.
const PAUSE: Duration = Duration::from_secs(3);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(3);

/// Whether S3 is away, and until when nobody asks.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    open_until: Mutex<Option<Instant>>,
}

impl Breaker {
    /// Repeats a call that may be repeated until it is answered, or the caller has waited long enough.
    pub(crate) async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, StoreError>>,
    {
        let deadline = Instant::now() + self.patience()?;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, call()).await {
                Ok(Err(StoreError::Transient(_, _))) if Instant::now() + backoff < deadline => {
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
                Ok(Err(error @ StoreError::Transient(_, _))) => {
                    self.open(&error.to_string());
                    return Err(error.into());
                }
                Err(_) => {
                    self.open("no answer in time");
                    return Err(VolumeError::TimedOut);
                }
                Ok(answer) => {
                    self.close();
                    return Ok(answer?);
                }
            }
        }
    }

    /// S3 has answered.
    pub(crate) fn close(&self) {
        if self.open_until.lock().take().is_some() {
            tracing::info!("s3 answers again");
        }
    }

    /// Whether the last question got no answer.
    pub(crate) fn is_open(&self) -> bool {
        self.open_until.lock().is_some()
    }

    fn open(&self, error: &str) {
        if self.open_until.lock().replace(Instant::now() + PAUSE).is_none() {
            tracing::warn!(error, "s3 is away");
        }
    }

    fn patience(&self) -> Result<Duration> {
        match *self.open_until.lock() {
            None => Ok(PATIENCE),
            Some(until) if Instant::now() < until => Err(VolumeError::TimedOut),
            Some(_) => Ok(PROBE),
        }
    }
}

impl VolumeError {
    /// Whether it says that S3 is away, and nothing about the question.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Store(StoreError::Transient(_, _)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fail() -> std::result::Result<(), StoreError> {
        Err(StoreError::Transient("k".into(), "503".into()))
    }

    #[tokio::test]
    async fn one_waits_the_others_do_not_and_an_answer_heals() {
        let breaker = Breaker::default();
        *breaker.open_until.lock() = Some(Instant::now() + Duration::from_secs(60));
        let mut calls = 0;
        let refused = breaker
            .patiently(|| {
                calls += 1;
                fail()
            })
            .await;
        assert!(refused.unwrap_err().is_away() && calls == 0);
        *breaker.open_until.lock() = Some(Instant::now());
        assert_eq!(breaker.patience().unwrap(), PROBE);
        breaker.patiently(|| async { Ok(()) }).await.unwrap();
        assert_eq!(breaker.patience().unwrap(), PATIENCE);
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let breaker = Breaker::default();
        let error = breaker.patiently(|| async { Err::<(), _>(StoreError::Denied("k".into(), "no".into())) }).await;
        assert!(!error.unwrap_err().is_away());
        assert_eq!(breaker.patience().unwrap(), PATIENCE);
    }
}
