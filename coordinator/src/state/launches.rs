//! Launches: written down with their verbatim request before they are sent, so that the same call can be repeated.

use ec2mpi_proto::id::{ClusterId, LaunchId};
use rusqlite::{Row, Transaction, params};

use super::{State, from_json, nodes, parse, to_json};
use crate::error::Error;
use crate::provider::{Instance, LaunchRequest};

pub(super) const MIGRATION: &str = "
CREATE TABLE launches (
    id TEXT PRIMARY KEY NOT NULL,
    cluster_id TEXT NOT NULL,
    request TEXT NOT NULL,
    created_at REAL NOT NULL,
    answered_at REAL
) STRICT;
CREATE INDEX launches_by_cluster ON launches (cluster_id);
";

/// One launch attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchRecord {
    pub id: LaunchId,
    pub cluster: ClusterId,
    /// As it was and will be sent.
    pub request: LaunchRequest,
    /// Seconds since the epoch.
    pub created_at: f64,
    /// When the answer was stored, seconds since the epoch; none: it is not known whether machines exist.
    pub answered_at: Option<f64>,
}

impl State {
    /// The launches of a cluster, oldest first.
    pub fn launches(&self, cluster: &ClusterId) -> Result<Vec<LaunchRecord>, Error> {
        self.transaction(|t| {
            let mut statement = t.prepare("SELECT * FROM launches WHERE cluster_id = ?1 ORDER BY created_at, id")?;
            let rows = statement.query_map([cluster.as_str()], raw)?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().map(Raw::parse).collect()
        })
    }

    /// One launch, none when this coordinator never wrote it down or its cluster is gone.
    pub fn launch(&self, id: &LaunchId) -> Result<Option<LaunchRecord>, Error> {
        self.transaction(|t| {
            let mut statement = t.prepare("SELECT * FROM launches WHERE id = ?1")?;
            let row = statement.query_map([id.as_str()], raw)?.next().transpose()?;
            row.map(Raw::parse).transpose()
        })
    }

    /// Stores the answer: which instance each node of the launch is, by launch index. Repeatable.
    pub fn answer_launch(&self, id: &LaunchId, instances: &[Instance], now: f64) -> Result<(), Error> {
        self.transaction(|t| {
            t.execute(
                "UPDATE launches SET answered_at = coalesce(answered_at, ?2) WHERE id = ?1",
                params![id.as_str(), now],
            )?;
            for instance in instances {
                nodes::assign(t, id, instance)?;
            }
            Ok(())
        })
    }
}

pub(super) fn insert(
    t: &Transaction<'_>,
    cluster: &ClusterId,
    request: &LaunchRequest,
    created_at: f64,
) -> Result<(), Error> {
    t.execute(
        "INSERT INTO launches (id, cluster_id, request, created_at) VALUES (?1, ?2, ?3, ?4)",
        params![request.launch.as_str(), cluster.as_str(), to_json(request)?, created_at],
    )?;
    Ok(())
}

pub(super) fn remove(t: &Transaction<'_>, cluster: &ClusterId) -> Result<(), Error> {
    t.execute("DELETE FROM launches WHERE cluster_id = ?1", [cluster.as_str()])?;
    Ok(())
}

struct Raw {
    id: String,
    cluster: String,
    request: String,
    created_at: f64,
    answered_at: Option<f64>,
}

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok(Raw {
        id: row.get("id")?,
        cluster: row.get("cluster_id")?,
        request: row.get("request")?,
        created_at: row.get("created_at")?,
        answered_at: row.get("answered_at")?,
    })
}

impl Raw {
    fn parse(self) -> Result<LaunchRecord, Error> {
        Ok(LaunchRecord {
            id: parse("launch id", &self.id)?,
            cluster: parse("cluster id", &self.cluster)?,
            request: from_json("launch request", &self.request)?,
            created_at: self.created_at,
            answered_at: self.answered_at,
        })
    }
}
