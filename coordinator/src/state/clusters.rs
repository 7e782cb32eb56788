//! Records of clusters: what was asked for, and how far it got.

use std::collections::BTreeMap;
use std::time::Duration;

use ec2mpi_proto::id::{ClusterId, LaunchId};
use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{State, authority, from_json, launches, nodes, parse, to_json};
use crate::cluster::ClusterSpec;
use crate::error::Error;
use crate::provider::LaunchRequest;

pub(super) const MIGRATION: &str = "
CREATE TABLE clusters (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT UNIQUE NOT NULL,
    spec TEXT NOT NULL,
    goal TEXT NOT NULL,
    milestone TEXT NOT NULL,
    note TEXT NOT NULL,
    created_at REAL NOT NULL
) STRICT;
";

/// What the user wants of a cluster now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    Run,
    Destroy {
        /// Even if what is not in S3 is lost.
        discard: bool,
        drain_timeout: Duration,
    },
}

/// How far a cluster got. Passed once: a cluster that has been ready stays so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Milestone {
    Creating,
    Ready {
        /// Seconds by phase: launch, boot, join, mount, total.
        timings: BTreeMap<String, f64>,
    },
    Failed {
        why: String,
    },
}

/// A cluster as it was written down.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterRecord {
    pub id: ClusterId,
    pub spec: ClusterSpec,
    pub goal: Goal,
    pub milestone: Milestone,
    /// What the user should know, such as why a destroy was refused; may be empty.
    pub note: String,
    /// Seconds since the epoch.
    pub created_at: f64,
}

/// Everything that is written down before the first call that costs money.
#[derive(Debug)]
pub struct NewCluster<'a> {
    pub id: &'a ClusterId,
    pub spec: &'a ClusterSpec,
    /// Seconds since the epoch.
    pub created_at: f64,
    /// OpenSSH private key.
    pub ssh_authority: &'a str,
    pub launch: &'a LaunchRequest,
}

impl State {
    /// Writes a cluster, its SSH CA, its nodes and their launch down, all or nothing. Fails with `Exists` on a name in use.
    pub fn insert_cluster(&self, new: &NewCluster<'_>) -> Result<(), Error> {
        self.transaction(|t| {
            refuse_taken_name(t, new)?;
            t.execute(
                "INSERT INTO clusters (id, name, spec, goal, milestone, note, created_at) VALUES (?1, ?2, ?3, ?4, ?5, '', ?6)",
                params![
                    new.id.as_str(),
                    new.spec.name.as_str(),
                    to_json(new.spec)?,
                    to_json(&Goal::Run)?,
                    to_json(&Milestone::Creating)?,
                    new.created_at
                ],
            )?;
            authority::insert_ssh(t, new.id, new.ssh_authority)?;
            let launch: &LaunchId = &new.launch.launch;
            launches::insert(t, new.id, new.launch, new.created_at)?;
            nodes::insert(t, new.id, launch, new.spec.nodes)
        })
    }

    /// All clusters, by name.
    pub fn clusters(&self) -> Result<Vec<ClusterRecord>, Error> {
        self.transaction(|t| {
            let mut statement = t.prepare("SELECT * FROM clusters ORDER BY name")?;
            let rows = statement.query_map([], raw)?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().map(Raw::parse).collect()
        })
    }

    /// One cluster, none when its record is gone.
    pub fn cluster(&self, id: &ClusterId) -> Result<Option<ClusterRecord>, Error> {
        self.transaction(|t| {
            let mut statement = t.prepare("SELECT * FROM clusters WHERE id = ?1")?;
            let row = statement.query_map([id.as_str()], raw)?.next().transpose()?;
            row.map(Raw::parse).transpose()
        })
    }

    /// Writes down what the user wants now, and forgets the last note.
    pub fn set_goal(&self, id: &ClusterId, goal: &Goal) -> Result<(), Error> {
        let goal = to_json(goal)?;
        self.update(id, "UPDATE clusters SET goal = ?2, note = '' WHERE id = ?1", &goal)
    }

    /// Gives up a destroy, unless the user has asked for something else meanwhile: the cluster runs on, the note says
    /// why.
    pub fn refuse_destroy(&self, id: &ClusterId, refused: &Goal, note: &str) -> Result<(), Error> {
        let (run, refused) = (to_json(&Goal::Run)?, to_json(refused)?);
        self.transaction(|t| {
            let sql = "UPDATE clusters SET goal = ?3, note = ?4 WHERE id = ?1 AND goal = ?2";
            t.execute(sql, [id.as_str(), &refused, &run, note])?;
            Ok(())
        })
    }

    /// Writes down how far a cluster got.
    pub fn set_milestone(&self, id: &ClusterId, milestone: &Milestone) -> Result<(), Error> {
        self.update(id, "UPDATE clusters SET milestone = ?2 WHERE id = ?1", &to_json(milestone)?)
    }

    fn update(&self, id: &ClusterId, sql: &str, value: &str) -> Result<(), Error> {
        self.transaction(|t| {
            t.execute(sql, [id.as_str(), value])?;
            Ok(())
        })
    }

    /// Removes a cluster with its nodes, launches and SSH CA. Only after the proof that nothing of it is left.
    pub fn remove_cluster(&self, id: &ClusterId) -> Result<(), Error> {
        self.transaction(|t| {
            authority::remove_ssh(t, id)?;
            nodes::remove(t, id)?;
            launches::remove(t, id)?;
            t.execute("DELETE FROM clusters WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
    }
}

fn refuse_taken_name(t: &Transaction<'_>, new: &NewCluster<'_>) -> Result<(), Error> {
    let name = &new.spec.name;
    let taken: bool =
        t.query_row("SELECT EXISTS (SELECT 1 FROM clusters WHERE name = ?1)", [name.as_str()], |row| row.get(0))?;
    if taken {
        return Err(Error::Exists(format!(
            "a cluster {name} exists already; choose another name or destroy it with `ec2mpi destroy {name}`"
        )));
    }
    Ok(())
}

struct Raw {
    id: String,
    spec: String,
    goal: String,
    milestone: String,
    note: String,
    created_at: f64,
}

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok(Raw {
        id: row.get("id")?,
        spec: row.get("spec")?,
        goal: row.get("goal")?,
        milestone: row.get("milestone")?,
        note: row.get("note")?,
        created_at: row.get("created_at")?,
    })
}

impl Raw {
    fn parse(self) -> Result<ClusterRecord, Error> {
        Ok(ClusterRecord {
            id: parse("cluster id", &self.id)?,
            spec: from_json("cluster spec", &self.spec)?,
            goal: from_json("cluster goal", &self.goal)?,
            milestone: from_json("cluster milestone", &self.milestone)?,
            note: self.note,
            created_at: self.created_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::nodes::tests::sample_cluster;
    use super::*;

    #[test]
    fn a_name_is_taken_until_its_cluster_is_removed() {
        let state = State::in_memory().unwrap();
        let id = sample_cluster(&state, "demo", 2);
        let again = ClusterId::random();
        let record = state.cluster(&id).unwrap().unwrap();
        let launch = &state.launches(&id).unwrap()[0].request;
        let mut request = launch.clone();
        request.launch = LaunchId::random();
        let new = NewCluster { id: &again, spec: &record.spec, created_at: 1.0, ssh_authority: "k", launch: &request };
        assert!(matches!(state.insert_cluster(&new), Err(Error::Exists(_))));
        state.remove_cluster(&id).unwrap();
        assert_eq!(state.ssh_authority(&id).unwrap(), None);
        state.insert_cluster(&new).unwrap();
        assert_eq!(state.clusters().unwrap().len(), 1);
    }

    #[test]
    fn goals_milestones_and_notes_come_back_as_written() {
        let state = State::in_memory().unwrap();
        let id = sample_cluster(&state, "demo", 2);
        let goal = Goal::Destroy { discard: true, drain_timeout: Duration::from_secs(7) };
        let milestone = Milestone::Ready { timings: BTreeMap::from([("total".to_owned(), 6.5)]) };
        state.set_goal(&id, &goal).unwrap();
        state.set_milestone(&id, &milestone).unwrap();
        let record = state.cluster(&id).unwrap().unwrap();
        assert_eq!((&record.goal, record.milestone), (&goal, milestone));
        let weaker = Goal::Destroy { discard: false, drain_timeout: Duration::from_secs(7) };
        state.refuse_destroy(&id, &weaker, "dirty").unwrap();
        assert_eq!(state.cluster(&id).unwrap().unwrap().goal, goal, "a refusal undid a newer wish");
        state.refuse_destroy(&id, &goal, "dirty").unwrap();
        let record = state.cluster(&id).unwrap().unwrap();
        assert_eq!((record.goal, record.note.as_str()), (Goal::Run, "dirty"));
    }
}
