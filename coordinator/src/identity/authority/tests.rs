use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::*;

fn subject() -> NodeSubject {
    NodeSubject {
        cluster: "c-0123456789abcdef0123456789abcdef".parse().unwrap(),
        instance: "i-0123456789abcdef0".parse().unwrap(),
    }
}

fn an_hour() -> Validity {
    Validity::starting(Timestamp::now(), Duration::from_secs(3600))
}

/// A node's key and its request, which claims to be somebody else.
fn request() -> (KeyPair, String) {
    let key = new_key().unwrap();
    let mut params = CertificateParams::new(vec!["coordinator.ec2mpi".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "i-ffffffffffffffff0");
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, csr)
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(der(authority.certificate_pem())).unwrap();
    Arc::new(roots)
}

/// Both ends of a TLS connection where each asks for the other's certificate.
fn handshake(
    server_authority: &Authority,
    trusted_by_server: &Authority,
    trusted_by_client: &Authority,
    client: (&str, &KeyPair),
    name: &str,
) -> Result<NodeSubject, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let identity =
        server_authority.issue_server("coordinator.ec2mpi", &[Ipv4Addr::LOCALHOST.into()], an_hour()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(trusted_by_server), provider.clone()).build().unwrap();
    let server_key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![der(&identity.certificate_pem)], server_key)?;
    let client_key = PrivateKeyDer::from_pem_slice(client.1.serialize_pem().as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(trusted_by_client))
        .with_client_auth_cert(vec![der(client.0)], client_key)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    exchange(ClientConnection::new(Arc::new(config), name)?, ServerConnection::new(Arc::new(server))?)
}

fn exchange(mut client: ClientConnection, mut server: ServerConnection) -> Result<NodeSubject, rustls::Error> {
    client.writer().write_all(b"ping").unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    let mut received = [0; 4];
    server.reader().read_exact(&mut received).unwrap();
    assert_eq!(&received, b"ping");
    Ok(node_of_certificate(&server.peer_certificates().unwrap()[0]).unwrap())
}

#[test]
fn a_node_is_known_by_its_certificate_over_tls() {
    let authority = Authority::generate(Timestamp::now()).unwrap();
    let stored = Authority::from_pem(authority.certificate_pem(), &authority.key_pem()).unwrap();
    let (key, csr) = request();
    let issued = stored.issue_node(&csr, &subject(), an_hour()).unwrap();
    let client = (issued.certificate_pem.as_str(), &key);
    assert_eq!(handshake(&stored, &authority, &authority, client, "coordinator.ec2mpi").unwrap(), subject());
    assert_eq!(handshake(&authority, &stored, &stored, client, "127.0.0.1").unwrap(), subject());
}

#[test]
fn strangers_expired_and_misnamed_are_refused_over_tls() {
    let ours = Authority::generate(Timestamp::now()).unwrap();
    let theirs = Authority::generate(Timestamp::now()).unwrap();
    let (key, csr) = request();
    let good = ours.issue_node(&csr, &subject(), an_hour()).unwrap().certificate_pem;
    let foreign = theirs.issue_node(&csr, &subject(), an_hour()).unwrap().certificate_pem;
    let yesterday = Timestamp::now() - Duration::from_secs(86_400);
    let expired = Validity::starting(yesterday, Duration::from_secs(3600));
    let expired = ours.issue_node(&csr, &subject(), expired).unwrap().certificate_pem;
    let name = "coordinator.ec2mpi";
    assert!(handshake(&ours, &ours, &ours, (&foreign, &key), name).is_err(), "foreign client");
    assert!(handshake(&ours, &ours, &ours, (&expired, &key), name).is_err(), "expired client");
    assert!(handshake(&theirs, &ours, &ours, (&good, &key), name).is_err(), "foreign server");
    assert!(handshake(&ours, &ours, &ours, (&good, &key), "other.ec2mpi").is_err(), "wrong server name");
    let server = ours.issue_server(name, &[], an_hour()).unwrap();
    let server_key = KeyPair::from_pem(&server.key_pem).unwrap();
    assert!(handshake(&ours, &ours, &ours, (&server.certificate_pem, &server_key), name).is_err(), "server as client");
}

#[test]
fn only_the_key_of_a_request_counts() {
    let authority = Authority::generate(Timestamp::now()).unwrap();
    let (key, csr) = request();
    let issued = authority.issue_node(&csr, &subject(), an_hour()).unwrap();
    let der = der(&issued.certificate_pem);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=i-0123456789abcdef0");
    assert_eq!(certificate.public_key().raw, csr_public_key(&csr).unwrap());
    assert_eq!(certificate.public_key().subject_public_key.data, key.public_key_raw());
    assert!(!certificate.is_ca());
    assert_eq!(certificate.validity().not_after.timestamp(), issued.not_after.as_second());
}

#[test]
fn a_request_without_proof_of_possession_is_refused() {
    let (_, csr) = request();
    let mut der = pem_contents(&csr, "CERTIFICATE REQUEST", REQUEST).unwrap();
    let at = der.windows(5).position(|w| w == b"i-fff").unwrap();
    der[at + 2] = b'e';
    let forged = rcgen_pem("CERTIFICATE REQUEST", &der);
    assert!(matches!(csr_public_key(&forged), Err(IdentityError::Untrusted { .. })));
    let authority = Authority::generate(Timestamp::now()).unwrap();
    assert!(authority.issue_node(&forged, &subject(), an_hour()).is_err());
}

fn rcgen_pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64::prelude::BASE64_STANDARD.encode(der))
}

#[test]
fn what_is_no_request_is_refused() {
    let authority = Authority::generate(Timestamp::now()).unwrap();
    let long = "x".repeat(REQUEST_LIMIT + 1);
    for bad in ["", "nonsense", authority.certificate_pem(), &authority.key_pem(), &long] {
        assert!(matches!(csr_public_key(bad), Err(IdentityError::Malformed { .. })), "{bad:.40}");
    }
}

#[test]
fn what_does_not_name_a_node_is_refused() {
    let authority = Authority::generate(Timestamp::now()).unwrap();
    assert!(node_of_certificate(&der(authority.certificate_pem())).is_err());
    let server = authority.issue_server("coordinator.ec2mpi", &[], an_hour()).unwrap();
    assert!(node_of_certificate(&der(&server.certificate_pem)).is_err());
    assert!(node_of_certificate(b"").is_err());
    for uri in ["", "ec2mpi://", "ec2mpi://c-0123456789abcdef0123456789abcdef", "https://c-0/i-0", "ec2mpi://a/b/c"] {
        assert_eq!(NodeSubject::from_uri(uri), None, "{uri}");
    }
}

#[test]
fn a_stored_authority_must_have_its_own_key_and_never_shows_it() {
    let (one, other) = (Authority::generate(Timestamp::now()).unwrap(), Authority::generate(Timestamp::now()).unwrap());
    let error = Authority::from_pem(one.certificate_pem(), &other.key_pem()).unwrap_err();
    assert_eq!(error.to_string(), "certificate authority cannot be read: certificate and key do not belong together");
    let error = Authority::from_pem(one.certificate_pem(), "no key").unwrap_err();
    assert!(!error.to_string().contains("no key"));
    assert!(!format!("{one:?}").contains("PRIVATE"));
    let server = one.issue_server("coordinator.ec2mpi", &[], an_hour()).unwrap();
    assert!(!format!("{server:?}").contains("PRIVATE"));
}
