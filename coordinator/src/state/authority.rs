//! Private keys of the authorities: one X.509 CA for the coordinator, one SSH CA a cluster.

use std::fmt;

use ec2mpi_proto::id::ClusterId;
use rusqlite::{OptionalExtension, Transaction};

use super::State;
use crate::error::Error;

pub(super) const MIGRATION: &str = "
CREATE TABLE authority (
    name TEXT PRIMARY KEY NOT NULL,
    certificate TEXT NOT NULL,
    private_key TEXT NOT NULL
) STRICT;
";

const X509: &str = "x509";

/// The X.509 CA: both in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityKeys {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for AuthorityKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityKeys").finish_non_exhaustive()
    }
}

impl State {
    /// The X.509 CA, none before the coordinator's first start.
    pub fn authority(&self) -> Result<Option<AuthorityKeys>, Error> {
        self.transaction(|t| {
            let row = t.query_row("SELECT certificate, private_key FROM authority WHERE name = ?1", [X509], |row| {
                Ok(AuthorityKeys { certificate_pem: row.get(0)?, key_pem: row.get(1)? })
            });
            Ok(row.optional()?)
        })
    }

    /// Stores the X.509 CA. Fails when there is one: nodes have it pinned.
    pub fn set_authority(&self, keys: &AuthorityKeys) -> Result<(), Error> {
        self.transaction(|t| insert(t, X509, &keys.certificate_pem, &keys.key_pem))
    }

    /// The SSH CA's private key of a cluster, OpenSSH format.
    pub fn ssh_authority(&self, cluster: &ClusterId) -> Result<Option<String>, Error> {
        self.transaction(|t| {
            let name = ssh_name(cluster);
            let row = t.query_row("SELECT private_key FROM authority WHERE name = ?1", [name], |row| row.get(0));
            Ok(row.optional()?)
        })
    }
}

fn ssh_name(cluster: &ClusterId) -> String {
    format!("ssh:{cluster}")
}

pub(super) fn insert_ssh(t: &Transaction<'_>, cluster: &ClusterId, private_key: &str) -> Result<(), Error> {
    insert(t, &ssh_name(cluster), "", private_key)
}

pub(super) fn remove_ssh(t: &Transaction<'_>, cluster: &ClusterId) -> Result<(), Error> {
    t.execute("DELETE FROM authority WHERE name = ?1", [ssh_name(cluster)])?;
    Ok(())
}

fn insert(t: &Transaction<'_>, name: &str, certificate: &str, private_key: &str) -> Result<(), Error> {
    t.execute(
        "INSERT INTO authority (name, certificate, private_key) VALUES (?1, ?2, ?3)",
        [name, certificate, private_key],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_set_once_and_never_shown() {
        let state = State::in_memory().unwrap();
        let keys = AuthorityKeys { certificate_pem: "cert".into(), key_pem: "secret".into() };
        assert_eq!(state.authority().unwrap(), None);
        state.set_authority(&keys).unwrap();
        assert_eq!(state.authority().unwrap().as_ref(), Some(&keys));
        assert!(state.set_authority(&keys).is_err());
        assert!(!format!("{keys:?}").contains("secret"));
    }
}
