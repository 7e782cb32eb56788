//! Nodes: which instance each is, what its join bound, and whether it was given up.

use std::net::Ipv4Addr;

use ec2mpi_proto::id::{ClusterId, InstanceId, LaunchId};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{State, from_json, parse, to_json};
use crate::error::Error;
use crate::provider::Instance;

pub(super) const MIGRATION: &str = "
CREATE TABLE nodes (
    cluster_id TEXT NOT NULL,
    node_index INTEGER NOT NULL,
    launch_id TEXT NOT NULL,
    launch_index INTEGER NOT NULL,
    instance_id TEXT UNIQUE,
    address TEXT,
    public_key BLOB,
    answer TEXT,
    issued_at REAL,
    joined_at REAL,
    ready_at REAL,
    given_up TEXT,
    gone INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (cluster_id, node_index)
) STRICT;
";

/// When and why machines ended.
pub(super) const ENDS: &str = "
ALTER TABLE nodes ADD COLUMN gone_at REAL;
ALTER TABLE nodes ADD COLUMN gone_why TEXT;
";

/// One node as it was written down.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRecord {
    pub index: u32,
    pub launch: LaunchId,
    /// None until the launch is answered, and for ever when the cloud had fewer machines.
    pub instance: Option<InstanceId>,
    pub address: Option<Ipv4Addr>,
    /// Seconds since the epoch.
    pub joined_at: Option<f64>,
    /// When it was first usable, seconds since the epoch: since then its volume may hold data.
    pub ready_at: Option<f64>,
    /// Why the coordinator no longer counts on it.
    pub given_up: Option<String>,
    /// The provider said that the instance has ended.
    pub gone: bool,
    /// When that was heard, seconds since the epoch.
    pub gone_at: Option<f64>,
    pub gone_why: Option<String>,
}

/// What a node's first join bound for good.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinRecord {
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    pub answer: Issued,
    /// When the client certificate in the answer was issued, seconds since the epoch.
    pub issued_at: f64,
}

/// The certificates that a join answered with. All public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The client certificate, PEM.
    pub certificate_pem: String,
    /// OpenSSH certificate lines.
    pub host_certificate: String,
    pub user_certificate: String,
}

/// What came of an attempt to bind a node to a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Binding {
    /// This was the first; its answer is stored.
    First,
    /// Bound to this key before.
    Same(JoinRecord),
    /// Bound to another key.
    Other,
}

impl State {
    /// The nodes of a cluster, by index.
    pub fn nodes(&self, cluster: &ClusterId) -> Result<Vec<NodeRecord>, Error> {
        self.transaction(|t| {
            let mut statement = t.prepare("SELECT * FROM nodes WHERE cluster_id = ?1 ORDER BY node_index")?;
            let rows = statement.query_map([cluster.as_str()], raw)?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().map(Raw::parse).collect()
        })
    }

    /// The node that an instance is, with its cluster.
    pub fn node_of(&self, instance: &InstanceId) -> Result<Option<(ClusterId, NodeRecord)>, Error> {
        self.transaction(|t| {
            let mut statement = t.prepare("SELECT * FROM nodes WHERE instance_id = ?1")?;
            let row = statement
                .query_map([instance.as_str()], |row| Ok((row.get::<_, String>("cluster_id")?, raw(row)?)))?
                .next()
                .transpose()?;
            row.map(|(cluster, raw)| Ok((parse("cluster id", &cluster)?, raw.parse()?))).transpose()
        })
    }

    /// The machine that has this address, by the records.
    pub fn instance_at(&self, address: Ipv4Addr) -> Result<Option<InstanceId>, Error> {
        self.transaction(|t| {
            let sql = "SELECT instance_id FROM nodes WHERE address = ?1 AND gone = 0 AND instance_id IS NOT NULL";
            let found: Option<String> = t.query_row(sql, [address.to_string()], |row| row.get(0)).optional()?;
            found.map(|text| parse("instance id", &text)).transpose()
        })
    }

    /// What the first join of a node bound, none before it.
    pub fn join_of(&self, instance: &InstanceId) -> Result<Option<JoinRecord>, Error> {
        self.transaction(|t| join_of(t, instance))
    }

    /// Binds an instance to the key of its first join and stores the answer, both before this returns.
    pub fn bind(&self, instance: &InstanceId, join: &JoinRecord) -> Result<Binding, Error> {
        self.transaction(|t| match join_of(t, instance)? {
            Some(bound) if bound.public_key == join.public_key => Ok(Binding::Same(bound)),
            Some(_) => Ok(Binding::Other),
            None => store_join(t, instance, join).map(|()| Binding::First),
        })
    }

    /// Replaces the stored answer by one with a fresh client certificate for the same key.
    pub fn renew_answer(&self, instance: &InstanceId, answer: &Issued, now: f64) -> Result<(), Error> {
        self.transaction(|t| {
            t.execute(
                "UPDATE nodes SET answer = ?2, issued_at = ?3 WHERE instance_id = ?1",
                params![instance.as_str(), to_json(answer)?, now],
            )?;
            Ok(())
        })
    }

    /// Writes down that a node was usable; the first time counts.
    pub fn set_node_ready(&self, cluster: &ClusterId, index: u32, now: f64) -> Result<(), Error> {
        self.update_node(
            cluster,
            index,
            "UPDATE nodes SET ready_at = coalesce(ready_at, ?3) WHERE cluster_id = ?1 AND node_index = ?2",
            now,
        )
    }

    /// Writes down that a node is no longer counted on; the first reason stays.
    pub fn give_up_node(&self, cluster: &ClusterId, index: u32, why: &str) -> Result<(), Error> {
        self.update_node(
            cluster,
            index,
            "UPDATE nodes SET given_up = coalesce(given_up, ?3) WHERE cluster_id = ?1 AND node_index = ?2",
            why,
        )
    }

    /// Writes down that a node's instance has ended; the first reason stays.
    pub fn set_node_gone(&self, cluster: &ClusterId, index: u32, why: &str, now: f64) -> Result<(), Error> {
        self.transaction(|t| {
            t.execute(
                "UPDATE nodes SET gone = 1, gone_at = coalesce(gone_at, ?4), gone_why = coalesce(gone_why, ?3)
                 WHERE cluster_id = ?1 AND node_index = ?2",
                params![cluster.as_str(), index, why, now],
            )?;
            Ok(())
        })
    }

    fn update_node(
        &self,
        cluster: &ClusterId,
        index: u32,
        sql: &str,
        value: impl rusqlite::ToSql,
    ) -> Result<(), Error> {
        self.transaction(|t| {
            t.execute(sql, params![cluster.as_str(), index, value])?;
            Ok(())
        })
    }
}

fn join_of(t: &Transaction<'_>, instance: &InstanceId) -> Result<Option<JoinRecord>, Error> {
    let sql = "SELECT public_key, answer, issued_at FROM nodes WHERE instance_id = ?1 AND public_key IS NOT NULL";
    let row = t.query_row(sql, [instance.as_str()], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?)));
    let Some((public_key, answer, issued_at)) = row.optional()? else { return Ok(None) };
    Ok(Some(JoinRecord { public_key, answer: from_json("join answer", &answer)?, issued_at }))
}

fn store_join(t: &Transaction<'_>, instance: &InstanceId, join: &JoinRecord) -> Result<(), Error> {
    let changed = t.execute(
        "UPDATE nodes SET public_key = ?2, answer = ?3, issued_at = ?4, joined_at = ?4 WHERE instance_id = ?1",
        params![instance.as_str(), join.public_key, to_json(&join.answer)?, join.issued_at],
    )?;
    if changed == 0 {
        return Err(Error::NotFound(format!("no node is instance {instance}")));
    }
    Ok(())
}

pub(super) fn insert(t: &Transaction<'_>, cluster: &ClusterId, launch: &LaunchId, count: u32) -> Result<(), Error> {
    let mut statement =
        t.prepare("INSERT INTO nodes (cluster_id, node_index, launch_id, launch_index) VALUES (?1, ?2, ?3, ?2)")?;
    for index in 0..count {
        statement.execute(params![cluster.as_str(), index, launch.as_str()])?;
    }
    Ok(())
}

/// A node keeps the instance it has; an address is learnt when the provider first tells it.
pub(super) fn assign(t: &Transaction<'_>, launch: &LaunchId, instance: &Instance) -> Result<(), Error> {
    t.execute(
        "UPDATE nodes SET instance_id = ?3, address = coalesce(address, ?4)
         WHERE launch_id = ?1 AND launch_index = ?2 AND (instance_id IS NULL OR instance_id = ?3)",
        params![
            launch.as_str(),
            instance.launch_index,
            instance.id.as_str(),
            instance.address.map(|address| address.to_string())
        ],
    )?;
    Ok(())
}

pub(super) fn remove(t: &Transaction<'_>, cluster: &ClusterId) -> Result<(), Error> {
    t.execute("DELETE FROM nodes WHERE cluster_id = ?1", [cluster.as_str()])?;
    Ok(())
}

struct Raw {
    index: u32,
    launch: String,
    instance: Option<String>,
    address: Option<String>,
    joined_at: Option<f64>,
    ready_at: Option<f64>,
    given_up: Option<String>,
    gone: bool,
    gone_at: Option<f64>,
    gone_why: Option<String>,
}

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok(Raw {
        index: row.get("node_index")?,
        launch: row.get("launch_id")?,
        instance: row.get("instance_id")?,
        address: row.get("address")?,
        joined_at: row.get("joined_at")?,
        ready_at: row.get("ready_at")?,
        given_up: row.get("given_up")?,
        gone: row.get("gone")?,
        gone_at: row.get("gone_at")?,
        gone_why: row.get("gone_why")?,
    })
}

impl Raw {
    fn parse(self) -> Result<NodeRecord, Error> {
        Ok(NodeRecord {
            index: self.index,
            launch: parse("launch id", &self.launch)?,
            instance: self.instance.map(|text| parse("instance id", &text)).transpose()?,
            address: self.address.map(|text| parse("address", &text)).transpose()?,
            joined_at: self.joined_at,
            ready_at: self.ready_at,
            given_up: self.given_up,
            gone: self.gone,
            gone_at: self.gone_at,
            gone_why: self.gone_why,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::NewCluster;
    use super::*;
    use crate::cluster::ClusterSpec;
    use crate::provider::{InstanceState, LaunchRequest};

    /// A cluster of so many nodes, its launch not yet answered.
    pub(crate) fn sample_cluster(state: &State, name: &str, nodes: u32) -> ClusterId {
        let id = ClusterId::random();
        let spec = ClusterSpec {
            name: name.parse().unwrap(),
            nodes,
            min_nodes: nodes,
            timeout: Duration::from_secs(600),
            instance_type: "local.machine".into(),
            slots_per_node: 2,
            ttl: None,
        };
        let launch = LaunchRequest {
            launch: LaunchId::random(),
            min: nodes,
            max: nodes,
            image: "ami-1".into(),
            instance_type: spec.instance_type.clone(),
            subnet: None,
            security_groups: vec![],
            instance_profile: None,
            user_data: "#!/bin/sh\n".into(),
            tags: BTreeMap::from([(crate::provider::tag::CLUSTER_ID.to_owned(), id.to_string())]),
        };
        let new = NewCluster { id: &id, spec: &spec, created_at: 100.0, ssh_authority: "key", launch: &launch };
        state.insert_cluster(&new).unwrap();
        id
    }

    fn instance(index: u32) -> Instance {
        Instance {
            id: format!("i-{index:017x}").parse().unwrap(),
            launch: None,
            launch_index: index,
            state: InstanceState::Pending,
            address: Some(Ipv4Addr::new(10, 0, 0, 1 + u8::try_from(index).unwrap())),
            reason: String::new(),
        }
    }

    #[test]
    fn an_answer_is_stored_once_however_often_it_comes() {
        let state = State::in_memory().unwrap();
        let cluster = sample_cluster(&state, "demo", 2);
        let launch = state.launches(&cluster).unwrap().remove(0);
        for now in [101.0, 102.0] {
            state.answer_launch(&launch.id, &[instance(0), instance(1)], now).unwrap();
        }
        let nodes = state.nodes(&cluster).unwrap();
        assert_eq!(nodes[1].instance, Some(instance(1).id));
        assert_eq!(nodes[1].address, instance(1).address);
        assert_eq!(state.launch(&launch.id).unwrap().unwrap().answered_at, Some(101.0));
        assert_eq!(state.launch(&launch.id).unwrap().unwrap().request, launch.request);
    }

    #[test]
    fn the_first_join_binds_the_key() {
        let state = State::in_memory().unwrap();
        let cluster = sample_cluster(&state, "demo", 1);
        let launch = state.launches(&cluster).unwrap().remove(0);
        let id = instance(0).id;
        let issued = |answer: &str| Issued {
            certificate_pem: answer.into(),
            host_certificate: String::new(),
            user_certificate: String::new(),
        };
        let join = |key: u8, answer: &str| JoinRecord { public_key: vec![key], answer: issued(answer), issued_at: 5.0 };
        assert!(state.bind(&id, &join(1, "first")).is_err(), "no node is this instance yet");
        state.answer_launch(&launch.id, &[instance(0)], 101.0).unwrap();
        assert_eq!(state.bind(&id, &join(1, "first")).unwrap(), Binding::First);
        assert_eq!(state.bind(&id, &join(1, "second")).unwrap(), Binding::Same(join(1, "first")));
        assert_eq!(state.bind(&id, &join(2, "second")).unwrap(), Binding::Other);
        assert_eq!(state.node_of(&id).unwrap().unwrap().1.joined_at, Some(5.0));
        assert_eq!(state.instance_at(Ipv4Addr::new(10, 0, 0, 1)).unwrap(), Some(id));
        assert_eq!(state.instance_at(Ipv4Addr::new(10, 0, 0, 2)).unwrap(), None);
    }

    #[test]
    fn the_first_reason_to_give_a_node_up_stays() {
        let state = State::in_memory().unwrap();
        let cluster = sample_cluster(&state, "demo", 1);
        state.give_up_node(&cluster, 0, "first").unwrap();
        state.give_up_node(&cluster, 0, "second").unwrap();
        state.set_node_gone(&cluster, 0, "ended", 8.0).unwrap();
        state.set_node_gone(&cluster, 0, "ended again", 9.0).unwrap();
        state.set_node_ready(&cluster, 0, 7.0).unwrap();
        let node = state.nodes(&cluster).unwrap().remove(0);
        assert_eq!((node.given_up.as_deref(), node.gone, node.ready_at), (Some("first"), true, Some(7.0)));
        assert_eq!((node.gone_why.as_deref(), node.gone_at), (Some("ended"), Some(8.0)));
    }
}
