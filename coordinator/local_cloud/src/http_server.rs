//! One listener: connections, their limits, and the end of them. A service that fails instead of answering has its
//! connection closed without a word, which is how answers are lost on request.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Further connections wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4096;

/// A client must send the headers of a request within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests in progress may go on for so long after the shutdown began.
const GRACE: Duration = Duration::from_secs(5);

/// After a failed `accept` (mostly: too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers requests. Its errors close the connection.
pub(crate) trait Answers:
    Service<Request<Incoming>, Response = Response<Self::Out>, Error: Into<Box<dyn Error + Send + Sync>>, Future: Send>
    + Clone
    + Send
    + 'static
{
    /// The body of an answer.
    type Out: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// Whether a new connection is taken; one that is not is reset.
    fn accepts(&self) -> bool {
        true
    }
}

/// Serves until `shutdown` is done, then lets requests in progress end for a few seconds.
pub(crate) async fn serve<S: Answers>(
    listener: TcpListener,
    service: S,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) if !service.accepts() => reset(&stream),
            Ok((stream, _)) => {
                let connection = connection(stream, service.clone(), stop.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections were cut off at shutdown");
    }
    Ok(())
}

/// Has the connection reset when it is dropped.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection is closed instead of reset");
    }
}

async fn connection<S: Answers>(stream: TcpStream, service: S, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay was not set");
    }
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
