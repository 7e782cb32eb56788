//! Session tokens: instance and expiry under a MAC, so that none need be remembered and all outlive the cloud's process.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use jiff::Timestamp;

use crate::fleet::InstanceId;
use crate::mac;

/// The longest life of a token, in seconds: AWS's limit.
pub(super) const LONGEST: u32 = 21_600;
const EXPIRY_BYTES: usize = 8;

/// Makes and checks tokens.
pub(super) struct TokenKey(Vec<u8>);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    pub(super) fn new(secret: &str) -> Self {
        Self(secret.as_bytes().to_vec())
    }

    pub(super) fn issue(&self, instance: &InstanceId, ttl: u32, now: Timestamp) -> String {
        let expiry = (now.as_second() + i64::from(ttl)).to_be_bytes();
        let mac = mac::compute(&self.0, &[&expiry, instance.as_str().as_bytes()]);
        URL_SAFE.encode([expiry.as_slice(), mac.as_slice()].concat())
    }

    pub(super) fn is_valid(&self, token: &[u8], instance: &InstanceId, now: Timestamp) -> bool {
        let Ok(bytes) = URL_SAFE.decode(token) else { return false };
        let Some((expiry, mac)) = bytes.split_first_chunk::<EXPIRY_BYTES>() else { return false };
        let is_ours = mac::verify(&self.0, &[expiry, instance.as_str().as_bytes()], mac);
        is_ours && i64::from_be_bytes(*expiry) > now.as_second()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    #[test]
    fn tokens_expire_and_belong_to_one_instance() {
        let key = TokenKey::new("secret");
        let (one, two) = (InstanceId::random(), InstanceId::random());
        let now = Timestamp::now();
        let token = key.issue(&one, 10, now);
        let after = |seconds| now + SignedDuration::from_secs(seconds);
        assert!(key.is_valid(token.as_bytes(), &one, after(9)));
        assert!(!key.is_valid(token.as_bytes(), &one, after(10)));
        assert!(!key.is_valid(token.as_bytes(), &two, now));
        assert!(!TokenKey::new("other").is_valid(token.as_bytes(), &one, now));
        for wrong in [&b""[..], b"short", b"!!!", &[0xff]] {
            assert!(!key.is_valid(wrong, &one, now));
        }
    }
}
