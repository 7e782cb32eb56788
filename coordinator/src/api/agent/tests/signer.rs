//! A cloud's signature under identity documents.

use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cms::builder::{SignedDataBuilder, SignerInfoBuilder};
use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::signed_data::{EncapsulatedContentInfo, SignerIdentifier};
use der::asn1::OctetString;
use der::{Any, Decode, Encode, EncodePem, Tag};
use ec2mpi_proto::id::InstanceId;
use rsa::RsaPrivateKey;
use rsa::pkcs1v15::{Signature, SigningKey};
use rsa::pkcs8::{EncodePublicKey, LineEnding};
use rsa::signature::Keypair;
use sha2::Sha256;
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::Certificate;
use x509_cert::builder::{Builder, CertificateBuilder, Profile};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;

/// What a document says of a machine.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    pub(super) instance: String,
    pub(super) private_ip: String,
    pub(super) instance_type: String,
    pub(super) pending_time: String,
    pub(super) region: String,
}

impl Claims {
    /// The truth about a machine of the tests, seen from 127.0.0.1.
    pub(super) fn of(instance: &InstanceId) -> Self {
        Self {
            instance: instance.to_string(),
            private_ip: "127.0.0.1".into(),
            instance_type: "local.machine".into(),
            pending_time: jiff::Timestamp::now().to_string(),
            region: "local-1".into(),
        }
    }

    fn to_json(&self) -> String {
        serde_json::json!({
            "accountId": "000000000000",
            "architecture": "x86_64",
            "availabilityZone": "local-1a",
            "imageId": "ami-00000000000000001",
            "instanceId": self.instance,
            "instanceType": self.instance_type,
            "pendingTime": self.pending_time,
            "privateIp": self.private_ip,
            "region": self.region,
            "version": "2017-09-30",
        })
        .to_string()
    }
}

pub(super) struct Signer {
    key: SigningKey<Sha256>,
    certificate: Certificate,
}

impl Signer {
    pub(super) fn new() -> Self {
        let key = SigningKey::new(RsaPrivateKey::new(&mut rand::rngs::OsRng, 2048).unwrap());
        let public = key.verifying_key().to_public_key_der().unwrap();
        let builder = CertificateBuilder::new(
            Profile::Root,
            SerialNumber::from(1_u32),
            Validity::from_now(Duration::from_secs(3600)).unwrap(),
            Name::from_str("CN=cloud").unwrap(),
            SubjectPublicKeyInfoOwned::from_der(public.as_bytes()).unwrap(),
            &key,
        );
        let certificate = builder.unwrap().build::<Signature>().unwrap();
        Self { key, certificate }
    }

    pub(super) fn certificate_pem(&self) -> String {
        self.certificate.to_pem(LineEnding::LF).unwrap()
    }

    pub(super) fn sign(&self, claims: &Claims) -> String {
        let content = EncapsulatedContentInfo {
            econtent_type: const_oid::db::rfc5911::ID_DATA,
            econtent: Some(octets(claims.to_json().as_bytes())),
        };
        let digest = AlgorithmIdentifierOwned { oid: const_oid::db::rfc5912::ID_SHA_256, parameters: None };
        let signer = SignerInfoBuilder::new(&self.key, self.identifier(), digest.clone(), &content, None).unwrap();
        let signed = SignedDataBuilder::new(&content)
            .add_digest_algorithm(digest)
            .unwrap()
            .add_certificate(CertificateChoices::Certificate(self.certificate.clone()))
            .unwrap()
            .add_signer_info::<SigningKey<Sha256>, Signature>(signer)
            .unwrap()
            .build()
            .unwrap();
        STANDARD.encode(signed.to_der().unwrap())
    }

    fn identifier(&self) -> SignerIdentifier {
        SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer: self.certificate.tbs_certificate.issuer.clone(),
            serial_number: self.certificate.tbs_certificate.serial_number.clone(),
        })
    }
}

fn octets(bytes: &[u8]) -> Any {
    Any::new(Tag::OctetString, OctetString::new(bytes).unwrap().as_bytes()).unwrap()
}
