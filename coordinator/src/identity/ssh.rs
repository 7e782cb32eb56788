//! The SSH authority of one cluster: ed25519; signs the host keys and user keys that nodes make themselves.

use std::fmt;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use ssh_key::certificate::{Builder, CertType};
use ssh_key::rand_core::{OsRng, RngCore};
use ssh_key::{Algorithm, LineEnding, PrivateKey, PublicKey};

use super::{IdentityError, Validity};

const PUBLIC_KEY: &str = "SSH public key";
const CERTIFICATE: &str = "SSH certificate";
const AUTHORITY: &str = "SSH authority";

/// An ed25519 line is 80 characters and a comment.
const LINE_LIMIT: usize = 1024;

/// An SSH certificate authority with its private key.
pub struct SshAuthority {
    key: PrivateKey,
    public_line: String,
}

impl fmt::Debug for SshAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshAuthority").field("public_line", &self.public_line).finish_non_exhaustive()
    }
}

impl SshAuthority {
    /// A new one. `comment` tells people whose it is; it is in the public line.
    pub fn generate(comment: &str) -> Result<Self, IdentityError> {
        let mut key =
            PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(|e| IdentityError::making(AUTHORITY, e))?;
        key.set_comment(comment);
        Self::from_key(key)
    }

    /// One that was stored: an OpenSSH private key, unencrypted.
    pub fn from_openssh(private: &str) -> Result<Self, IdentityError> {
        let key = PrivateKey::from_openssh(private).map_err(|e| IdentityError::malformed(AUTHORITY, e))?;
        if key.is_encrypted() || key.algorithm() != Algorithm::Ed25519 {
            return Err(IdentityError::malformed(AUTHORITY, "it is not an unencrypted ed25519 key"));
        }
        Self::from_key(key)
    }

    fn from_key(key: PrivateKey) -> Result<Self, IdentityError> {
        let public_line = key.public_key().to_openssh().map_err(|e| IdentityError::making(AUTHORITY, e))?;
        Ok(Self { key, public_line })
    }

    /// The private key, for the state database only.
    pub fn to_openssh(&self) -> Result<String, IdentityError> {
        let text = self.key.to_openssh(LineEnding::LF).map_err(|e| IdentityError::making(AUTHORITY, e))?;
        Ok(text.to_string())
    }

    /// `ssh-ed25519 AAAA… comment`, for TrustedUserCAKeys.
    pub fn public_line(&self) -> String {
        self.public_line.clone()
    }

    /// A host certificate line for an ed25519 host key; principals are the host's names and addresses.
    pub fn sign_host(
        &self,
        public_line: &str,
        principals: &[String],
        validity: Validity,
    ) -> Result<String, IdentityError> {
        self.sign(CertType::Host, public_line, principals, validity, &[])
    }

    /// A user certificate line for an ed25519 user key; principals are the accounts it may log in to. It permits a
    /// terminal and nothing else: no forwarding of any kind.
    pub fn sign_user(
        &self,
        public_line: &str,
        principals: &[String],
        validity: Validity,
    ) -> Result<String, IdentityError> {
        self.sign(CertType::User, public_line, principals, validity, &["permit-pty"])
    }

    fn sign(
        &self,
        kind: CertType,
        public_line: &str,
        principals: &[String],
        validity: Validity,
        extensions: &[&str],
    ) -> Result<String, IdentityError> {
        let key = parse_public(public_line)?;
        check_principals(principals)?;
        self.build(kind, &key, principals, validity, extensions).map_err(|e| IdentityError::making(CERTIFICATE, e))
    }

    fn build(
        &self,
        kind: CertType,
        key: &PublicKey,
        principals: &[String],
        validity: Validity,
        extensions: &[&str],
    ) -> Result<String, ssh_key::Error> {
        let (after, before) = (seconds(validity.not_before), seconds(validity.not_after));
        let mut builder = Builder::new_with_random_nonce(&mut OsRng, key.key_data().clone(), after, before)?;
        builder.serial(OsRng.next_u64())?.cert_type(kind)?.key_id(principals.join(","))?;
        for principal in principals {
            builder.valid_principal(principal)?;
        }
        for extension in extensions {
            builder.extension(*extension, "")?;
        }
        builder.comment(self.key.comment())?;
        builder.sign(&self.key)?.to_openssh()
    }

    /// One known_hosts line that trusts this authority for hosts that match `patterns` (names and addresses with `*`
    /// and `?`; no address blocks, see [`address_patterns`]), on port 22 and, as ssh writes it, `[host]:port`.
    pub fn known_hosts(&self, patterns: &[String]) -> String {
        let both: Vec<String> = patterns.iter().flat_map(|p| [p.clone(), format!("[{p}]:*")]).collect();
        format!("@cert-authority {} {}\n", both.join(","), self.public_line)
    }
}

/// Patterns for known_hosts that match the IPv4 addresses of a CIDR block and, where its length is not a multiple of
/// 8, no others. At most 128.
pub fn address_patterns(cidr: &str) -> Result<Vec<String>, IdentityError> {
    let malformed = || IdentityError::malformed("address block", format!("{cidr:?} is not like 10.0.0.0/16"));
    let (address, length) = cidr.split_once('/').ok_or_else(malformed)?;
    let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
    let length: usize = length.parse().ok().filter(|l| (0..=32).contains(l)).ok_or_else(malformed)?;
    let (whole, bits) = (length / 8, length % 8);
    let octets = address.octets();
    let prefix: String = octets.iter().take(whole).map(|o| format!("{o}.")).collect();
    if whole == 4 {
        return Ok(vec![address.to_string()]);
    }
    if bits == 0 {
        return Ok(vec![format!("{prefix}*")]);
    }
    let rest = if whole == 3 { "" } else { ".*" };
    let first = octets[whole] & (0xff << (8 - bits));
    Ok((first..=first | (0xff >> bits)).map(|octet| format!("{prefix}{octet}{rest}")).collect())
}

fn parse_public(line: &str) -> Result<PublicKey, IdentityError> {
    if line.len() > LINE_LIMIT {
        return Err(IdentityError::malformed(PUBLIC_KEY, "it is too long"));
    }
    let key = PublicKey::from_openssh(line.trim()).map_err(|e| IdentityError::malformed(PUBLIC_KEY, e))?;
    if key.algorithm() != Algorithm::Ed25519 {
        return Err(IdentityError::malformed(PUBLIC_KEY, "it is not an ed25519 key"));
    }
    Ok(key)
}

/// A certificate without principals would be valid for all of them.
fn check_principals(principals: &[String]) -> Result<(), IdentityError> {
    let legal = |p: &String| {
        !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'))
    };
    if principals.is_empty() || !principals.iter().all(legal) {
        return Err(IdentityError::making(CERTIFICATE, format!("bad principals {principals:?}")));
    }
    Ok(())
}

/// A time before 1970 counts as 1970.
fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
