//! Instance identity documents: signed by the cloud, so that a machine can say who it is.

use std::io;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cms::builder::{SignedDataBuilder, SignerInfoBuilder};
use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::signed_data::{EncapsulatedContentInfo, SignerIdentifier};
use der::asn1::OctetString;
use der::{Any, Decode, Encode, EncodePem, Tag};
use rsa::RsaPrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::signature::{SignatureEncoding, Signer};
use serde::Serialize;
use sha2::Sha256;
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::Certificate;
use x509_cert::builder::{Builder, CertificateBuilder, Profile};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;

use crate::catalog;
use crate::durable::{self, Outlive};
use crate::layout::Layout;

const KEY_BITS: usize = 2048;
const CERTIFICATE_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What an instance identity document says, in AWS's field names.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    pub(crate) account_id: String,
    pub(crate) architecture: String,
    pub(crate) availability_zone: String,
    pub(crate) billing_products: Option<Vec<String>>,
    pub(crate) devpay_product_codes: Option<Vec<String>>,
    pub(crate) marketplace_product_codes: Option<Vec<String>>,
    pub(crate) image_id: String,
    pub(crate) instance_id: String,
    pub(crate) instance_type: String,
    pub(crate) kernel_id: Option<String>,
    pub(crate) pending_time: String,
    pub(crate) private_ip: Ipv4Addr,
    pub(crate) ramdisk_id: Option<String>,
    pub(crate) region: String,
    pub(crate) version: String,
}

impl Document {
    /// The text that is served, and signed byte for byte.
    pub(crate) fn to_text(&self) -> io::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }
}

/// Why a key, certificate or signature could not be made; none of them is expected.
#[derive(Debug, thiserror::Error)]
#[error("identity document: {0}")]
pub(crate) struct SigningError(String);

/// RSA-2048 key with a certificate of its own, made once a cloud.
#[derive(Debug)]
pub(crate) struct DocumentSigner {
    key: SigningKey<Sha256>,
    certificate: Certificate,
}

impl DocumentSigner {
    /// Reads key and certificate, or makes and keeps them.
    pub(crate) fn load_or_create(layout: &Layout) -> anyhow::Result<Self> {
        match std::fs::read_to_string(layout.document_key()) {
            Ok(pem) => {
                let key = SigningKey::new(RsaPrivateKey::from_pkcs8_pem(&pem).map_err(failed)?);
                Ok(Self { certificate: load_certificate(layout)?.map_or_else(|| self_signed(&key), Ok)?, key })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(layout),
            Err(error) => Err(error.into()),
        }
    }

    fn create(layout: &Layout) -> anyhow::Result<Self> {
        let private = RsaPrivateKey::new(&mut rand::rngs::OsRng, KEY_BITS).map_err(failed)?;
        let key_pem = private.to_pkcs8_pem(LineEnding::LF).map_err(failed)?;
        let key = SigningKey::new(private);
        let certificate = self_signed(&key)?;
        let certificate_pem = certificate.to_pem(LineEnding::LF).map_err(failed)?;
        // The certificate first: a key without one would get a second certificate, which nobody trusts yet.
        durable::replace(&layout.document_certificate(), certificate_pem.as_bytes(), Outlive::Host)?;
        durable::replace(&layout.document_key(), key_pem.as_bytes(), Outlive::Host)?;
        Ok(Self { key, certificate })
    }

    /// What a verifier must trust.
    pub(crate) fn certificate_pem(&self) -> Result<String, SigningError> {
        self.certificate.to_pem(LineEnding::LF).map_err(failed)
    }

    /// Base64 of a PKCS#7 SignedData that contains the text and the certificate, in lines of 64 characters.
    pub(crate) fn pkcs7(&self, text: &str) -> Result<String, SigningError> {
        let content = EncapsulatedContentInfo {
            econtent_type: const_oid::db::rfc5911::ID_DATA,
            econtent: Some(octets(text.as_bytes())?),
        };
        let digest = AlgorithmIdentifierOwned { oid: const_oid::db::rfc5912::ID_SHA_256, parameters: None };
        let signer = SignerInfoBuilder::new(&self.key, self.signer_identifier(), digest.clone(), &content, None)
            .map_err(failed)?;
        let signed = SignedDataBuilder::new(&content)
            .add_digest_algorithm(digest)
            .map_err(failed)?
            .add_certificate(CertificateChoices::Certificate(self.certificate.clone()))
            .map_err(failed)?
            .add_signer_info::<SigningKey<Sha256>, rsa::pkcs1v15::Signature>(signer)
            .map_err(failed)?
            .build()
            .map_err(failed)?;
        Ok(in_lines(&STANDARD.encode(signed.to_der().map_err(failed)?)))
    }

    /// Base64 of the bare signature (RSA, SHA-256) of the text.
    pub(crate) fn signature(&self, text: &str) -> String {
        in_lines(&STANDARD.encode(self.key.sign(text.as_bytes()).to_bytes()))
    }

    fn signer_identifier(&self) -> SignerIdentifier {
        SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer: self.certificate.tbs_certificate.issuer.clone(),
            serial_number: self.certificate.tbs_certificate.serial_number.clone(),
        })
    }
}

fn load_certificate(layout: &Layout) -> anyhow::Result<Option<Certificate>> {
    use der::DecodePem;
    match std::fs::read(layout.document_certificate()) {
        Ok(pem) => Ok(Some(Certificate::from_pem(pem).map_err(failed)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn self_signed(key: &SigningKey<Sha256>) -> Result<Certificate, SigningError> {
    use rsa::signature::Keypair;
    let public = key.verifying_key().to_public_key_der().map_err(failed)?;
    let subject = format!("CN=ec2mpi local cloud {},O=ec2mpi", catalog::REGION);
    let builder = CertificateBuilder::new(
        Profile::Root,
        SerialNumber::from(rand::random::<u32>()),
        Validity::from_now(CERTIFICATE_LIFE).map_err(failed)?,
        Name::from_str(&subject).map_err(failed)?,
        SubjectPublicKeyInfoOwned::from_der(public.as_bytes()).map_err(failed)?,
        key,
    )
    .map_err(failed)?;
    builder.build::<rsa::pkcs1v15::Signature>().map_err(failed)
}

fn octets(bytes: &[u8]) -> Result<Any, SigningError> {
    let octets = OctetString::new(bytes).map_err(failed)?;
    Any::new(Tag::OctetString, octets.as_bytes()).map_err(failed)
}

fn in_lines(text: &str) -> String {
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    lines.join("\n")
}

fn failed(error: impl std::fmt::Display) -> SigningError {
    SigningError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cms::content_info::ContentInfo;
    use cms::signed_data::SignedData;
    use rsa::pkcs1v15::VerifyingKey;
    use rsa::signature::{Keypair, Verifier};
    use std::process::Command;

    fn signer(dir: &tempfile::TempDir) -> DocumentSigner {
        DocumentSigner::load_or_create(&Layout::create(dir.path()).unwrap()).unwrap()
    }

    #[test]
    fn openssl_verifies_the_document() {
        let dir = tempfile::tempdir().unwrap();
        let signer = signer(&dir);
        let text = "{\n  \"instanceId\" : \"i-1\"\n}";
        let pkcs7 = signer.pkcs7(text).unwrap();
        let path = dir.path().join("pkcs7.pem");
        std::fs::write(&path, format!("-----BEGIN PKCS7-----\n{pkcs7}\n-----END PKCS7-----\n")).unwrap();
        let output = Command::new("openssl")
            .args(["cms", "-verify", "-inform", "PEM", "-noverify", "-nointern", "-binary", "-in"])
            .arg(&path)
            .arg("-certfile")
            .arg(dir.path().join("document.crt"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), text);
    }

    #[test]
    fn key_and_certificate_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = signer(&dir);
        let second = signer(&dir);
        assert_eq!(first.certificate_pem().unwrap(), second.certificate_pem().unwrap());
        let signature = STANDARD.decode(second.signature("text").replace('\n', "")).unwrap();
        let signature = rsa::pkcs1v15::Signature::try_from(signature.as_slice()).unwrap();
        let verifier: VerifyingKey<Sha256> = first.key.verifying_key();
        verifier.verify(b"text", &signature).unwrap();
        assert!(verifier.verify(b"other", &signature).is_err());
    }

    #[test]
    fn the_content_is_attached() {
        let dir = tempfile::tempdir().unwrap();
        let pkcs7 = signer(&dir).pkcs7("hello").unwrap();
        let info = ContentInfo::from_der(&STANDARD.decode(pkcs7.replace('\n', "")).unwrap()).unwrap();
        let signed = info.content.decode_as::<SignedData>().unwrap();
        assert_eq!(signed.encap_content_info.econtent.unwrap().value(), b"hello");
    }
}
