//! Keeps programs from waiting for an S3 that is away.
//!
//! The first question that gets no answer in [`PATIENCE`] opens the breaker: for [`PAUSE`] every question fails at once,
//! then the next one may try, for [`PROBE`] only. Who knows an older answer that will do waits only [`BRIEF`]; after that
//! nobody who has one asks for [`PAUSE`], and the others do. Any answer closes it.

use std::future::Future;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::{Result, VolumeError};
use super::store::StoreError;

/// How long a program waits for S3 in one operation.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long a question waits for which there is an older answer.
const BRIEF: Duration = Duration::from_secs(2);
/// How long a question waits that is to find out whether S3 is back.
const PROBE: Duration = Duration::from_secs(2);
/// How long nobody asks.
const PAUSE: Duration = Duration::from_secs(3);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(3);

/// Until when who does not ask.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Pauses {
    /// Nobody: S3 is away.
    all: Option<Instant>,
    /// Nobody who has an older answer.
    brief: Option<Instant>,
}

/// When a call of many requests last had an answer to one of them.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    last: Mutex<Option<Instant>>,
}

impl Steps {
    /// One more request was answered.
    pub(crate) fn done(&self) {
        *self.last.lock() = Some(Instant::now());
    }

    /// What `call` comes to, unless no step is done for `patience`.
    async fn limit<T>(&self, begun: Instant, patience: Duration, call: impl Future<Output = T>) -> Option<T> {
        let mut call = std::pin::pin!(call);
        loop {
            let left = self.deadline(begun, patience).saturating_duration_since(Instant::now());
            if let Ok(answer) = tokio::time::timeout(left, &mut call).await {
                return Some(answer);
            }
            if self.deadline(begun, patience) <= Instant::now() {
                return None;
            }
        }
    }

    fn deadline(&self, begun: Instant, patience: Duration) -> Instant {
        self.last.lock().unwrap_or(begun) + patience
    }
}

/// Whether S3 is away, and until when nobody asks.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    pauses: Mutex<Pauses>,
}

impl Breaker {
    /// Repeats a call that may be repeated until it is answered, or the caller has waited long enough.
    pub(crate) async fn patiently<T, F>(&self, call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, StoreError>>,
    {
        self.patiently_in_steps(&Steps::default(), call).await
    }

    /// The same for a call of many requests: the caller's patience begins anew with every step that is done.
    pub(crate) async fn patiently_in_steps<T, F>(&self, steps: &Steps, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, StoreError>>,
    {
        let (begun, patience) = (Instant::now(), self.patience()?);
        let mut backoff = FIRST_BACKOFF;
        loop {
            match steps.limit(begun, patience, call()).await {
                Some(Err(StoreError::Transient(_, _)))
                    if Instant::now() + backoff < steps.deadline(begun, patience) =>
                {
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
                Some(Err(error @ StoreError::Transient(_, _))) => {
                    self.open(&error.to_string());
                    return Err(error.into());
                }
                None => {
                    self.open("no answer in time");
                    return Err(VolumeError::TimedOut);
                }
                Some(answer) => {
                    self.close();
                    return Ok(answer?);
                }
            }
        }
    }

    /// What comes of a question, of a few calls at most. Where there is an `older` answer that will do, an error comes
    /// soon.
    pub(crate) async fn briefly<T>(&self, older: bool, question: impl Future<Output = Result<T>>) -> Result<T> {
        if !older {
            return question.await;
        }
        self.pauses.lock().allows_brief(Instant::now())?;
        if let Ok(answer) = tokio::time::timeout(BRIEF, question).await {
            return answer;
        }
        self.pause("no answer in time", |pauses, until| pauses.brief = Some(until));
        Err(VolumeError::TimedOut)
    }

    /// S3 has answered.
    pub(crate) fn close(&self) {
        if std::mem::take(&mut *self.pauses.lock()) != Pauses::default() {
            tracing::info!("s3 answers again");
        }
    }

    /// Whether the last question got no answer.
    pub(crate) fn is_open(&self) -> bool {
        *self.pauses.lock() != Pauses::default()
    }

    fn open(&self, error: &str) {
        self.pause(error, |pauses, until| pauses.all = Some(until));
    }

    fn pause(&self, error: &str, set: impl Fn(&mut Pauses, Instant)) {
        let mut pauses = self.pauses.lock();
        if *pauses == Pauses::default() {
            tracing::warn!(error, "s3 is away");
        }
        set(&mut pauses, Instant::now() + PAUSE);
    }

    fn patience(&self) -> Result<Duration> {
        self.pauses.lock().patience(Instant::now())
    }
}

impl Pauses {
    /// How long a question waits that is asked `now`.
    fn patience(self, now: Instant) -> Result<Duration> {
        match self.all {
            None => Ok(PATIENCE),
            Some(until) if now < until => Err(VolumeError::TimedOut),
            Some(_) => Ok(PROBE),
        }
    }

    /// An error where a question is not asked `now` for which there is an older answer.
    fn allows_brief(self, now: Instant) -> Result<()> {
        match self.brief.max(self.all) {
            Some(until) if now < until => Err(VolumeError::TimedOut),
            Some(_) | None => Ok(()),
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
        breaker.pauses.lock().all = Some(Instant::now() + Duration::from_secs(60));
        let mut calls = 0;
        let refused = breaker
            .patiently(|| {
                calls += 1;
                fail()
            })
            .await;
        assert!(refused.unwrap_err().is_away() && calls == 0);
        breaker.pauses.lock().all = Some(Instant::now());
        assert_eq!(breaker.patience().unwrap(), PROBE);
        breaker.patiently(|| async { Ok(()) }).await.unwrap();
        assert_eq!(breaker.patience().unwrap(), PATIENCE);
    }

    #[test]
    fn who_has_an_older_answer_does_not_ask_again_soon_and_the_others_do() {
        let breaker = Breaker::default();
        breaker.pause("no answer", |pauses, until| pauses.brief = Some(until));
        let (now, pauses) = (Instant::now(), *breaker.pauses.lock());
        assert!(breaker.is_open() && pauses.allows_brief(now).is_err() && pauses.allows_brief(now + PAUSE).is_ok());
        assert_eq!(pauses.patience(now).unwrap(), PATIENCE);
        breaker.open("no answer");
        let pauses = *breaker.pauses.lock();
        assert!(pauses.allows_brief(now).is_err() && pauses.patience(now).is_err());
        breaker.close();
        assert!(!breaker.is_open() && breaker.pauses.lock().allows_brief(now).is_ok());
    }

    #[tokio::test]
    async fn patience_begins_anew_with_every_step() {
        let (steps, patience) = (Steps::default(), Duration::from_millis(200));
        let five = async {
            for _ in 0..5 {
                tokio::time::sleep(patience / 2).await;
                steps.done();
            }
        };
        assert!(steps.limit(Instant::now(), patience, five).await.is_some(), "half its patience for each step");
        let none = std::future::pending::<()>();
        let begun = Instant::now();
        assert!(steps.limit(begun, patience, none).await.is_none());
        assert!(begun.elapsed() < patience * 2, "nothing is done: {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let breaker = Breaker::default();
        let error = breaker.patiently(|| async { Err::<(), _>(StoreError::Denied("k".into(), "no".into())) }).await;
        assert!(!error.unwrap_err().is_away());
        assert_eq!(breaker.patience().unwrap(), PATIENCE);
    }
}
