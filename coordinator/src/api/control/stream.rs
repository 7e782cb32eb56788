//! Streams of the control API. Each ends when the coordinator stops, so that a stop waits for nobody.

use std::pin::Pin;

use ec2mpi_proto::v1::{self, job_event};
use futures::Stream;
use futures::stream::unfold;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{event, render};
use crate::cluster::{ClusterPhase, ClusterView};
use crate::output;
use crate::output::{JobEvent, Listener};

pub(super) type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A job's events, read as fast as the caller takes them.
pub(super) fn job_events(listener: Listener, shutdown: CancellationToken) -> BoxStream<v1::JobEvent> {
    Box::pin(unfold(Some((listener, shutdown)), async |state| {
        let (mut listener, shutdown) = state?;
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Some((Err(stopping()), None)),
            next = listener.next() => match next? {
                Ok(heard) => Some((Ok(job_event(heard)), Some((listener, shutdown)))),
                Err(error) => Some((Err(error.into()), None)),
            },
        }
    }))
}

fn job_event(heard: JobEvent) -> v1::JobEvent {
    event(match heard {
        JobEvent::Started(record) => job_event::Event::Started(render::job(&record)),
        JobEvent::Ended(record) => job_event::Event::Ended(render::job(&record)),
        JobEvent::Output { stream, offset, data } => job_event::Event::Output(v1::Output {
            stderr: stream == output::Stream::Stderr,
            offset,
            data: data.to_vec(),
        }),
    })
}

/// A cluster now and after every change, until [`is_last`].
pub(super) fn clusters(
    views: watch::Receiver<ClusterView>,
    follow: bool,
    shutdown: CancellationToken,
) -> BoxStream<v1::Cluster> {
    Box::pin(unfold(Some((views, true)), move |state| {
        let shutdown = shutdown.clone();
        async move {
            let (mut views, first) = state?;
            if !first {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Some((Err(stopping()), None)),
                    // Closed: the last view was told already.
                    changed = views.changed() => changed.ok()?,
                }
            }
            let view = views.borrow_and_update().clone();
            let rest = (!is_last(&view.phase, follow)).then_some((views, false));
            Some((Ok(render::cluster(&view)), rest))
        }
    }))
}

fn is_last(phase: &ClusterPhase, follow: bool) -> bool {
    match phase {
        ClusterPhase::Failed { .. } | ClusterPhase::Destroyed { .. } => true,
        ClusterPhase::Ready => !follow,
        ClusterPhase::Creating | ClusterPhase::Destroying { .. } => false,
    }
}

fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping; ask again")
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::cluster::Proof;
    use crate::job::fixtures::view;

    fn states(seen: Vec<Result<v1::Cluster, Status>>) -> Vec<v1::cluster::State> {
        seen.into_iter().map(|view| view.unwrap().state()).collect()
    }

    #[tokio::test]
    async fn a_watch_ends_with_the_first_ready_view_or_follows_to_the_end() {
        let (sender, views) = watch::channel(view(1));
        let short = clusters(views.clone(), false, CancellationToken::new());
        assert_eq!(states(short.collect().await), [v1::cluster::State::Ready]);
        let mut long = clusters(views, true, CancellationToken::new());
        assert_eq!(long.next().await.unwrap().unwrap().state(), v1::cluster::State::Ready);
        let proof = Proof { terminated: 1, remaining: 0, query: String::new(), volume_kept: None };
        let phase = ClusterPhase::Destroyed { proof };
        sender.send_replace(ClusterView { phase, ..view(1) });
        assert_eq!(states(long.collect().await), [v1::cluster::State::Destroyed]);
    }

    #[tokio::test]
    async fn a_stop_ends_a_watch() {
        let (_sender, views) = watch::channel(view(1));
        let shutdown = CancellationToken::new();
        let mut seen = clusters(views, true, shutdown.clone());
        seen.next().await.unwrap().unwrap();
        shutdown.cancel();
        assert_eq!(seen.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        assert!(seen.next().await.is_none());
    }
}
