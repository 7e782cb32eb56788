//! The way to the coordinator: TLS with its certificate authority as the only root, and this node's certificate once
//! it has one.

use std::time::Duration;

use anyhow::Context;
use ec2mpi_proto::MAX_MESSAGE_BYTES;
use ec2mpi_proto::v1::agent_service_client::AgentServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::paths::Paths;
use crate::config::AgentConfig;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A connection on which nothing answers for this long is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Whom to call, and with what.
#[derive(Debug, Clone)]
pub struct Contact {
    config: AgentConfig,
    paths: Paths,
}

impl Contact {
    /// The coordinator of the configuration; keys and certificates lie under `paths`.
    pub fn new(config: AgentConfig, paths: Paths) -> Self {
        Self { config, paths }
    }

    /// What user-data said.
    pub fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// Where this node keeps its things.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// A connection without a certificate: only Join is allowed.
    pub async fn anonymous(&self) -> anyhow::Result<AgentServiceClient<Channel>> {
        self.connect(self.tls()).await
    }

    /// A connection as the member that this node is.
    pub async fn member(&self) -> anyhow::Result<AgentServiceClient<Channel>> {
        let certificate = std::fs::read(self.paths.node_certificate()).context("cannot read the node's certificate")?;
        let key = std::fs::read(self.paths.node_key()).context("cannot read the node's key")?;
        self.connect(self.tls().identity(Identity::from_pem(certificate, key))).await
    }

    fn tls(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.config.ca_pem))
            .domain_name(&self.config.server_name)
    }

    async fn connect(&self, tls: ClientTlsConfig) -> anyhow::Result<AgentServiceClient<Channel>> {
        let channel = Endpoint::from(self.config.coordinator.clone())
            .tls_config(tls)?
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect()
            .await
            .with_context(|| format!("no coordinator at {}", self.config.coordinator))?;
        let client = AgentServiceClient::new(channel);
        Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
    }
}
