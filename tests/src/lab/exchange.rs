//! One connection of a client, and the one to the server behind it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::faults::{Outage, Plan, Verdict};
use super::pace::{Pace, Paced};

type Answer = Response<BoxBody<Bytes, Ended>>;

/// Why a connection ends; the client sees only that it does.
#[derive(Debug)]
pub(super) struct Ended(String);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Ended {}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<hyper::Error> for Ended {
    fn from(error: hyper::Error) -> Self {
        Self(error.to_string())
    }
}

/// A client's connection while it lasts.
#[derive(Debug)]
pub(super) struct Link {
    server: SocketAddr,
    plan: Arc<Plan>,
    /// The client's socket once more, to break it by.
    socket: OwnedFd,
    upstream: Mutex<Option<SendRequest<Paced>>>,
    up: Pace,
    down: Pace,
}

impl Link {
    pub(super) fn new(stream: &TcpStream, server: SocketAddr, plan: Arc<Plan>) -> io::Result<Arc<Self>> {
        stream.set_nodelay(true)?;
        let socket = stream.as_fd().try_clone_to_owned()?;
        let upstream = Mutex::default();
        Ok(Arc::new(Self { server, plan, socket, upstream, up: Pace::new(), down: Pace::new() }))
    }

    /// Serves until the client leaves or the connection is broken on purpose.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let link = Arc::clone(&self);
            async move { link.answer(request).await }
        });
        // However it ends is what the client is to see.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Ended> {
        self.plan.traffic.asked(&request);
        let fate = self.plan.fate();
        if !fate.wait.is_zero() {
            tokio::time::sleep(fate.wait).await;
        }
        match fate.verdict {
            Verdict::Pass => Ok(self.pass(request).await?.map(BodyExt::boxed)),
            Verdict::Throttle => refuse(request, StatusCode::SERVICE_UNAVAILABLE, "SlowDown").await,
            Verdict::Fail => refuse(request, StatusCode::INTERNAL_SERVER_ERROR, "InternalError").await,
            Verdict::Reset | Verdict::Away(Outage::Reset) => Err(self.break_off()),
            Verdict::Away(Outage::Silence) => {
                self.plan.silence_ends().await;
                Err(self.break_off())
            }
            Verdict::Cut => {
                let answer = self.pass(request).await?;
                self.linger_not();
                Ok(answer.map(|body| body.cut().boxed()))
            }
            Verdict::Lose { answer } => self.lose(request, answer).await,
        }
    }

    /// Carries the request out, to the end of the server's answer, and says something else.
    async fn lose(&self, request: Request<Incoming>, answer: bool) -> Result<Answer, Ended> {
        let head = request.method() == hyper::Method::HEAD;
        self.pass(request).await?.into_body().collect().await?;
        if answer { Ok(error(head, StatusCode::INTERNAL_SERVER_ERROR, "InternalError")) } else { Err(self.break_off()) }
    }

    async fn pass(&self, request: Request<Incoming>) -> Result<Response<Paced>, Ended> {
        let mut upstream = self.upstream.lock().await;
        // One that the server closed meanwhile is replaced.
        let kept = match upstream.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let request = request.map(|body| Paced::new(body, Arc::clone(&self.plan), self.up.clone()));
        let answer = sender.send_request(request).await.inspect_err(|_| self.linger_not())?;
        *upstream = Some(sender);
        self.plan.traffic.answered(&answer);
        Ok(answer.map(|body| Paced::new(body, Arc::clone(&self.plan), self.down.clone())))
    }

    async fn connect(&self) -> Result<SendRequest<Paced>, Ended> {
        let stream = TcpStream::connect(self.server).await.inspect_err(|_| self.linger_not())?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// The error that ends the connection with a reset.
    fn break_off(&self) -> Ended {
        self.linger_not();
        io::Error::from(io::ErrorKind::ConnectionReset).into()
    }

    /// From now on closing the socket resets the connection.
    fn linger_not(&self) {
        let reset = libc::linger { l_onoff: 1, l_linger: 0 };
        // A socket that is closed already needs no reset.
        let _ = setsockopt(&self.socket, sockopt::Linger, &reset);
    }
}

/// Takes the request's body and answers with one of S3's errors.
async fn refuse(request: Request<Incoming>, status: StatusCode, code: &str) -> Result<Answer, Ended> {
    let head = request.method() == hyper::Method::HEAD;
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(error(head, status, code))
}

fn error(head: bool, status: StatusCode, code: &str) -> Answer {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>the lab says so</Message></Error>");
    let body = if head { Bytes::new() } else { text.into() };
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/xml"));
    answer
}
