//! The X.509 authority: ECDSA P-256, made when the coordinator first starts, pinned by every node.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterId, InstanceId};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SubjectPublicKeyInfo,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{IdentityError, Validity};

const CERTIFICATE: &str = "certificate";
const REQUEST: &str = "certificate request";
const AUTHORITY: &str = "certificate authority";

/// A request for an ECDSA or ed25519 key is a few hundred bytes, for a large RSA key some thousand.
const REQUEST_LIMIT: usize = 16 * 1024;

const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Whom a node's certificate names: its URI subject alternative name is `ec2mpi://CLUSTER_ID/INSTANCE_ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSubject {
    pub cluster: ClusterId,
    pub instance: InstanceId,
}

impl NodeSubject {
    fn to_uri(&self) -> String {
        format!("ec2mpi://{}/{}", self.cluster, self.instance)
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let (cluster, instance) = uri.strip_prefix("ec2mpi://")?.split_once('/')?;
        Some(Self { cluster: cluster.parse().ok()?, instance: instance.parse().ok()? })
    }
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

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// A certificate authority with its private key.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority, valid for ten years from `now`.
    pub fn generate(now: Timestamp) -> Result<Self, IdentityError> {
        let key = new_key()?;
        let mut params = params(Validity::starting(now, AUTHORITY_LIFETIME), "ec2mpi coordinator");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|e| IdentityError::making(AUTHORITY, e))?;
        Ok(Self { certificate_pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// One that was stored: certificate and PKCS#8 key, both PEM. They must belong together.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        // rcgen's error could quote what it read: say nothing of a private key.
        let key = KeyPair::from_pem(key_pem)
            .map_err(|_| IdentityError::malformed(AUTHORITY, "its key is no PKCS#8 private key"))?;
        if certified_key(certificate_pem)? != key.public_key_raw() {
            return Err(IdentityError::malformed(AUTHORITY, "certificate and key do not belong together"));
        }
        let issuer =
            Issuer::from_ca_cert_pem(certificate_pem, key).map_err(|e| IdentityError::malformed(AUTHORITY, e))?;
        Ok(Self { certificate_pem: certificate_pem.to_owned(), issuer })
    }

    /// The certificate that nodes pin.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, for the state database only.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A key pair and certificate for this coordinator's own listener.
    pub fn issue_server(
        &self,
        server_name: &str,
        addresses: &[IpAddr],
        validity: Validity,
    ) -> Result<ServerIdentity, IdentityError> {
        let key = new_key()?;
        let name = server_name.try_into().map_err(|e| IdentityError::making("server certificate", e))?;
        let mut params = leaf(validity, server_name, ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names =
            [SanType::DnsName(name)].into_iter().chain(addresses.iter().copied().map(SanType::IpAddress)).collect();
        let certificate =
            params.signed_by(&key, &self.issuer).map_err(|e| IdentityError::making("server certificate", e))?;
        Ok(ServerIdentity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A client certificate for the public key of a PKCS#10 request whose self-signature holds; the names in the
    /// request are ignored.
    pub fn issue_node(
        &self,
        csr_pem: &str,
        subject: &NodeSubject,
        validity: Validity,
    ) -> Result<IssuedCertificate, IdentityError> {
        let spki = csr_public_key(csr_pem)?;
        let key = SubjectPublicKeyInfo::from_der(&spki).map_err(|e| IdentityError::untrusted(REQUEST, e))?;
        let uri = subject.to_uri().try_into().map_err(|e| IdentityError::making("node certificate", e))?;
        let mut params = leaf(validity, subject.instance.as_str(), ExtendedKeyUsagePurpose::ClientAuth);
        params.subject_alt_names = vec![SanType::URI(uri)];
        let certificate =
            params.signed_by(&key, &self.issuer).map_err(|e| IdentityError::making("node certificate", e))?;
        Ok(IssuedCertificate { certificate_pem: certificate.pem(), not_after: validity.not_after })
    }
}

/// The public key of a PKCS#10 request as SubjectPublicKeyInfo DER; its proof of possession is verified.
pub fn csr_public_key(csr_pem: &str) -> Result<Vec<u8>, IdentityError> {
    let der = pem_contents(csr_pem, "CERTIFICATE REQUEST", REQUEST)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|e| IdentityError::malformed(REQUEST, e))?;
    if !rest.is_empty() {
        return Err(IdentityError::malformed(REQUEST, "something follows it"));
    }
    request.verify_signature().map_err(|e| IdentityError::untrusted(REQUEST, e))?;
    Ok(request.certification_request_info.subject_pki.raw.to_vec())
}

/// Whom a peer's certificate names. The TLS layer has verified its chain.
pub fn node_of_certificate(der: &[u8]) -> Result<NodeSubject, IdentityError> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|e| IdentityError::malformed(CERTIFICATE, e))?;
    let names = certificate.subject_alternative_name().map_err(|e| IdentityError::malformed(CERTIFICATE, e))?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    match names {
        [GeneralName::URI(uri)] => NodeSubject::from_uri(uri),
        _ => None,
    }
    .ok_or_else(|| IdentityError::untrusted(CERTIFICATE, "it does not name a node"))
}

fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| IdentityError::making("key pair", e))
}

/// What every certificate of this authority has. rcgen makes a random serial number of its own.
fn params(validity: Validity, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(validity.not_before);
    params.not_after = epoch + since_epoch(validity.not_after);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn leaf(validity: Validity, common_name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = params(validity, common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Whole seconds; a time before 1970 counts as 1970.
fn since_epoch(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
}

/// The public key that a certificate is for, as its bare bit string.
fn certified_key(certificate_pem: &str) -> Result<Vec<u8>, IdentityError> {
    let der = pem_contents(certificate_pem, "CERTIFICATE", CERTIFICATE)?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&der).map_err(|e| IdentityError::malformed(CERTIFICATE, e))?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}

fn pem_contents(pem: &str, label: &str, what: &'static str) -> Result<Vec<u8>, IdentityError> {
    if pem.len() > REQUEST_LIMIT {
        return Err(IdentityError::malformed(what, "it is too long"));
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| IdentityError::malformed(what, e))?;
    if pem.label != label {
        return Err(IdentityError::malformed(what, format!("it is a {}", pem.label)));
    }
    Ok(pem.contents)
}

#[cfg(test)]
mod tests;
