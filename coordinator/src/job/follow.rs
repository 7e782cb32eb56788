//! Following a process: its output into the spool, until its exit.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::drive::Driver;
use super::nodes;
use super::state::{Event, NO_EXIT_CODE};
use crate::output::{Appended, Stream};
use crate::registry::{ProcessEvent, Request, RequestError};

/// How long a node may take to answer, its agent's restart included.
const DEADLINE: Duration = Duration::from_secs(60);
/// After a failed write to the spool.
const SPOOL_PAUSE: Duration = Duration::from_secs(5);
/// Failed writes in a row before the job is given up: ten minutes of a full disk.
const SPOOL_ATTEMPTS: u32 = 120;

/// What to do after one event.
enum Next {
    Listen,
    AskAgain,
    Over(Event),
}

impl Driver {
    /// Returns with the event that ends the running of the process.
    pub(super) async fn follow(&mut self) -> Event {
        let mut spool_failures = 0;
        loop {
            match self.follow_once(&mut spool_failures).await {
                Some(event) => return event,
                None => debug!(job = %self.record.id, "following again"),
            }
        }
    }

    /// One subscription. None: subscribe and ask again.
    async fn follow_once(&mut self, spool_failures: &mut u32) -> Option<Event> {
        let mut events = self.parts.registry.subscribe(&self.record.node.instance, &self.record.id);
        let mut asking = Some(self.ask_to_follow());
        let mut ask_again = false;
        loop {
            let next = tokio::select! {
                answer = pending_or(&mut asking) => {
                    asking = None;
                    self.asked(answer)
                }
                event = events.recv() => match event {
                    Some(event) => self.heard(event, spool_failures).await,
                    // Another subscriber, or the registry is ending: not at once again.
                    None => { sleep(Duration::from_secs(1)).await; return None }
                },
            };
            match next {
                Next::Listen => {}
                Next::AskAgain => ask_again = true,
                Next::Over(event) => return Some(event),
            }
            // One question at a time: what comes before its answer may be the end of what was asked for before.
            if ask_again && asking.is_none() {
                (asking, ask_again) = (Some(self.ask_to_follow()), false);
            }
        }
    }

    fn ask_to_follow(&self) -> BoxFuture<'static, Result<String, RequestError>> {
        let registry = self.parts.registry.clone();
        let node = self.record.node.instance.clone();
        let lengths = self.spool.lengths();
        let request = Request::FollowProcess {
            job: self.record.id.clone(),
            stdout_offset: lengths.stdout,
            stderr_offset: lengths.stderr,
        };
        async move { registry.request(&node, request, DEADLINE).await }.boxed()
    }

    fn asked(&self, answer: Result<String, RequestError>) -> Next {
        match answer {
            Ok(_) => Next::Listen,
            Err(RequestError::Timeout(..)) => Next::AskAgain,
            Err(RequestError::Failed(_, why)) => {
                let why = format!("{} no longer knows the program: {why}", self.record.node.host_name);
                Next::Over(Event::Broke { why, code: NO_EXIT_CODE })
            }
            Err(RequestError::Gone(_)) => Next::Over(nodes::gone(&self.parts, &self.record.node)),
        }
    }

    async fn heard(&mut self, event: ProcessEvent, spool_failures: &mut u32) -> Next {
        match event {
            ProcessEvent::Output { stderr, offset, data } => {
                let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
                self.store(stream, offset, &data, spool_failures).await
            }
            ProcessEvent::Exit { code, error, .. } if error.is_empty() => Next::Over(Event::Exited { code }),
            ProcessEvent::Exit { code, error, .. } => {
                let why = format!("{}: {error}", self.record.node.host_name);
                Next::Over(Event::Broke { why, code: if code == 0 { NO_EXIT_CODE } else { code } })
            }
            ProcessEvent::Reconnected => Next::AskAgain,
            ProcessEvent::Gone => Next::Over(nodes::gone(&self.parts, &self.record.node)),
        }
    }

    async fn store(&mut self, stream: Stream, offset: u64, data: &[u8], failures: &mut u32) -> Next {
        match self.spool.append(stream, offset, data).await {
            Ok(Appended::Stored) => {
                *failures = 0;
                self.publish();
                Next::Listen
            }
            Ok(Appended::Gap) => Next::AskAgain,
            Err(error) => {
                *failures += 1;
                if *failures == 1 {
                    warn!(job = %self.record.id, %error, "cannot store output");
                }
                if *failures >= SPOOL_ATTEMPTS {
                    let why = format!("its output cannot be stored: {error}");
                    return Next::Over(Event::Broke { why, code: NO_EXIT_CODE });
                }
                sleep(SPOOL_PAUSE).await;
                Next::AskAgain
            }
        }
    }
}

async fn pending_or<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
