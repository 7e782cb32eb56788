//! A body that passes at a bounded speed, and perhaps not to its end.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::exchange::Ended;
use super::faults::Plan;

/// How far a connection may run ahead of its speed; timers are no finer.
const BURST: Duration = Duration::from_millis(5);

/// One direction of one connection: when it has made up for what it moved.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    free_at: Arc<Mutex<Instant>>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { free_at: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Notes that `bytes` were moved; how long to wait before more are.
    fn charge(&self, bytes: usize, per_second: u64) -> Option<Duration> {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let taken = Duration::from_secs_f64(bytes as f64 / per_second.max(1) as f64);
        *free_at = (*free_at).max(now) + taken;
        free_at.checked_duration_since(now).filter(|wait| *wait > BURST)
    }
}

/// The body of a request or an answer on its way through.
#[derive(Debug)]
pub(super) struct Paced {
    body: Incoming,
    plan: Arc<Plan>,
    pace: Pace,
    pause: Option<Pin<Box<Sleep>>>,
    /// After so many bytes the connection breaks.
    cut_after: Option<u64>,
}

impl Paced {
    pub(super) fn new(body: Incoming, plan: Arc<Plan>, pace: Pace) -> Self {
        Self { body, plan, pace, pause: None, cut_after: None }
    }

    /// The same, broken in the middle.
    pub(super) fn cut(mut self) -> Self {
        let length = self.size_hint().exact().unwrap_or(0);
        self.cut_after = Some(length / 2);
        self
    }

    fn pass(&mut self, bytes: usize) -> std::io::Result<()> {
        if let Some(per_second) = self.plan.bytes_per_second() {
            let wait = self.pace.charge(bytes, per_second);
            self.pause = wait.map(|wait| Box::pin(tokio::time::sleep(wait)));
        }
        let Some(left) = &mut self.cut_after else { return Ok(()) };
        match left.checked_sub(bytes as u64) {
            Some(rest) if rest > 0 => {
                *left = rest;
                Ok(())
            }
            _ => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.pass(frame.data_ref().map_or(0, Bytes::len))?;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.cut_after.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_keeps_its_speed() {
        let pace = Pace::new();
        assert_eq!(pace.charge(100, 1_000_000), None);
        let wait = pace.charge(1_000_000, 1_000_000).unwrap();
        assert!(wait > Duration::from_millis(900) && wait < Duration::from_millis(1100), "{wait:?}");
    }
}
