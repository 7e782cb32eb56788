//! EC2 instance identity documents: JSON facts of an instance, signed by the cloud as PKCS#7 (RSA-2048, SHA-256).
//!
//! The signature is verified with the keys of a fixed list of certificates; certificates inside the message are
//! never used.

use std::net::Ipv4Addr;
use std::time::Duration;

use ec2mpi_proto::id::InstanceId;
use jiff::Timestamp;

use super::IdentityError;

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
    /// Refuses a document of an instance that started more than `limit` before `now`, or after it.
    pub fn check_age(&self, _now: Timestamp, _limit: Duration) -> Result<(), IdentityError> {
        todo!()
    }
}

/// Verifies a signed document against `trusted` certificates (each one PEM) and reads it.
/// `pkcs7_base64`: what IMDS serves as `dynamic/instance-identity/rsa2048`, line breaks allowed.
pub fn verify(_pkcs7_base64: &str, _trusted: &[String]) -> Result<Document, IdentityError> {
    todo!()
}

/// Certificates that AWS signs documents with, PEM, those that this build carries.
pub fn aws_certificates() -> Vec<String> {
    todo!()
}
