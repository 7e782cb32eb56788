//! Single values by name, such as the ports that agents were told.

use rusqlite::OptionalExtension;

use super::State;
use crate::error::Error;

pub(super) const MIGRATION: &str = "
CREATE TABLE settings (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT;
";

impl State {
    /// A value, none when it was never set.
    pub fn setting(&self, name: &str) -> Result<Option<String>, Error> {
        self.transaction(|t| {
            Ok(t.query_row("SELECT value FROM settings WHERE name = ?1", [name], |row| row.get(0)).optional()?)
        })
    }

    /// Sets or replaces a value.
    pub fn set_setting(&self, name: &str, value: &str) -> Result<(), Error> {
        self.transaction(|t| {
            t.execute("INSERT OR REPLACE INTO settings (name, value) VALUES (?1, ?2)", [name, value])?;
            Ok(())
        })
    }
}
