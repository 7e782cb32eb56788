//! The node's own key and certificate: who it is towards the coordinator.

use anyhow::{Context, bail};
use rcgen::{CertificateParams, KeyPair};

use super::paths::Paths;
use crate::durable;

/// From when to when a certificate counts, seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    /// Two thirds of its life are over: time to renew, with a third left for tries.
    pub fn is_due(self, now: i64) -> bool {
        now >= self.not_before + (self.not_after - self.not_before) / 3 * 2
    }
}

/// The node's key pair, made and stored before it is first used: a node that crashes in between joins again with the
/// key that the coordinator may have bound it to.
pub fn key(paths: &Paths) -> anyhow::Result<KeyPair> {
    let path = paths.node_key();
    match std::fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem).with_context(|| format!("{} holds no key", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate().context("cannot make a key")?;
            durable::overwrite(&path, 0o600, key.serialize_pem().as_bytes()).context("cannot store the key")?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A certificate request that proves possession of the key. Names in it would be ignored.
pub fn request(key: &KeyPair) -> anyhow::Result<String> {
    let request = CertificateParams::default().serialize_request(key).context("cannot make a certificate request")?;
    Ok(request.pem()?)
}

/// Stores the certificate, durably.
pub fn store(paths: &Paths, pem: &str) -> anyhow::Result<()> {
    durable::overwrite(&paths.node_certificate(), 0o600, pem.as_bytes()).context("cannot store the certificate")
}

/// When the stored certificate counts.
pub fn validity(paths: &Paths) -> anyhow::Result<Validity> {
    let pem = std::fs::read(paths.node_certificate()).context("cannot read the certificate")?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).context("the certificate is no PEM")?;
    let certificate = pem.parse_x509().context("the certificate is damaged")?;
    let validity = certificate.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if not_after <= not_before {
        bail!("the certificate never counts");
    }
    Ok(Validity { not_before, not_after })
}

/// Whether the stored certificate is of no use any more.
pub fn has_expired(paths: &Paths) -> bool {
    validity(paths).is_ok_and(|validity| jiff::Timestamp::now().as_second() >= validity.not_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        std::fs::create_dir_all(paths.state_dir()).unwrap();
        let first = key(&paths).unwrap();
        let second = key(&paths).unwrap();
        assert_eq!(first.serialize_pem(), second.serialize_pem());
        let mode = std::fs::metadata(paths.node_key()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_certificate_is_due_at_two_thirds_of_its_life() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        std::fs::create_dir_all(paths.state_dir()).unwrap();
        assert!(validity(&paths).is_err());
        assert!(!has_expired(&paths), "one that is not there has not expired");
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 4);
        let certificate = params.self_signed(&key(&paths).unwrap()).unwrap();
        store(&paths, &certificate.pem()).unwrap();
        let validity = validity(&paths).unwrap();
        let day = 24 * 3600;
        assert_eq!(validity.not_after - validity.not_before, 3 * day);
        assert!(!validity.is_due(validity.not_before + 2 * day - 1));
        assert!(validity.is_due(validity.not_before + 2 * day));
        assert!(has_expired(&paths));
    }
}
