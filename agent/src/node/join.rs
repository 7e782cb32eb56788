//! Becoming a member: the identity document and a certificate request go up, a certificate and the cluster's settings
//! come down. Also renewal of that certificate.

use std::time::Duration;

use anyhow::Context;
use ec2mpi_proto::PROTOCOL_VERSION;
use ec2mpi_proto::v1;
use rcgen::{CertificateParams, KeyPair};
use tonic::Code;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::bootstrap;
use super::client::Contact;
use super::membership::{Identity, Membership, Ssh, User, Volume};
use super::paths::Paths;
use super::ssh::PublicKeys;
use crate::durable;

/// One try of a Join.
const CALL_LIMIT: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

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
    let key = node_key(contact.paths())?;
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

/// The same key, a new certificate.
pub async fn renew(contact: &Contact) -> anyhow::Result<()> {
    let csr_pem = request_for(&node_key(contact.paths())?)?;
    let mut client = contact.member().await?;
    let call = client.renew(v1::RenewRequest { csr_pem });
    let answer = tokio::time::timeout(CALL_LIMIT, call).await.context("the coordinator does not answer")??;
    store_certificate(contact.paths(), &answer.into_inner().certificate_pem)?;
    info!("certificate renewed");
    Ok(())
}

async fn attempt(contact: &Contact, keys: &PublicKeys, key: &KeyPair) -> anyhow::Result<v1::JoinResponse> {
    // The document is asked for again each time: it is what the coordinator judges by its age.
    let request = v1::JoinRequest {
        protocol_version: PROTOCOL_VERSION,
        launch_id: contact.config().launch_id.to_string(),
        identity_pkcs7: bootstrap::identity_document().await?,
        csr_pem: request_for(key)?,
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

/// The node's key pair, made and stored before it is first used: a node that crashes in between joins again with the
/// key that the coordinator may have bound it to.
fn node_key(paths: &Paths) -> anyhow::Result<KeyPair> {
    let path = paths.node_key();
    match std::fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem).with_context(|| format!("{} holds no key", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate().context("cannot make a key")?;
            durable::overwrite(&path, 0o600, key.serialize_pem().as_bytes()).context("cannot store the key")?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn request_for(key: &KeyPair) -> anyhow::Result<String> {
    let request = CertificateParams::default().serialize_request(key).context("cannot make a certificate request")?;
    Ok(request.pem()?)
}

fn store_certificate(paths: &Paths, pem: &str) -> anyhow::Result<()> {
    durable::overwrite(&paths.node_certificate(), 0o600, pem.as_bytes()).context("cannot store the certificate")
}

/// Checks the answer and stores it; the membership last, since its presence means: joined.
fn accept(paths: &Paths, answer: v1::JoinResponse) -> anyhow::Result<Membership> {
    let certificate = answer.certificate_pem.clone();
    let membership = membership(answer).context("the coordinator's answer to the join")?;
    store_certificate(paths, &certificate)?;
    membership.store(&paths.join_json()).context("cannot store the membership")?;
    info!(node = %membership.node.host_name, "joined");
    Ok(membership)
}

fn membership(answer: v1::JoinResponse) -> anyhow::Result<Membership> {
    let node = answer.node.context("no node")?;
    let ssh = answer.ssh.context("no SSH material")?;
    let volume = answer.volume.context("no volume")?;
    Ok(Membership {
        node: identity(node)?,
        user: User { home: format!("/home/{}", ssh.user_name), name: ssh.user_name, id: ssh.user_id },
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
    fn the_key_is_made_once_and_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        std::fs::create_dir_all(paths.state_dir()).unwrap();
        let first = node_key(&paths).unwrap();
        let second = node_key(&paths).unwrap();
        assert_eq!(first.serialize_pem(), second.serialize_pem());
        let mode = std::fs::metadata(paths.node_key()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
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
