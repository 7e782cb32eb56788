//! `ec2mpi ssh`: the system's ssh with a key that lives as long as the call.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, anyhow, bail};
use ec2mpi_proto::id::ClusterName;
use ec2mpi_proto::v1::{self, GetClusterRequest, IssueSshCertificateRequest, IssueSshCertificateResponse};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::connect::{Coordinator, told};
use super::{FAILURE, parse};

/// Where the nodes' own sshd listens.
const PORT: u16 = 2222;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ec2mpi ssh demo
  ec2mpi ssh demo --node 1 -- 'cd /shared && ls -l'")]
pub(super) struct Args {
    #[arg(value_parser = parse::cluster)]
    name: ClusterName,
    /// The node's index; 0 is the head.
    #[arg(long, value_name = "I", default_value_t = 0)]
    node: u32,
    /// A command for the node's shell [default: log in].
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(coordinator: &Coordinator, args: Args) -> anyhow::Result<u8> {
    let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).context("cannot make an SSH key")?;
    let mut client = coordinator.connect().await?;
    let cluster = client.get_cluster(GetClusterRequest { name: args.name.to_string() }).await.map_err(told)?;
    let address = address(&cluster.into_inner(), args.node)?;
    let request = IssueSshCertificateRequest {
        cluster: args.name.to_string(),
        public_key: key.public_key().to_openssh().context("cannot write an SSH key")?,
    };
    let issued = client.issue_ssh_certificate(request).await.map_err(told)?.into_inner();
    // 0700, and gone at the end of this function.
    let directory = tempfile::Builder::new().prefix("ec2mpi-ssh-").tempdir().context("cannot make a directory")?;
    write_files(directory.path(), &key, &issued)?;
    let status = ssh(directory.path(), &format!("{}@{address}", issued.user_name), &args.command).await?;
    Ok(exit_code(status))
}

fn address(cluster: &v1::Cluster, index: u32) -> anyhow::Result<String> {
    let name = &cluster.name;
    let node = cluster.nodes.iter().find(|node| node.index == index);
    let node = node.ok_or_else(|| anyhow!("cluster {name} has no node {index}: `ec2mpi status {name}` lists them"))?;
    if node.address.is_empty() {
        bail!("node {} has no address yet: see `ec2mpi status {name}`", node.host_name);
    }
    Ok(node.address.clone())
}

fn write_files(directory: &Path, key: &PrivateKey, issued: &IssueSshCertificateResponse) -> anyhow::Result<()> {
    let private = key.to_openssh(LineEnding::LF).context("cannot write an SSH key")?;
    write(&directory.join("key"), &private)?;
    write(&directory.join("certificate"), &issued.certificate)?;
    write(&directory.join("known_hosts"), &issued.known_hosts)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(format!("{}\n", text.trim_end()).as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Runs ssh in the foreground. Ctrl-C is ssh's: this process lives on to clean up.
async fn ssh(directory: &Path, target: &str, command: &[String]) -> anyhow::Result<ExitStatus> {
    let _interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let child = Command::new("ssh").args(arguments(directory, target, command)).spawn();
    let mut child = child.context("cannot start ssh: install it (Debian, Ubuntu: `apt-get install openssh-client`)")?;
    tokio::select! {
        status = child.wait() => return status.context("cannot wait for ssh"),
        _ = terminations.recv() => {}
    }
    child.kill().await.context("cannot end ssh")?;
    child.wait().await.context("cannot wait for ssh")
}

fn arguments(directory: &Path, target: &str, command: &[String]) -> Vec<String> {
    let file = |name: &str| directory.join(name).display().to_string();
    let options = [
        format!("CertificateFile={}", file("certificate")),
        format!("UserKnownHostsFile={}", file("known_hosts")),
        "GlobalKnownHostsFile=/dev/null".into(),
        "StrictHostKeyChecking=yes".into(),
        "IdentitiesOnly=yes".into(),
        "PreferredAuthentications=publickey".into(),
        "ConnectTimeout=15".into(),
    ];
    let mut words: Vec<String> = vec!["-F".into(), "/dev/null".into(), "-p".into(), PORT.to_string()];
    words.extend(["-i".into(), file("key")]);
    words.extend(options.into_iter().flat_map(|option| ["-o".into(), option]));
    words.push(target.to_owned());
    if !command.is_empty() {
        words.push("--".into());
        words.extend_from_slice(command);
    }
    words
}

/// The command's, or 255 for trouble of ssh's own, as ssh has it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_trusts_the_clusters_authority_and_nothing_else() {
        let words = arguments(Path::new("/t"), "mpi@10.0.0.1", &["ls".to_owned(), "-l".to_owned()]).join(" ");
        for expected in ["-p 2222", "-i /t/key", "StrictHostKeyChecking=yes", "UserKnownHostsFile=/t/known_hosts"] {
            assert!(words.contains(expected), "{words}");
        }
        assert!(words.ends_with("mpi@10.0.0.1 -- ls -l"), "{words}");
        assert_eq!(arguments(Path::new("/t"), "mpi@10.0.0.1", &[]).last().unwrap(), "mpi@10.0.0.1");
    }

    #[test]
    fn the_address_is_the_nodes() {
        let node = |index, address: &str| v1::Node { index, address: address.into(), ..Default::default() };
        let cluster =
            v1::Cluster { name: "demo".into(), nodes: vec![node(0, "10.0.0.1"), node(1, "")], ..Default::default() };
        assert_eq!(address(&cluster, 0).unwrap(), "10.0.0.1");
        assert!(address(&cluster, 1).unwrap_err().to_string().contains("no address yet"));
        assert!(address(&cluster, 2).unwrap_err().to_string().contains("no node 2"));
    }
}
