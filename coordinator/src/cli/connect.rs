//! Reaching the coordinator: through its socket, started where none answers, replaced where it is another build.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ec2mpi_proto::MAX_MESSAGE_BYTES;
use ec2mpi_proto::v1::control_service_client::ControlServiceClient;
use ec2mpi_proto::v1::{GetInfoRequest, GetInfoResponse};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::daemon;
use crate::config::Settings;

/// The generated client over the socket.
pub(super) type Client = ControlServiceClient<Channel>;

/// How long a coordinator that answers at all may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A coordinator that was lost is being restarted by someone else, perhaps, for so long.
const RESTART_PATIENCE: Duration = Duration::from_secs(3);
/// How long a lost coordinator is looked for.
const RECONNECT_LIMIT: Duration = Duration::from_secs(90);
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Coordinators that are asked the same thing before one answers.
const ASK_ATTEMPTS: u32 = 3;

/// Where the coordinator is, or will be.
#[derive(Debug, Clone)]
pub(super) struct Coordinator {
    settings: Settings,
}

/// What is found at the socket.
pub(super) enum Found {
    Running(Client),
    /// No socket, or nobody behind it.
    Nobody,
}

impl Coordinator {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// A client of a coordinator of this build, started or replaced if need be.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        let mut client = match self.dial().await? {
            Found::Running(client) => client,
            Found::Nobody => return daemon::start(&self.settings).await,
        };
        let info = match info(&mut client).await {
            Ok(info) => info,
            Err(error) => match self.dial().await? {
                Found::Running(_) => return Err(error),
                // It died before it answered.
                Found::Nobody => return daemon::start(&self.settings).await,
            },
        };
        same_cloud(&self.settings, &info)?;
        if daemon::is_this_build(&info) {
            return Ok(client);
        }
        eprintln!("replacing the coordinator (pid {}): it is of another build", info.pid);
        daemon::stop(&mut client, info.pid).await?;
        daemon::start(&self.settings).await
    }

    /// The answer to a question, which changes nothing: when the coordinator is lost, the next one is asked.
    pub(super) async fn ask<T>(
        &self,
        question: impl AsyncFn(Client) -> Result<Response<T>, Status>,
    ) -> anyhow::Result<T> {
        let mut client = self.connect().await?;
        for _ in 1..ASK_ATTEMPTS {
            match question(client).await {
                Err(status) if is_lost(&status) => client = self.reconnect().await?,
                answer => return Ok(answer.map_err(told)?.into_inner()),
            }
        }
        Ok(question(client).await.map_err(told)?.into_inner())
    }

    /// A client of whoever answers at the socket.
    pub(super) async fn dial(&self) -> anyhow::Result<Found> {
        dial(&self.settings.socket).await
    }

    /// After the connection was lost: finds the coordinator again, or starts it.
    pub(super) async fn reconnect(&self) -> anyhow::Result<Client> {
        let begun = Instant::now();
        loop {
            let found = match self.dial().await {
                Ok(Found::Nobody) if begun.elapsed() < RESTART_PATIENCE => Err(anyhow!("nobody answers")),
                _ => self.connect().await,
            };
            match found {
                Ok(client) => return Ok(client),
                Err(error) if begun.elapsed() > RECONNECT_LIMIT => {
                    return Err(error.context("lost the coordinator and could not reach it again"));
                }
                Err(_) => sleep(RECONNECT_PAUSE).await,
            }
        }
    }
}

/// Refuses a coordinator that was told other things of the cloud: what is asked for here would be done elsewhere.
fn same_cloud(settings: &Settings, info: &GetInfoResponse) -> anyhow::Result<()> {
    let mine = std::iter::once(("cloud", settings.cloud.name().to_owned())).chain(settings.aws.given());
    for (name, told) in mine {
        let theirs = if name == "cloud" { Some(&info.cloud) } else { info.cloud_settings.get(name) };
        if theirs != Some(&told) {
            let theirs = theirs.map_or_else(|| format!("without --{name}"), |theirs| format!("with --{name} {theirs}"));
            bail!(
                "the coordinator (pid {}) was started {theirs}, this says --{name} {told}: end it with `ec2mpi stop`, \
                 the next command starts one with the new settings; or leave --{name} as it was",
                info.pid
            );
        }
    }
    Ok(())
}

/// A client of whoever answers at this socket.
pub(super) async fn dial(socket: &Path) -> anyhow::Result<Found> {
    match UnixStream::connect(socket).await {
        Ok(_) => {}
        Err(error) => return nobody_or_error(socket, error),
    }
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name is never looked up: the connector goes to the socket.
    let endpoint = Endpoint::from_static("http://coordinator.ec2mpi").connect_timeout(ANSWER_LIMIT);
    let channel = match endpoint.connect_with_connector(connector).await {
        Ok(channel) => channel,
        // It may have died since.
        Err(error) => match UnixStream::connect(socket).await {
            Ok(_) => {
                let error = Err(error);
                return error.with_context(|| format!("cannot talk to the coordinator at {}", socket.display()));
            }
            Err(gone) => return nobody_or_error(socket, gone),
        },
    };
    let client = ControlServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(Found::Running(client))
}

fn nobody_or_error(socket: &Path, error: io::Error) -> anyhow::Result<Found> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(Found::Nobody),
        // Whoever listened has died before it took the connection.
        io::ErrorKind::ConnectionReset => Ok(Found::Nobody),
        io::ErrorKind::PermissionDenied => {
            bail!("the coordinator's socket {} is for root only: run this with sudo", socket.display())
        }
        _ => Err(error).with_context(|| format!("cannot connect to the coordinator's socket {}", socket.display())),
    }
}

pub(super) async fn info(client: &mut Client) -> anyhow::Result<GetInfoResponse> {
    let answer = timeout(ANSWER_LIMIT, client.get_info(GetInfoRequest {})).await;
    let answer = answer.map_err(|_| {
        anyhow!("the coordinator does not answer within {} s: see its log, or kill it", ANSWER_LIMIT.as_secs())
    })?;
    Ok(answer.map_err(told)?.into_inner())
}

/// What the coordinator answered instead of what was asked for.
pub(super) fn told(status: Status) -> anyhow::Error {
    if is_lost(&status) {
        return anyhow!("lost the coordinator ({}): try again", status.message());
    }
    anyhow!("{}", status.message())
}

/// Whether the connection broke, or the coordinator is stopping, rather than that it answered.
pub(super) fn is_lost(status: &Status) -> bool {
    // A status that was made on this side of the wire knows its cause.
    status.code() == Code::Unavailable && status.message().contains("coordinator is stopping")
        || std::error::Error::source(status).is_some()
}
