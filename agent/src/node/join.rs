//! Becoming a member: the identity document and a certificate request go up, a certificate and the cluster's settings
//! come down. Also renewal of that certificate.

use std::time::Duration;

use anyhow::{Context, bail};
use ec2mpi_proto::PROTOCOL_VERSION;
use ec2mpi_proto::v1;
use rcgen::KeyPair;
use tonic::Code;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::client::Contact;
use super::membership::{Identity, Membership, Ssh, User, Volume};
use super::paths::Paths;
use super::ssh::PublicKeys;
use super::{bootstrap, certificate};

/// One try of a Join.
const CALL_LIMIT: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const FIRST_RENEWAL_WAIT: Duration = Duration::from_secs(30);
const LONGEST_RENEWAL_WAIT: Duration = Duration::from_secs(600);

/// The exit code of an agent that is [`Refused`]: starting it again at once would change nothing.
pub const REFUSED_EXIT_CODE: u8 = 3;

/// The coordinator will never take this node: it is another instance's key, a cluster being destroyed, or another
/// protocol version.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator refuses this node: {0}")]
pub struct Refused(String);

/// Tries until the coordinator answers, with growing waits: a coordinator that is away comes back, and the machine's
/// own deadline bounds it all.
///
/// # Errors
///
/// [`Refused`], and what goes wrong on this node.
pub async fn join(contact: &Contact, keys: &PublicKeys) -> anyhow::Result<Membership> {
    let key = certificate::key(contact.paths())?;
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        match attempt(contact, keys, &key).await {
            Ok(answer) => return accept(contact.paths(), answer),
            Err(error) if error.downcast_ref::<Refused>().is_some() => return Err(error),
            Err(error) => {
                let wait = backoff.next_wait();
                warn!(error = format!("{error:#}"), ?wait, "cannot join yet");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Renews the certificate whenever two thirds of its life are over. Never returns.
pub async fn keep_renewed(contact: Contact) {
    let mut backoff = Backoff::new(FIRST_RENEWAL_WAIT, LONGEST_RENEWAL_WAIT);
    loop {
        // The clock is looked at again and again: it may be set, and a machine may be stopped for hours.
        match certificate::validity(contact.paths()) {
            Ok(validity) if !validity.is_due(jiff::Timestamp::now().as_second()) => {
                tokio::time::sleep(FIRST_RENEWAL_WAIT).await;
                continue;
            }
            Ok(_) => {}
            Err(error) => warn!(error = format!("{error:#}"), "cannot tell when the certificate expires"),
        }
        match renew(&contact).await {
            Ok(()) => backoff.reset(),
            Err(error) => warn!(error = format!("{error:#}"), "cannot renew the certificate yet"),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// The same key, a new certificate.
async fn renew(contact: &Contact) -> anyhow::Result<()> {
    let csr_pem = certificate::request(&certificate::key(contact.paths())?)?;
    let mut client = contact.member().await?;
    let call = client.renew(v1::RenewRequest { csr_pem });
    let answer = tokio::time::timeout(CALL_LIMIT, call).await.context("the coordinator does not answer")??;
    certificate::store(contact.paths(), &answer.into_inner().certificate_pem)?;
    info!("certificate renewed");
    Ok(())
}

async fn attempt(contact: &Contact, keys: &PublicKeys, key: &KeyPair) -> anyhow::Result<v1::JoinResponse> {
    // The document is asked for again each time: it is what the coordinator judges by its age.
    let request = v1::JoinRequest {
        protocol_version: PROTOCOL_VERSION,
        launch_id: contact.config().launch_id.to_string(),
        identity_pkcs7: bootstrap::identity_document().await?,
        csr_pem: certificate::request(key)?,
        ssh_host_public_key: keys.host.clone(),
        ssh_user_public_key: keys.user.clone(),
    };
    let mut client = contact.anonymous().await?;
    let answer = tokio::time::timeout(CALL_LIMIT, client.join(request)).await;
    answer.context("the coordinator does not answer")?.map(tonic::Response::into_inner).map_err(judge)
}

fn judge(status: tonic::Status) -> anyhow::Error {
    match status.code() {
        Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument => {
            Refused(status.message().to_owned()).into()
        }
        _ => status.into(),
    }
}

/// Checks the answer and stores it; the membership last, since its presence means: joined.
fn accept(paths: &Paths, answer: v1::JoinResponse) -> anyhow::Result<Membership> {
    let certificate = answer.certificate_pem.clone();
    let membership = membership(answer).context("the coordinator's answer to the join")?;
    certificate::store(paths, &certificate)?;
    membership.store(&paths.join_json()).context("cannot store the membership")?;
    info!(node = %membership.node.host_name, "joined");
    Ok(membership)
}

fn membership(answer: v1::JoinResponse) -> anyhow::Result<Membership> {
    let node = answer.node.context("no node")?;
    let ssh = answer.ssh.context("no SSH material")?;
    let volume = answer.volume.context("no volume")?;
    if !volume.mount_point.starts_with('/') || volume.mount_point.len() < 2 {
        bail!("mount point {:?}", volume.mount_point);
    }
    Ok(Membership {
        node: identity(node)?,
        user: user(&ssh)?,
        ssh: Ssh {
            host_certificate: ssh.host_certificate,
            user_certificate: ssh.user_certificate,
            authority_public_key: ssh.authority_public_key,
            known_hosts: ssh.known_hosts,
        },
        volume: Volume {
            bucket: volume.bucket,
            prefix: volume.prefix,
            region: volume.region,
            endpoint: volume.endpoint,
            mount_point: volume.mount_point,
            owner_id: volume.owner_id,
        },
        cluster_cidr: answer.cluster_cidr,
    })
}

/// An unprivileged user; the name goes into files that have colons, blanks and line ends as marks.
fn user(ssh: &v1::SshMaterial) -> anyhow::Result<User> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let name = ssh.user_name.clone();
    if name.len() > 32 || !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.bytes().all(legal) {
        bail!("user name {name:?}");
    }
    if ssh.user_id == 0 || ssh.user_id == u32::MAX {
        bail!("user id {}", ssh.user_id);
    }
    Ok(User { home: format!("/home/{name}"), name, id: ssh.user_id })
}

fn identity(node: v1::NodeIdentity) -> anyhow::Result<Identity> {
    Ok(Identity {
        cluster: node.cluster.parse()?,
        cluster_id: node.cluster_id.parse()?,
        index: node.index,
        host_name: node.host_name,
        instance_id: node.instance_id.parse()?,
        address: node.address.parse().context("address")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_the_jobs_is_never_root_and_its_name_is_plain() {
        let ssh = |name: &str, id| v1::SshMaterial { user_name: name.into(), user_id: id, ..Default::default() };
        assert_eq!(user(&ssh("mpi", 2009)).unwrap().home, "/home/mpi");
        for (name, id) in [("mpi", 0), ("", 7), ("a:b", 7), ("a\nb", 7), ("../x", 7), ("-x", 7)] {
            assert!(user(&ssh(name, id)).is_err(), "{name:?} {id}");
        }
    }

    #[test]
    fn an_answer_without_its_parts_is_refused() {
        assert!(membership(v1::JoinResponse::default()).is_err());
    }

    #[test]
    fn only_final_refusals_end_the_tries() {
        assert!(judge(tonic::Status::permission_denied("other key")).downcast_ref::<Refused>().is_some());
        assert!(judge(tonic::Status::failed_precondition("destroyed")).downcast_ref::<Refused>().is_some());
        assert!(judge(tonic::Status::unavailable("later")).downcast_ref::<Refused>().is_none());
    }
}
