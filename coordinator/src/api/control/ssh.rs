//! Certificates for a user's own SSH key.

use std::time::Duration;

use ec2mpi_proto::v1;
use jiff::Timestamp;

use crate::cluster::ClusterView;
use crate::error::Error;
use crate::identity::ssh::SshAuthority;
use crate::identity::{IdentityError, Validity};
use crate::state::State;

/// The account on every node.
const USER: &str = "mpi";
/// Long enough to log in; a session that has begun outlives it.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// A certificate for `public_key` to log in as [`USER`], and what the caller needs to know the nodes.
pub(super) fn issue(
    state: &State,
    cluster: &ClusterView,
    public_key: &str,
) -> Result<v1::IssueSshCertificateResponse, Error> {
    let stored = state.ssh_authority(&cluster.id)?;
    let private = stored.ok_or_else(|| {
        Error::NotNow(format!("cluster {} has no SSH authority: is it being destroyed?", cluster.spec.name))
    })?;
    let authority = SshAuthority::from_openssh(&private).map_err(|error| Error::Internal(error.to_string()))?;
    let validity = Validity::starting(Timestamp::now(), LIFETIME);
    let signed = authority.sign_user(public_key.trim(), &[USER.to_owned()], validity);
    Ok(v1::IssueSshCertificateResponse {
        certificate: signed.map_err(refusal)?,
        known_hosts: authority.known_hosts(&["*".to_owned()]),
        user_name: USER.to_owned(),
    })
}

fn refusal(error: IdentityError) -> Error {
    match error {
        IdentityError::Malformed { .. } | IdentityError::Untrusted { .. } => {
            Error::Invalid(format!("public_key: {error}; send an OpenSSH ed25519 public key line"))
        }
        IdentityError::Making { .. } => Error::Internal(error.to_string()),
    }
}
