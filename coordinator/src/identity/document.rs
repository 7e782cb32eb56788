//! EC2 instance identity documents: JSON facts of an instance, signed by the cloud as PKCS#7 (RSA-2048, SHA-256).
//!
//! The signature is verified with the keys of a fixed list of certificates; certificates inside the message are
//! never used, and the listed ones' own validity is not asked, as with any pinned key.
//! Source: "Instance identity documents" in the EC2 user guide; RFC 5652 for the format.

mod ber;

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedAttributes, SignedData, SignerInfo};
use const_oid::ObjectIdentifier;
use const_oid::db::{rfc5911, rfc5912};
use der::asn1::OctetString;
use der::{Decode, DecodePem, Encode};
use ec2mpi_proto::id::InstanceId;
use jiff::Timestamp;
use rsa::RsaPublicKey;
use rsa::pkcs1v15::{Signature, VerifyingKey};
use rsa::pkcs8::DecodePublicKey;
use rsa::signature::Verifier;
use rsa::traits::PublicKeyParts;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use x509_cert::Certificate;

use super::{CLOCK_SKEW, IdentityError};

const DOCUMENT: &str = "instance identity document";

/// A signed document is about 1.5 KiB.
const SIZE_LIMIT: usize = 32 * 1024;

const KEY_BITS: usize = 2048;

/// What a verified document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub instance: InstanceId,
    pub region: String,
    pub account: String,
    pub private_ip: Ipv4Addr,
    pub image: String,
    pub instance_type: String,
    /// When the instance was launched or last started; a reboot leaves it.
    pub pending_time: Timestamp,
}

impl Document {
    /// Refuses a document of an instance that started more than `limit` before `now`, or after it; clocks may differ
    /// by [`CLOCK_SKEW`].
    pub fn check_age(&self, now: Timestamp, limit: Duration) -> Result<(), IdentityError> {
        let age = now.duration_since(self.pending_time);
        let skew = jiff::SignedDuration::try_from(CLOCK_SKEW).unwrap_or(jiff::SignedDuration::ZERO);
        let limit = jiff::SignedDuration::try_from(limit).unwrap_or(jiff::SignedDuration::MAX).saturating_add(skew);
        if age > limit {
            let why = format!(
                "the instance started at {}, too long before this coordinator's {now}: it joined too late, or a clock is wrong",
                self.pending_time
            );
            return Err(IdentityError::untrusted(DOCUMENT, why));
        }
        if age < -skew {
            let why = format!(
                "the instance started at {}, in the future of this coordinator's {now}: a clock is wrong",
                self.pending_time
            );
            return Err(IdentityError::untrusted(DOCUMENT, why));
        }
        Ok(())
    }
}

/// Verifies a signed document against `trusted` certificates (each one PEM) and reads it.
/// `pkcs7_base64`: what IMDS serves as `dynamic/instance-identity/rsa2048`, line breaks allowed.
pub fn verify(pkcs7_base64: &str, trusted: &[String]) -> Result<Document, IdentityError> {
    let keys = trusted.iter().map(|pem| public_key(pem)).collect::<Result<Vec<_>, _>>()?;
    let signed = decode(pkcs7_base64)?;
    let content = content(&signed)?;
    let [signer] = signed.signer_infos.0.as_slice() else {
        return Err(IdentityError::malformed(DOCUMENT, "it must have exactly one signature"));
    };
    let message = signed_bytes(signer, &signed, &content)?;
    check_signature(signer, &message, &keys)?;
    parse(&content)
}

/// Certificates that AWS signs documents with, PEM, by region, those that this build carries.
/// Source: "AWS public certificates for instance identity document signatures" in the EC2 user guide, RSA-2048.
const AWS_CERTIFICATES: &[(&str, &str)] = &[
    ("eu-central-1", include_str!("certificates/eu-central-1.pem")),
    ("eu-west-1", include_str!("certificates/eu-west-1.pem")),
    ("us-east-1", include_str!("certificates/us-east-1.pem")),
    ("us-west-2", include_str!("certificates/us-west-2.pem")),
];

/// AWS's certificate of a region.
pub fn aws_certificate(region: &str) -> Option<&'static str> {
    AWS_CERTIFICATES.iter().find(|(of, _)| *of == region).map(|(_, pem)| *pem)
}

/// The regions whose certificate this build carries.
pub fn aws_regions() -> impl Iterator<Item = &'static str> {
    AWS_CERTIFICATES.iter().map(|(region, _)| *region)
}

/// Whether this is a certificate that can be trusted at all: one that documents could be signed with.
pub fn check_certificate(pem: &str) -> Result<(), IdentityError> {
    public_key(pem).map(drop)
}

fn public_key(certificate_pem: &str) -> Result<VerifyingKey<Sha256>, IdentityError> {
    const TRUSTED: &str = "trusted certificate";
    let certificate = Certificate::from_pem(certificate_pem).map_err(|e| IdentityError::malformed(TRUSTED, e))?;
    let spki = certificate
        .tbs_certificate
        .subject_public_key_info
        .to_der()
        .map_err(|e| IdentityError::malformed(TRUSTED, e))?;
    let key = RsaPublicKey::from_public_key_der(&spki).map_err(|e| IdentityError::malformed(TRUSTED, e))?;
    if key.size() * 8 < KEY_BITS {
        return Err(IdentityError::malformed(TRUSTED, format!("its key has less than {KEY_BITS} bits")));
    }
    Ok(VerifyingKey::new(key))
}

fn decode(pkcs7_base64: &str) -> Result<SignedData, IdentityError> {
    if pkcs7_base64.len() > SIZE_LIMIT {
        return Err(IdentityError::malformed(DOCUMENT, "it is too long"));
    }
    let compact: String = pkcs7_base64.split_ascii_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(compact).map_err(|e| IdentityError::malformed(DOCUMENT, e))?;
    let der = ber::to_der(&bytes).map_err(|e| IdentityError::malformed(DOCUMENT, e))?;
    let info = ContentInfo::from_der(&der).map_err(|e| IdentityError::malformed(DOCUMENT, e))?;
    if info.content_type != rfc5911::ID_SIGNED_DATA {
        return Err(IdentityError::malformed(DOCUMENT, "it is not PKCS#7 signed data"));
    }
    info.content.decode_as().map_err(|e| IdentityError::malformed(DOCUMENT, e))
}

/// The bytes that were signed; detached ones are of no use here.
fn content(signed: &SignedData) -> Result<Vec<u8>, IdentityError> {
    let encapsulated = &signed.encap_content_info;
    let content = encapsulated.econtent.as_ref().filter(|_| encapsulated.econtent_type == rfc5911::ID_DATA);
    let content = content.ok_or_else(|| IdentityError::malformed(DOCUMENT, "it holds no data"))?;
    let octets: OctetString = content.decode_as().map_err(|e| IdentityError::malformed(DOCUMENT, e))?;
    Ok(octets.into_bytes())
}

/// What the signature is over: the content or, where there are signed attributes, those (RFC 5652, 5.4), which then
/// must hold the content's digest.
fn signed_bytes(signer: &SignerInfo, signed: &SignedData, content: &[u8]) -> Result<Vec<u8>, IdentityError> {
    if signer.digest_alg.oid != rfc5912::ID_SHA_256 {
        return Err(IdentityError::untrusted(DOCUMENT, "its digest is not SHA-256"));
    }
    let Some(attributes) = &signer.signed_attrs else {
        return Ok(content.to_vec());
    };
    let content_type: ObjectIdentifier = attribute(attributes, rfc5911::ID_CONTENT_TYPE)?;
    let digest: OctetString = attribute(attributes, rfc5911::ID_MESSAGE_DIGEST)?;
    if content_type != signed.encap_content_info.econtent_type
        || digest.as_bytes() != Sha256::digest(content).as_slice()
    {
        return Err(IdentityError::untrusted(DOCUMENT, "its content is not the one that was signed"));
    }
    attributes.to_der().map_err(|e| IdentityError::malformed(DOCUMENT, e))
}

/// The one value of an attribute that must be there once.
fn attribute<'a, T>(attributes: &'a SignedAttributes, oid: ObjectIdentifier) -> Result<T, IdentityError>
where
    T: der::Choice<'a> + der::DecodeValue<'a>,
{
    let mut found = attributes.iter().filter(|a| a.oid == oid);
    let (Some(only), None) = (found.next(), found.next()) else {
        return Err(IdentityError::malformed(DOCUMENT, format!("it must have one signed attribute {oid}")));
    };
    let [value] = only.values.as_slice() else {
        return Err(IdentityError::malformed(DOCUMENT, format!("attribute {oid} must have one value")));
    };
    value.decode_as().map_err(|e| IdentityError::malformed(DOCUMENT, e))
}

fn check_signature(signer: &SignerInfo, message: &[u8], keys: &[VerifyingKey<Sha256>]) -> Result<(), IdentityError> {
    let algorithm = signer.signature_algorithm.oid;
    if algorithm != rfc5912::RSA_ENCRYPTION && algorithm != rfc5912::SHA_256_WITH_RSA_ENCRYPTION {
        return Err(IdentityError::untrusted(DOCUMENT, "it is not signed with RSA and SHA-256"));
    }
    let signature =
        Signature::try_from(signer.signature.as_bytes()).map_err(|e| IdentityError::malformed(DOCUMENT, e))?;
    if keys.iter().any(|key| key.verify(message, &signature).is_ok()) {
        return Ok(());
    }
    Err(IdentityError::untrusted(DOCUMENT, "no trusted certificate signed it"))
}

/// The fields that count; AWS may add others. A field that comes twice is an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    instance_id: InstanceId,
    region: String,
    account_id: String,
    private_ip: Ipv4Addr,
    image_id: String,
    instance_type: String,
    pending_time: Timestamp,
}

fn parse(content: &[u8]) -> Result<Document, IdentityError> {
    let fields: Fields = serde_json::from_slice(content).map_err(|e| IdentityError::malformed(DOCUMENT, e))?;
    Ok(Document {
        instance: fields.instance_id,
        region: fields.region,
        account: fields.account_id,
        private_ip: fields.private_ip,
        image: fields.image_id,
        instance_type: fields.instance_type,
        pending_time: fields.pending_time,
    })
}

#[cfg(test)]
mod tests;
