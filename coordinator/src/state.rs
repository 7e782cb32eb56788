//! What must survive the coordinator: intents, launches with their requests, keys of the authorities, joins, jobs.
//! Everything else is observed.
//!
//! One SQLite file, mode 0600, WAL with `synchronous=FULL`: when a method that writes has returned, the record
//! survives a crash of the machine. A write takes a few milliseconds and blocks its thread for so long.

mod authority;
mod clusters;
pub mod jobs;
mod launches;
mod nodes;
mod settings;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;

pub use authority::AuthorityKeys;
pub use clusters::{ClusterRecord, Goal, Milestone, NewCluster};
pub use launches::LaunchRecord;
#[cfg(test)]
pub(crate) use nodes::tests::sample_cluster;
pub use nodes::{Binding, Issued, JoinRecord, NodeRecord};

use crate::error::Error;

/// One step a version of the schema; never changed once released, only added to.
const MIGRATIONS: &[&str] = &[
    settings::MIGRATION,
    authority::MIGRATION,
    clusters::MIGRATION,
    launches::MIGRATION,
    nodes::MIGRATION,
    jobs::MIGRATION,
    nodes::ENDS,
];

/// How long a statement waits for another process's lock (there is none but a user's sqlite3).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The records. Cheap to clone; clones share.
#[derive(Debug, Clone)]
pub struct State {
    connection: Arc<Mutex<Connection>>,
}

impl State {
    /// Opens the file, made if missing, and brings its schema up to date. Fails on a file of a newer version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // Made before SQLite sees it, so that it never exists with another mode; SQLite gives its side files the same.
        let made = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        made.map_err(|error| Error::Internal(format!("cannot open the records {}: {error}", path.display())))?;
        Self::prepare(Connection::open(path)?)
    }

    /// Records that live as long as the process, for tests.
    pub fn in_memory() -> Result<Self, Error> {
        Self::prepare(Connection::open_in_memory()?)
    }

    fn prepare(mut connection: Connection) -> Result<Self, Error> {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrate(&mut connection)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Runs statements in one transaction, committed when `work` succeeds.
    pub(crate) fn transaction<T>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let version: usize = connection.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))? as usize;
    if version > MIGRATIONS.len() {
        return Err(Error::NotNow(format!(
            "the records are of version {version}, this build knows {}; use the newer build",
            MIGRATIONS.len()
        )));
    }
    for (step, number) in MIGRATIONS.iter().zip(1_u32..).skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Internal(format!("the coordinator's records: {error}"))
    }
}

/// A column that does not hold what this build wrote there.
fn damaged(what: &'static str, error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the coordinator's records are damaged: {what}: {error}"))
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| damaged("cannot write JSON", error))
}

fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| damaged(what, error))
}

fn parse<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, Error>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| damaged(what, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_for_its_owner_only_and_opens_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.sqlite");
        State::open(&path).unwrap().set_setting("port", "1").unwrap();
        let state = State::open(&path).unwrap();
        assert_eq!(state.setting("port").unwrap().as_deref(), Some("1"));
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn a_file_of_a_newer_build_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.sqlite");
        drop(State::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(State::open(&path).unwrap_err().to_string().contains("newer build"));
    }

    #[test]
    fn a_failed_transaction_leaves_nothing() {
        let state = State::in_memory().unwrap();
        let failed: Result<(), Error> = state.transaction(|transaction| {
            transaction.execute("INSERT INTO settings (name, value) VALUES ('a', 'b')", [])?;
            Err(Error::Internal("no".into()))
        });
        assert!(failed.is_err());
        assert_eq!(state.setting("a").unwrap(), None);
    }
}
