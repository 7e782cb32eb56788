//! What user-data told this node: `/etc/ec2mpi/agent.toml`, parsed once into a type that cannot be wrong.

use std::path::Path;

use anyhow::Context;
use ec2mpi_proto::id::{ClusterId, ClusterName, LaunchId};
use serde::Deserialize;

/// Where the coordinator is, how to know it, and which launch this machine belongs to. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct AgentConfig {
    /// `https://ADDRESS:PORT` of the listener for agents.
    pub coordinator: http::Uri,
    /// The DNS name in the coordinator's certificate.
    pub server_name: String,
    /// The name of the cluster.
    pub cluster: ClusterName,
    /// The cluster; what is stored of another one is not used.
    pub cluster_id: ClusterId,
    /// The launch that made this machine.
    pub launch_id: LaunchId,
    /// The only root that the coordinator's certificate may hang on, PEM.
    pub ca_pem: String,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    coordinator: String,
    server_name: String,
    cluster: ClusterName,
    cluster_id: ClusterId,
    launch_id: LaunchId,
    ca_pem: String,
}

impl AgentConfig {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not right", path.display()))
    }

    /// Checks the text of the file.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(toml::from_str(text)?)
    }
}

impl TryFrom<Written> for AgentConfig {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        Ok(Self {
            coordinator: https_address(&written.coordinator)?,
            server_name: dns_name(written.server_name)?,
            cluster: written.cluster,
            cluster_id: written.cluster_id,
            launch_id: written.launch_id,
            ca_pem: certificate_pem(written.ca_pem)?,
        })
    }
}

fn https_address(text: &str) -> Result<http::Uri, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("coordinator {text:?}: {error}"))?;
    let only_root = matches!(uri.path(), "" | "/") && uri.query().is_none();
    if uri.scheme_str() != Some("https") || uri.host().is_none() || uri.port_u16().is_none() || !only_root {
        return Err(format!("coordinator {text:?}: must be https://ADDRESS:PORT"));
    }
    Ok(uri)
}

fn dns_name(text: String) -> Result<String, String> {
    let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
    if text.is_empty() || text.len() > 253 || !text.bytes().all(legal) {
        return Err(format!("server_name {text:?}: must be a DNS name"));
    }
    Ok(text)
}

fn certificate_pem(text: String) -> Result<String, String> {
    if text.contains("PRIVATE KEY") {
        return Err("ca_pem: holds a private key".to_owned());
    }
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err("ca_pem: holds no certificate".to_owned());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        format!(
            "coordinator = \"https://10.213.0.1:41234\"\nserver_name = \"coordinator.ec2mpi\"\ncluster = \"demo\"\n\
             cluster_id = \"{}\"\nlaunch_id = \"{}\"\nca_pem = \"\"\"-----BEGIN CERTIFICATE-----\nAA==\n\"\"\"\n",
            ClusterId::random(),
            LaunchId::random()
        )
    }

    #[test]
    fn a_good_file_parses() {
        let config = AgentConfig::parse(&text()).unwrap();
        assert_eq!(config.coordinator.port_u16(), Some(41234));
        assert_eq!(config.cluster.as_str(), "demo");
        assert!(config.ca_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    }

    #[test]
    fn what_is_unknown_missing_or_illegal_is_refused_by_name() {
        let good = text();
        let cases = [
            (format!("{good}\nsecret = \"x\"\n"), "secret"),
            (good.replace("server_name", "server_nam"), "server_nam"),
            (good.replace("https://", "http://"), "https://ADDRESS:PORT"),
            (good.replace(":41234", ""), "https://ADDRESS:PORT"),
            (good.replace("\"demo\"", "\"De mo\""), "cluster name"),
            (good.replace("cluster_id = \"c-", "cluster_id = \"x-"), "cluster id"),
            (good.replace("BEGIN CERTIFICATE", "BEGIN NOTHING"), "no certificate"),
            (good.replace("BEGIN CERTIFICATE", "BEGIN PRIVATE KEY"), "private key"),
        ];
        for (bad, names) in cases {
            let error = AgentConfig::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(names), "{names}: {error}");
        }
    }
}
