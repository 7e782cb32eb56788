//! The X.509 authority: ECDSA P-256, made when the coordinator first starts, pinned by every node.

use std::net::IpAddr;

use ec2mpi_proto::id::{ClusterId, InstanceId};
use jiff::Timestamp;

use super::{IdentityError, Validity};

/// Whom a node's certificate names: its URI subject alternative name is `ec2mpi://CLUSTER_ID/INSTANCE_ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSubject {
    pub cluster: ClusterId,
    pub instance: InstanceId,
}

/// A certificate for a node's own key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    pub certificate_pem: String,
    /// End of its validity.
    pub not_after: Timestamp,
}

/// A server's certificate and key, both PEM. The key is secret.
#[derive(Clone)]
pub struct ServerIdentity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// A certificate authority with its private key.
pub struct Authority {}

impl Authority {
    /// A new authority, valid for ten years from `now`.
    pub fn generate(_now: Timestamp) -> Result<Self, IdentityError> {
        todo!()
    }

    /// One that was stored: certificate and PKCS#8 key, both PEM.
    pub fn from_pem(_certificate_pem: &str, _key_pem: &str) -> Result<Self, IdentityError> {
        todo!()
    }

    /// The certificate that nodes pin.
    pub fn certificate_pem(&self) -> &str {
        todo!()
    }

    /// The private key, for the state database only.
    pub fn key_pem(&self) -> String {
        todo!()
    }

    /// A key pair and certificate for this coordinator's own listener.
    pub fn issue_server(
        &self,
        _server_name: &str,
        _addresses: &[IpAddr],
        _validity: Validity,
    ) -> Result<ServerIdentity, IdentityError> {
        todo!()
    }

    /// A client certificate for the public key of a PKCS#10 request whose self-signature holds; the names in the
    /// request are ignored.
    pub fn issue_node(
        &self,
        _csr_pem: &str,
        _subject: &NodeSubject,
        _validity: Validity,
    ) -> Result<IssuedCertificate, IdentityError> {
        todo!()
    }
}

/// The public key of a PKCS#10 request as SubjectPublicKeyInfo DER; its proof of possession is verified.
pub fn csr_public_key(_csr_pem: &str) -> Result<Vec<u8>, IdentityError> {
    todo!()
}

/// Whom a peer's certificate names. The TLS layer has verified its chain.
pub fn node_of_certificate(_der: &[u8]) -> Result<NodeSubject, IdentityError> {
    todo!()
}
