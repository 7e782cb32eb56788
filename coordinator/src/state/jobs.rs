//! Records of jobs.

use ec2mpi_proto::id::{ClusterName, JobId};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{State, from_json, parse, to_json};
use crate::error::Error;
use crate::job::JobRecord;

/// Makes the table. `record` is the whole record as JSON; the columns beside it are what is searched for.
pub const MIGRATION: &str = "
CREATE TABLE jobs (
    id TEXT PRIMARY KEY NOT NULL,
    cluster_name TEXT NOT NULL,
    started_at REAL NOT NULL,
    over INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_cluster ON jobs (cluster_name, started_at);
";

impl State {
    /// Writes a job down, or replaces what was written of it.
    pub fn put_job(&self, record: &JobRecord) -> Result<(), Error> {
        let text = to_json(record)?;
        self.transaction(|db| {
            db.execute(
                "INSERT INTO jobs (id, cluster_name, started_at, over, record)
                 VALUES (:id, :cluster, :started, :over, :record)
                 ON CONFLICT (id) DO UPDATE SET over = :over, record = :record",
                named_params! {
                    ":id": record.id.as_str(),
                    ":cluster": record.cluster_name.as_str(),
                    ":started": record.started_at,
                    ":over": record.state.is_final(),
                    ":record": text,
                },
            )?;
            Ok(())
        })
    }

    /// One job, whichever cluster it belongs to.
    pub fn job(&self, id: &JobId) -> Result<Option<JobRecord>, Error> {
        let text: Option<String> = self.transaction(|db| {
            Ok(db.query_row("SELECT record FROM jobs WHERE id = ?1", [id.as_str()], |row| row.get(0)).optional()?)
        })?;
        text.map(|text| from_json("job", &text)).transpose()
    }

    /// The jobs of the clusters that had this name, the oldest first.
    pub fn jobs_of(&self, cluster: &ClusterName) -> Result<Vec<JobRecord>, Error> {
        const QUERY: &str = "SELECT record FROM jobs WHERE cluster_name = ?1 ORDER BY started_at, rowid";
        self.records(QUERY, [cluster.as_str()])
    }

    /// The jobs that are not over, the oldest first.
    pub fn unfinished_jobs(&self) -> Result<Vec<JobRecord>, Error> {
        self.records("SELECT record FROM jobs WHERE over = 0 ORDER BY started_at, rowid", [])
    }

    /// Jobs that are over and beyond the newest `per_cluster` of their cluster name, or the newest `in_all`.
    pub fn surplus_jobs(&self, per_cluster: u32, in_all: u32) -> Result<Vec<JobId>, Error> {
        const QUERY: &str = "
            SELECT id FROM (
                SELECT id, over,
                       row_number() OVER (PARTITION BY cluster_name ORDER BY started_at DESC, rowid DESC) AS place,
                       row_number() OVER (ORDER BY started_at DESC, rowid DESC) AS place_in_all
                FROM jobs)
            WHERE over = 1 AND (place > ?1 OR place_in_all > ?2)";
        let texts = self.transaction(|db| texts(db, QUERY, [per_cluster, in_all]))?;
        texts.iter().map(|text| parse("job id", text)).collect()
    }

    /// Forgets a job.
    pub fn delete_job(&self, id: &JobId) -> Result<(), Error> {
        self.transaction(|db| {
            db.execute("DELETE FROM jobs WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
    }

    fn records(&self, query: &str, parameters: impl rusqlite::Params) -> Result<Vec<JobRecord>, Error> {
        let texts = self.transaction(|db| texts(db, query, parameters))?;
        texts.iter().map(|text| from_json("job", text)).collect()
    }
}

fn texts(db: &Connection, query: &str, parameters: impl rusqlite::Params) -> Result<Vec<String>, Error> {
    let mut statement = db.prepare(query)?;
    let rows = statement.query_map(parameters, |row: &Row<'_>| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::fixtures::record;
    use crate::job::{Ending, JobState};

    #[test]
    fn a_job_is_found_by_id_by_cluster_and_while_unfinished() {
        let state = State::in_memory().unwrap();
        let mut job = record("demo", 1.0);
        state.put_job(&job).unwrap();
        assert_eq!(state.unfinished_jobs().unwrap(), [job.clone()]);
        job.state = JobState::Ended { ending: Ending::Exited { code: 7 }, not_in_s3: None };
        state.put_job(&job).unwrap();
        assert_eq!(state.job(&job.id).unwrap(), Some(job.clone()));
        assert_eq!(state.jobs_of(&job.cluster_name).unwrap(), [job.clone()]);
        assert_eq!(state.unfinished_jobs().unwrap(), []);
        state.delete_job(&job.id).unwrap();
        assert_eq!(state.job(&job.id).unwrap(), None);
    }

    #[test]
    fn surplus_is_the_oldest_that_is_over_by_cluster_and_in_all() {
        let state = State::in_memory().unwrap();
        let mut ids = Vec::new();
        for (cluster, at, over) in [("a", 1.0, false), ("a", 2.0, true), ("a", 3.0, true), ("b", 0.5, true)] {
            let mut job = record(cluster, at);
            if over {
                job.state = JobState::Ended { ending: Ending::Cancelled, not_in_s3: None };
            }
            state.put_job(&job).unwrap();
            ids.push(job.id);
        }
        assert_eq!(state.surplus_jobs(2, 100).unwrap(), []);
        assert_eq!(state.surplus_jobs(1, 100).unwrap(), [ids[1].clone()]);
        assert_eq!(state.surplus_jobs(100, 3).unwrap(), [ids[3].clone()]);
    }
}
