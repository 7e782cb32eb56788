//! The script that a machine runs at its first boot: makes sure that this is the machine it was made for, arms the
//! machine's end, stores the agent's settings, fetches the agent, checks it, starts it. Holds no secret. Pure;
//! golden-tested.

use std::collections::BTreeMap;

use ec2mpi_proto::id::{ClusterId, ClusterName, LaunchId};
use serde::Serialize;

use crate::error::Error;

/// EC2's limit for user-data before base64, bytes.
pub const LIMIT: usize = 16 * 1024;

const SCRIPT: &str = include_str!("user_data/script.sh");

/// What arms the end of a machine that has one.
const ARM: &str = include_str!("user_data/arm.sh");

/// What waits for that end.
const DEADLINE: &str = include_str!("../../ami/ec2mpi-deadline.sh");
const DEADLINE_UNIT: &str = include_str!("../../ami/ec2mpi-deadline.service");

/// What systemd runs, where a machine has it; an image that brings the agent along uses the same file.
const UNIT: &str = include_str!("../../ami/ec2mpi-agent.service");

/// What a machine must know to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserData {
    /// URL of the agents' TLS listener, `https://ADDRESS:PORT`.
    pub coordinator: String,
    /// DNS name in the listener's certificate.
    pub server_name: String,
    pub cluster: ClusterName,
    pub cluster_id: ClusterId,
    pub launch: LaunchId,
    /// The coordinator's authority, PEM.
    pub ca_pem: String,
    /// The agent's executable by `uname -m`.
    pub agents: BTreeMap<String, AgentBinary>,
    /// When the machine ends itself, seconds since the epoch.
    pub deadline: Option<u64>,
}

/// Where an executable of the agent is, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentBinary {
    /// Plain HTTP.
    pub url: String,
    /// 64 hexadecimal digits, lower case.
    pub sha256: String,
}

/// `/etc/ec2mpi/agent.toml` on the machine.
#[derive(Debug, Serialize)]
struct AgentSettings<'a> {
    coordinator: &'a str,
    server_name: &'a str,
    cluster: &'a str,
    cluster_id: &'a str,
    launch_id: &'a str,
    ca_pem: &'a str,
}

/// The script. Refuses what could break out of its quotes, and a result over [`LIMIT`].
pub fn render(data: &UserData) -> Result<String, Error> {
    check(data)?;
    let script = SCRIPT
        .replace("@ARM@\n", &arm(data.deadline))
        .replace("@UNIT@\n", UNIT)
        .replace("@LAUNCH@", data.launch.as_str())
        .replace("@SETTINGS@\n", &settings(data)?)
        .replace("@AGENTS@\n", &agents(&data.agents));
    if script.len() > LIMIT {
        return Err(Error::Internal(format!("user-data has {} bytes, EC2 takes {LIMIT}", script.len())));
    }
    Ok(script)
}

fn arm(deadline: Option<u64>) -> String {
    let Some(deadline) = deadline else { return String::new() };
    ARM.replace("@DEADLINE@", &deadline.to_string())
        .replace("@DEADLINE_SCRIPT@\n", DEADLINE)
        .replace("@DEADLINE_UNIT@\n", DEADLINE_UNIT)
}

fn settings(data: &UserData) -> Result<String, Error> {
    let settings = AgentSettings {
        coordinator: &data.coordinator,
        server_name: &data.server_name,
        cluster: data.cluster.as_str(),
        cluster_id: data.cluster_id.as_str(),
        launch_id: data.launch.as_str(),
        ca_pem: &data.ca_pem,
    };
    toml::to_string(&settings).map_err(|error| Error::Internal(format!("the agent's settings: {error}")))
}

/// Branches of the script's `case`.
fn agents(agents: &BTreeMap<String, AgentBinary>) -> String {
    agents
        .iter()
        .map(|(architecture, AgentBinary { url, sha256 })| {
            format!("{architecture})\n    url='{url}'\n    sum='{sha256}'\n    ;;\n")
        })
        .collect()
}

/// Everything that goes into the script is of harmless characters; identifiers are by their types.
fn check(data: &UserData) -> Result<(), Error> {
    check_text("coordinator's URL", &data.coordinator, data.coordinator.starts_with("https://"))?;
    check_text("server name", &data.server_name, !data.server_name.is_empty())?;
    let authority = data.ca_pem.trim();
    let is_certificate = authority.starts_with("-----BEGIN CERTIFICATE-----")
        && authority.ends_with("-----END CERTIFICATE-----")
        && !authority.contains("PRIVATE")
        && authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=- \n".contains(&b));
    if !is_certificate {
        return Err(Error::Internal("user-data: the authority is not a PEM certificate".to_owned()));
    }
    if data.agents.is_empty() {
        return Err(Error::Internal("user-data: there is no agent executable to hand out".to_owned()));
    }
    for (architecture, agent) in &data.agents {
        check_text("architecture", architecture, !architecture.is_empty() && !architecture.contains(['/', ':']))?;
        check_text("agent's URL", &agent.url, agent.url.starts_with("http://"))?;
        let is_sum = agent.sha256.len() == 64 && agent.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        check_text("agent's SHA-256", &agent.sha256, is_sum)?;
    }
    Ok(())
}

fn check_text(what: &str, text: &str, holds: bool) -> Result<(), Error> {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"._-:/[]".contains(&b);
    if holds && text.bytes().all(harmless) {
        return Ok(());
    }
    Err(Error::Internal(format!("user-data: {text:?} is not a {what}")))
}

#[cfg(test)]
mod tests;
