//! The SSH authority of one cluster: ed25519; signs the host keys and user keys that nodes make themselves.

use super::{IdentityError, Validity};

/// An SSH certificate authority with its private key.
pub struct SshAuthority {}

impl SshAuthority {
    /// A new one. `comment` tells people whose it is; it is in the public line.
    pub fn generate(_comment: &str) -> Result<Self, IdentityError> {
        todo!()
    }

    /// One that was stored: an OpenSSH private key, unencrypted.
    pub fn from_openssh(_private: &str) -> Result<Self, IdentityError> {
        todo!()
    }

    /// The private key, for the state database only.
    pub fn to_openssh(&self) -> Result<String, IdentityError> {
        todo!()
    }

    /// `ssh-ed25519 AAAA… comment`, for TrustedUserCAKeys.
    pub fn public_line(&self) -> String {
        todo!()
    }

    /// A host certificate line for a host key; principals are the host's names and addresses.
    pub fn sign_host(
        &self,
        _public_line: &str,
        _principals: &[String],
        _validity: Validity,
    ) -> Result<String, IdentityError> {
        todo!()
    }

    /// A user certificate line for a user key; principals are the accounts it may log in to. It permits a terminal
    /// and nothing else: no forwarding of any kind.
    pub fn sign_user(
        &self,
        _public_line: &str,
        _principals: &[String],
        _validity: Validity,
    ) -> Result<String, IdentityError> {
        todo!()
    }

    /// One known_hosts line that trusts this authority for hosts that match `patterns` (names with wildcards), on
    /// port 22 and on any other.
    pub fn known_hosts(&self, _patterns: &[String]) -> String {
        todo!()
    }
}
