//! Private keys: found wherever they lie, in whatever form, by the bytes that are secret in them.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// What every private key in PEM or OpenSSH form has in its first line.
const HEADER_END: &[u8] = b"PRIVATE KEY-----";

/// So many bytes are taken of a key, at most: all of a key on an elliptic curve.
const SECRET_BYTES: usize = 32;

/// A private key by its secret bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Where it was found.
    pub name: String,
    /// Raw, hexadecimal, and as base64 at each of the three alignments, without the characters at its ends that depend
    /// on what stands beside it.
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut forms = vec![bytes.to_vec(), hexadecimal.into_bytes()];
        for skipped in 0..3 {
            let whole = (bytes.len() - skipped) / 3 * 3;
            forms.push(STANDARD_NO_PAD.encode(&bytes[skipped..skipped + whole]).into_bytes());
        }
        Self { name: name.to_owned(), forms }
    }

    /// Whether these bytes hold it in any form, line breaks or not.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        let joined: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        self.forms.iter().any(|form| contains(bytes, form) || contains(&joined, form))
    }
}

/// The private keys in these bytes, in PEM or OpenSSH form.
///
/// # Panics
/// At a key that is of no known kind: then this function has to learn it.
#[track_caller]
pub fn secrets_in(name: &str, bytes: &[u8]) -> Vec<Secret> {
    let mut found = Vec::new();
    for start in headers(bytes) {
        let body = &bytes[start + HEADER_END.len()..];
        let Some(end) = positions(body, b"-----END").first().copied() else { continue };
        let text: Vec<u8> = body[..end].iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let key = STANDARD.decode(&text).unwrap_or_else(|error| panic!("a key in {name} is not base64: {error}"));
        let secret = secret_part(&key).unwrap_or_else(|| panic!("a key in {name} is of an unknown kind"));
        found.push(Secret::new(name, secret));
    }
    found
}

/// OpenSSH's ed25519: a string of 64 bytes, seed first. PKCS#8 of an elliptic curve: an octet string of 32 bytes.
/// RSA: some bytes of the primes.
fn secret_part(key: &[u8]) -> Option<&[u8]> {
    let after = |mark: &[u8]| {
        let at = *positions(key, mark).last()? + mark.len();
        key.get(at..at + SECRET_BYTES)
    };
    if key.starts_with(b"openssh-key-v1") {
        return after(&[0, 0, 0, 64]);
    }
    if key.len() > 600 {
        return key.get(key.len() * 3 / 4..key.len() * 3 / 4 + SECRET_BYTES);
    }
    let first = *positions(key, &[4, 32]).first()? + 2;
    key.get(first..first + SECRET_BYTES)
}

/// Whether these bytes hold the first line of a private key.
pub fn has_header(bytes: &[u8]) -> bool {
    !headers(bytes).is_empty()
}

/// Where the ends of first lines are: last lines end alike.
fn headers(bytes: &[u8]) -> Vec<usize> {
    let mut all = positions(bytes, HEADER_END);
    all.retain(|at| contains(&bytes[at.saturating_sub(24)..*at], b"-----BEGIN"));
    all
}

/// All files below a directory that can be read, `skip` and special files excepted; on one file system only.
pub fn files_below(directory: &Path, skip: &[&Path]) -> Vec<PathBuf> {
    let mut folders = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if skip.contains(&path.as_path()) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// Whether one contains the other.
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    !positions(bytes, needle).is_empty()
}

fn positions(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let Some(first) = needle.first() else { return Vec::new() };
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| byte == first) {
        at += next;
        if bytes[at..].starts_with(needle) {
            found.push(at);
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PKCS#8 of an ed25519 key whose seed is 0, 1, 2 ... 31.
    fn pem() -> String {
        let mut key = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        key.extend(0..32u8);
        format!("x -----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY----- y", STANDARD.encode(key))
    }

    #[test]
    fn a_key_is_found_in_every_form() {
        let secrets = secrets_in("here", pem().as_bytes());
        let [secret] = &secrets[..] else { panic!("{secrets:?}") };
        let seed: Vec<u8> = (0..32).collect();
        let broken_lines = pem().replace("AQID", "AQ\nID");
        for before in ["", "a", "ab"] {
            let embedded = STANDARD.encode([before.as_bytes(), &seed, b"rest"].concat());
            assert!(secret.is_in(embedded.as_bytes()), "{before:?}");
        }
        assert!(secret.is_in(pem().as_bytes()) && secret.is_in(broken_lines.as_bytes()) && secret.is_in(&seed));
        assert!(!secret.is_in(&seed[..31]) && !secret.is_in(STANDARD.encode(&seed[4..]).as_bytes()));
        assert!(has_header(pem().as_bytes()) && !has_header(b"-----BEGIN CERTIFICATE-----"));
    }

    #[test]
    fn an_openssh_key_is_known_by_its_seed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let mut generator = std::process::Command::new("ssh-keygen");
        assert!(generator.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status().unwrap().success());
        let (private, public) = (fs::read(&path).unwrap(), fs::read(path.with_extension("pub")).unwrap());
        let secrets = secrets_in("key", &private);
        assert!(secrets[0].is_in(&private) && !secrets[0].is_in(&public));
    }
}
