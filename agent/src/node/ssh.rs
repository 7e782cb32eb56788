//! The user `mpi`, its key, the node's host key, and an sshd of our own on port [`PORT`].
//!
//! The distribution's sshd is left alone. Every key is made here and never leaves; the cluster's authority signs the
//! public halves (OpenSSH PROTOCOL.certkeys), so no list of keys has to be kept anywhere.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use super::membership::{Membership, User};
use super::paths::Paths;
use crate::durable::{self, Owner};

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
    ensure_user(paths, &member.user)?;
    if paths.is_machine() {
        nix::unistd::sethostname(&member.node.host_name).context("cannot set the host name")?;
    }
    let own = super::hosts::Peer { host_name: member.node.host_name.clone(), address: member.node.address };
    let named = std::fs::read_to_string(paths.hosts()).is_ok_and(|text| text.contains(&own.host_name));
    if !named {
        super::hosts::write(&paths.hosts(), &[own]).context("cannot write the hosts file")?;
    }
    write_user_files(paths, member)?;
    write_node_files(paths, member)?;
    durable::create_dirs(&paths.sshd_empty_dir(), 0o755)?;
    let text = sshd_config(paths, &member.user.name);
    let next = paths.ssh_dir().join("sshd_config.next");
    durable::overwrite(&next, 0o644, text.as_bytes())?;
    if paths.is_machine() {
        check(&next)?;
    }
    durable::rename(&next, &paths.ssh_dir().join("sshd_config")).context("cannot install sshd's configuration")
}

fn check(config: &Path) -> anyhow::Result<()> {
    let output =
        Command::new(SSHD).arg("-t").arg("-f").arg(config).output().with_context(|| format!("cannot run {SSHD}"))?;
    if !output.status.success() {
        bail!("sshd refuses its configuration: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The account with this name and number, made if there is none. One that has only the name or only the number is
/// somebody else's, and ranks of one user with two numbers could not share files.
fn ensure_user(paths: &Paths, user: &User) -> anyhow::Result<()> {
    let passwd = std::fs::read_to_string(paths.passwd()).context("cannot read the accounts")?;
    let group = std::fs::read_to_string(paths.group()).context("cannot read the groups")?;
    if !has_entry(&group, &user.name, user.id).context("group")? {
        let line = format!("{}:x:{}:\n", user.name, user.id);
        durable::overwrite(&paths.group(), 0o644, with_line(&group, &line).as_bytes())?;
    }
    if !has_entry(&passwd, &user.name, user.id).context("user")? {
        // "*" and not "!": without PAM sshd refuses accounts that are locked.
        let line = format!("{}:*:{1}:{1}:MPI jobs:{2}:/bin/bash\n", user.name, user.id, user.home);
        durable::overwrite(&paths.passwd(), 0o644, with_line(&passwd, &line).as_bytes())?;
    }
    let home = paths.at(&user.home);
    durable::create_dirs(&home, 0o755)?;
    own_dir(&home, 0o755, user.id)
}

/// Whether `text` (passwd or group) has `name` with `id`; an error when one of the two is taken.
fn has_entry(text: &str, name: &str, id: u32) -> anyhow::Result<bool> {
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [its_name, _, its_id, ..] = fields.as_slice() else { continue };
        match (*its_name == name, its_id.parse() == Ok(id)) {
            (true, true) => return Ok(true),
            (true, false) => bail!("{name} exists with number {its_id}, the cluster needs {id}"),
            (false, true) => bail!("number {id} belongs to {its_name}, the cluster needs it for {name}"),
            (false, false) => {}
        }
    }
    Ok(false)
}

fn with_line(text: &str, line: &str) -> String {
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}{line}")
}

fn own_dir(dir: &Path, mode: u32, id: u32) -> anyhow::Result<()> {
    std::os::unix::fs::chown(dir, Some(id), Some(id)).with_context(|| format!("cannot give {} away", dir.display()))?;
    std::fs::set_permissions(dir, Permissions::from_mode(mode))?;
    Ok(())
}

fn write_user_files(paths: &Paths, member: &Membership) -> anyhow::Result<()> {
    let user = &member.user;
    let owner = Owner { uid: user.id, gid: user.id };
    let dir = paths.at(&user.home).join(".ssh");
    durable::create_dirs(&dir, 0o700)?;
    own_dir(&dir, 0o700, user.id)?;
    let private = std::fs::read(paths.user_key())?;
    durable::overwrite_for(&dir.join("id_ed25519"), 0o600, owner, &private)?;
    durable::overwrite_for(
        &dir.join("id_ed25519-cert.pub"),
        0o644,
        owner,
        line(&member.ssh.user_certificate).as_bytes(),
    )?;
    let include = format!("Include {}\n", paths.ssh_dir().join("ssh_config").display());
    let config = dir.join("config");
    if !config.exists() {
        durable::overwrite_for(&config, 0o600, owner, include.as_bytes())?;
    }
    Ok(())
}

fn write_node_files(paths: &Paths, member: &Membership) -> anyhow::Result<()> {
    let dir = paths.ssh_dir();
    let files = [
        ("ssh_host_ed25519_key-cert.pub", line(&member.ssh.host_certificate)),
        ("ca.pub", line(&member.ssh.authority_public_key)),
        ("known_hosts", line(&member.ssh.known_hosts)),
        ("ssh_config", ssh_config(paths, &member.user)),
    ];
    for (name, text) in files {
        durable::overwrite(&dir.join(name), 0o644, text.as_bytes()).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

fn line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

/// Only keys that the cluster's authority signed, only the user of the jobs. MaxStartups and MaxSessions leave room
/// for an mpirun that opens hundreds of connections at once.
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
         MaxStartups 512:30:1024\nMaxSessions 256\nAcceptEnv OMPI_* PRTE_* PMIX_* LANG LC_*\nSubsystem sftp internal-sftp\n"
    )
}

fn ssh_config(paths: &Paths, user: &User) -> String {
    let home = paths.at(&user.home);
    let (home, dir) = (home.display(), paths.ssh_dir());
    format!(
        "Host *\n  Port {PORT}\n  User {}\n  BatchMode yes\n  ConnectTimeout 10\n  ConnectionAttempts 10\n  \
         ServerAliveInterval 15\n  StrictHostKeyChecking yes\n  UserKnownHostsFile /dev/null\n  \
         GlobalKnownHostsFile {}/known_hosts\n  IdentityFile {home}/.ssh/id_ed25519\n  \
         CertificateFile {home}/.ssh/id_ed25519-cert.pub\n  IdentitiesOnly yes\n  LogLevel ERROR\n  ControlMaster no\n",
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
    fn an_account_is_ours_only_with_name_and_number() {
        let text = "root:x:0:0::/root:/bin/bash\nmpi:*:2009:2009::/home/mpi:/bin/bash\n";
        assert!(has_entry(text, "mpi", 2009).unwrap());
        assert!(!has_entry(text, "other", 2010).unwrap());
        assert!(has_entry(text, "mpi", 2010).unwrap_err().to_string().contains("exists with number 2009"));
        assert!(has_entry(text, "other", 2009).unwrap_err().to_string().contains("belongs to mpi"));
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
