//! Being a member of a cluster: from user-data to a session that obeys commands.
//!
//! [`run`] is the agent; [`supervise`] keeps it, sshd and the volume running. The agent can be killed at any time: what
//! it needs is on disk, the processes that it started go on behind their wrappers, and the volume is not its child.

pub mod archive;
pub mod backoff;
pub mod bootstrap;
pub mod client;
pub mod command;
pub mod exec;
pub mod facts;
pub mod hosts;
pub mod join;
pub mod limits;
pub mod membership;
pub mod output;
pub mod paths;
pub mod procfs;
pub mod session;
pub mod spool;
pub mod ssh;
pub mod supervise;
pub mod transfer;
pub mod wrapper;

use anyhow::{Context, bail};
use tracing::info;

use crate::config::AgentConfig;
use crate::durable;
use client::Contact;
use facts::Phase;
use membership::Membership;
use paths::Paths;

/// The agent: joins if it has not yet, installs the SSH material, then keeps a session. Returns only with an error.
///
/// # Errors
///
/// [`join::Refused`] at its root when the coordinator does not want this node.
pub async fn run(paths: Paths) -> anyhow::Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("the agent must run as root");
    }
    let config = AgentConfig::load(&paths.agent_toml())?;
    prepare(&paths)?;
    facts::reached(&paths, Phase::Agent)?;
    limits::raise();
    let keys = ssh::keys(&paths).context("cannot make the SSH keys")?;
    let contact = Contact::new(config, paths.clone());
    let mut membership = stored(&paths, &contact)?;
    loop {
        let member = match membership.take() {
            Some(member) => member,
            None => join::join(&contact, &keys).await?,
        };
        facts::reached(&paths, Phase::Join)?;
        ssh::install(&paths, &member)?;
        facts::reached(&paths, Phase::Ssh)?;
        info!(node = %member.node.host_name, cluster = %member.node.cluster, "ready for commands");
        session::keep(&contact, &member).await?;
        info!("the certificate was refused, joining again");
    }
}

/// The directories, with the rights that they must have whatever the umask was.
fn prepare(paths: &Paths) -> anyhow::Result<()> {
    let dirs = [
        (paths.config_dir(), 0o755),
        (paths.state_dir(), 0o700),
        (paths.jobs_dir(), 0o700),
        (paths.run_dir(), 0o755),
        (paths.log_dir(), 0o755),
    ];
    for (dir, mode) in dirs {
        durable::create_dirs(&dir, mode).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    Ok(())
}

/// What an earlier run of the agent has joined; nothing when that was another cluster (an image made of a node).
fn stored(paths: &Paths, contact: &Contact) -> anyhow::Result<Option<Membership>> {
    let member = Membership::load(&paths.join_json()).context("cannot read the stored membership")?;
    let same = |member: &Membership| member.node.cluster_id == contact.config().cluster_id;
    Ok(member.filter(|member| same(member) && paths.node_certificate().exists() && paths.node_key().exists()))
}
