//! HMAC-SHA-256.

use hmac::{Hmac, KeyInit, Mac};
use sha2_for_hmac::Sha256;

/// The code of the parts, one after the other, under a key of any length.
pub(crate) fn compute(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    mac(key, parts).finalize().into_bytes().to_vec()
}

/// Whether `code` is that of the parts; takes the same time wherever they differ.
pub(crate) fn verify(key: &[u8], parts: &[&[u8]], code: &[u8]) -> bool {
    mac(key, parts).verify_slice(code).is_ok()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    // Refuses no key: HMAC hashes long ones and pads short ones.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap_or_else(|_| unreachable!("any key length"));
    parts.iter().for_each(|part| mac.update(part));
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn agrees_with_the_published_example() {
        let code = compute(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(hex::encode(&code), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(verify(b"Jefe", &[b"what do ya want for nothing?"], &code));
        assert!(!verify(b"Jeff", &[b"what do ya want for nothing?"], &code));
        assert!(!verify(b"Jefe", &[b"what do ya want for nothing?"], &code[..31]));
    }
}
