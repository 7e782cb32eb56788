//! Being a member of a cluster: from user-data to a session that obeys commands.
//!
//! [`run`] is the agent; [`supervise`] keeps it, sshd and the volume running. The agent can be killed at any time: what
//! it needs is on disk, the processes that it started go on behind their wrappers, and the volume is not its child.

pub mod archive;
pub mod backoff;
pub mod bootstrap;
pub mod certificate;
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

use std::path::PathBuf;

use anyhow::{Context, bail};
use tracing::{info, warn};

use crate::config::AgentConfig;
use crate::durable;
use client::Contact;
use facts::Phase;
use membership::Membership;
use paths::Paths;

/// The agent: joins if it has not yet, installs the SSH material, then keeps a session. Returns only with an error.
/// `agent` is the agent's own program, for the children that do its work.
///
/// # Errors
///
/// [`join::Refused`] at its root when the coordinator does not want this node.
pub async fn run(paths: Paths, agent: PathBuf) -> anyhow::Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("the agent must run as root");
    }
    let config = AgentConfig::load(&paths.agent_toml())?;
    prepare(&paths)?;
    facts::reached(&paths, Phase::Agent)?;
    limits::raise();
    // Takes a tenth of a second, and Hello needs it: found out while the join is under way.
    tokio::spawn(facts::mpi());
    let keys = ssh::keys(&paths).context("cannot make the SSH keys")?;
    let contact = Contact::new(config, paths.clone());
    let mut membership = stored(&paths, &contact);
    loop {
        let member = match membership.take() {
            Some(member) => member,
            None => join::join(&contact, &keys).await?,
        };
        facts::reached(&paths, Phase::Join)?;
        ssh::install(&paths, &member)?;
        facts::reached(&paths, Phase::Ssh)?;
        info!(node = %member.node.host_name, cluster = %member.node.cluster, "ready for commands");
        session::keep(&contact, &member, agent.clone()).await?;
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

/// What an earlier run of the agent has joined; nothing when that was another cluster (an image made of a node), and
/// when it cannot be read: the same key gets the same answer again.
fn stored(paths: &Paths, contact: &Contact) -> Option<Membership> {
    let member = Membership::load(&paths.join_json()).unwrap_or_else(|error| {
        warn!(%error, "the stored membership is of no use");
        None
    })?;
    let same = member.node.cluster_id == contact.config().cluster_id;
    let usable = paths.node_key().exists() && paths.node_certificate().exists() && !certificate::has_expired(paths);
    (same && usable).then_some(member)
}
