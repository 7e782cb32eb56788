//! The user `mpi`, its key, the node's host key, and an sshd of our own on port [`PORT`].
//!
//! The distribution's sshd is left alone. Every key is made here and never leaves; the cluster's authority signs the
//! public halves (OpenSSH PROTOCOL.certkeys), so no list of keys has to be kept anywhere.

mod account;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ssh_key::{Algorithm, LineEnding, PrivateKey};
use tracing::warn;

use super::membership::{Membership, User};
use super::paths::Paths;
use crate::durable;

/// Where our sshd listens.
pub const PORT: u16 = 2222;
/// The sshd that is run.
pub const SSHD: &str = "/usr/sbin/sshd";

/// The public halves, one OpenSSH line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeys {
    pub host: String,
    pub user: String,
}

/// Makes both keys, or reads those that are there.
pub fn keys(paths: &Paths) -> anyhow::Result<PublicKeys> {
    durable::create_dirs(&paths.ssh_dir(), 0o755)?;
    let host = key(&paths.ssh_dir().join("ssh_host_ed25519_key"))?;
    let user = key(&paths.user_key())?;
    Ok(PublicKeys { host: host.public_key().to_openssh()?, user: user.public_key().to_openssh()? })
}

fn key(path: &Path) -> anyhow::Result<PrivateKey> {
    match std::fs::read_to_string(path) {
        Ok(text) => PrivateKey::from_openssh(text).with_context(|| format!("{} holds no key", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = PrivateKey::random(&mut rand::rngs::OsRng, Algorithm::Ed25519)?;
            durable::overwrite(path, 0o600, key.to_openssh(LineEnding::LF)?.as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// User, keys, certificates and configuration; the same again changes nothing. sshd's configuration is written last:
/// its presence starts sshd.
pub fn install(paths: &Paths, member: &Membership) -> anyhow::Result<()> {
    account::ensure(paths, &member.user)?;
    if paths.is_machine() {
        nix::unistd::sethostname(&member.node.host_name).context("cannot set the host name")?;
    }
    let own = super::hosts::Peer { host_name: member.node.host_name.clone(), address: member.node.address };
    let named = std::fs::read_to_string(paths.hosts()).is_ok_and(|text| text.contains(&own.host_name));
    if !named {
        super::hosts::write(&paths.hosts(), &[own]).context("cannot write the hosts file")?;
    }
    account::write_ssh_files(paths, member)?;
    let changed = write_node_files(paths, member)?;
    durable::create_dirs(&paths.sshd_empty_dir(), 0o755)?;
    let text = sshd_config(paths, &member.user.name);
    let next = paths.ssh_dir().join("sshd_config.next");
    durable::overwrite(&next, 0o644, text.as_bytes())?;
    if paths.is_machine() {
        check(&next)?;
    }
    durable::rename(&next, &paths.ssh_dir().join("sshd_config")).context("cannot install sshd's configuration")?;
    if changed && paths.is_machine() {
        reload(paths);
    }
    Ok(())
}

/// A running sshd reads keys and certificates again; connections go on. None that runs is fine.
fn reload(paths: &Paths) {
    let Ok(text) = std::fs::read_to_string(paths.run_dir().join("sshd.pid")) else { return };
    let Ok(pid) = text.trim().parse() else { return };
    let is_sshd = std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sshd");
    if is_sshd && let Err(errno) = kill(Pid::from_raw(pid), Signal::SIGHUP) {
        warn!(%errno, "cannot make sshd read its certificate again");
    }
}

fn check(config: &Path) -> anyhow::Result<()> {
    let output =
        Command::new(SSHD).arg("-t").arg("-f").arg(config).output().with_context(|| format!("cannot run {SSHD}"))?;
    if !output.status.success() {
        bail!("sshd refuses its configuration: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// True when something of it changed.
fn write_node_files(paths: &Paths, member: &Membership) -> anyhow::Result<bool> {
    let dir = paths.ssh_dir();
    let files = [
        ("ssh_host_ed25519_key-cert.pub", line(&member.ssh.host_certificate)),
        ("ca.pub", line(&member.ssh.authority_public_key)),
        ("known_hosts", line(&member.ssh.known_hosts)),
        ("ssh_config", ssh_config(paths, &member.user)),
    ];
    let mut changed = false;
    for (name, text) in files {
        let path = dir.join(name);
        if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        durable::overwrite(&path, 0o644, text.as_bytes()).with_context(|| format!("cannot write {name}"))?;
        changed = true;
    }
    Ok(changed)
}

fn line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

/// Only keys that the cluster's authority signed, only the user of the jobs. MaxStartups and MaxSessions leave room
/// for an mpirun that opens hundreds of connections at once. Open MPI's launcher puts its libraries before whatever
/// `LD_LIBRARY_PATH` has; were that empty, the path would end in a colon, which means the working directory: every rank
/// would look on the volume for each of some fifty libraries.
fn sshd_config(paths: &Paths, user: &str) -> String {
    let dir = paths.ssh_dir();
    let dir = dir.display();
    let run = paths.run_dir();
    let run = run.display();
    format!(
        "Port {PORT}\nAddressFamily inet\nPidFile {run}/sshd.pid\nHostKey {dir}/ssh_host_ed25519_key\n\
         HostCertificate {dir}/ssh_host_ed25519_key-cert.pub\nTrustedUserCAKeys {dir}/ca.pub\n\
         AuthorizedKeysFile none\nAllowUsers {user}\nPermitRootLogin no\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPubkeyAuthentication yes\nUsePAM no\nUseDNS no\nX11Forwarding no\n\
         MaxStartups 512:30:1024\nMaxSessions 256\nAcceptEnv OMPI_* PRTE_* PMIX_* LANG LC_*\n\
         SetEnv LD_LIBRARY_PATH=/nonexistent\nSubsystem sftp internal-sftp\n"
    )
}

/// The first choice of newer clients for the exchange of keys (sntrup761) takes ten times the processor time of the
/// whole rest; with it a launch on many nodes is slow.
fn ssh_config(paths: &Paths, user: &User) -> String {
    let home = paths.at(&user.home);
    let (home, dir) = (home.display(), paths.ssh_dir());
    format!(
        "Host *\n  Port {PORT}\n  User {}\n  BatchMode yes\n  ConnectTimeout 10\n  ConnectionAttempts 10\n  \
         ServerAliveInterval 15\n  StrictHostKeyChecking yes\n  UserKnownHostsFile /dev/null\n  \
         GlobalKnownHostsFile {}/known_hosts\n  KexAlgorithms ^curve25519-sha256\n  \
         IdentityFile {home}/.ssh/id_ed25519\n  CertificateFile {home}/.ssh/id_ed25519-cert.pub\n  \
         IdentitiesOnly yes\n  LogLevel ERROR\n  ControlMaster no\n",
        user.name,
        dir.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        std::fs::create_dir_all(paths.state_dir()).unwrap();
        let first = keys(&paths).unwrap();
        assert!(first.host.starts_with("ssh-ed25519 ") && first.user.starts_with("ssh-ed25519 "));
        assert_ne!(first.host, first.user);
        assert_eq!(keys(&paths).unwrap(), first);
    }

    #[test]
    fn host_keys_are_always_checked_and_passwords_never_taken() {
        let paths = Paths::new("/");
        let user = User { name: "mpi".into(), id: 2009, home: "/home/mpi".into() };
        assert!(ssh_config(&paths, &user).contains("StrictHostKeyChecking yes"));
        let sshd = sshd_config(&paths, "mpi");
        for must in ["PasswordAuthentication no", "PermitRootLogin no", "AllowUsers mpi", "AuthorizedKeysFile none"] {
            assert!(sshd.contains(must), "{must}");
        }
    }
}
