//! The cloud seen by boto3, which shares no code with the programs under test.

use std::fs;

use serde::Deserialize;
use serde_json::Value;

use crate::outcome::Running;
use crate::place;
use crate::site::Site;
use crate::wait::seconds;

/// An instance as DescribeInstances tells it.
#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    pub id: String,
    pub state: String,
    pub client_token: String,
    pub tags: std::collections::BTreeMap<String, String>,
}

impl Instance {
    /// Whether it costs money.
    pub fn is_paid_for(&self) -> bool {
        !matches!(self.state.as_str(), "terminated" | "shutting-down")
    }
}

/// All instances the cloud knows, terminated ones included.
#[track_caller]
pub fn instances(site: &Site) -> Vec<Instance> {
    serde_json::from_value(ask(site, &["instances"])).expect("stranger.py answers with instances")
}

/// The instances of a cluster, by its id in their tags.
#[track_caller]
pub fn instances_of(site: &Site, cluster_id: &str) -> Vec<Instance> {
    let is_its = |one: &Instance| one.tags.get("ec2mpi:cluster-id").is_some_and(|id| id == cluster_id);
    instances(site).into_iter().filter(is_its).collect()
}

/// Ends an instance, as somebody who knows nothing of clusters would.
#[track_caller]
pub fn terminate(site: &Site, instance: &str) {
    ask(site, &["terminate", instance]);
}

/// Reboots an instance.
#[track_caller]
pub fn reboot(site: &Site, instance: &str) {
    ask(site, &["reboot", instance]);
}

/// Keys and sizes of the objects below a prefix of the cloud's bucket.
#[track_caller]
pub fn objects(site: &Site, prefix: &str) -> Vec<(String, u64)> {
    let answer = ask(site, &["objects", prefix]);
    let entries = answer.as_array().expect("stranger.py answers with objects");
    let pair = |one: &Value| Some((one["key"].as_str()?.to_owned(), one["size"].as_u64()?));
    entries.iter().map(|one| pair(one).expect("an object has key and size")).collect()
}

/// The bytes of one object.
#[track_caller]
pub fn object(site: &Site, key: &str) -> Vec<u8> {
    let file = site.path("output/object");
    ask(site, &["get", key, file.to_str().expect("a site's path is text")]);
    fs::read(file).expect("boto3 has written the file")
}

/// Every value in an SQLite database, one after the other.
#[track_caller]
pub fn dump(site: &Site, database: &std::path::Path) -> String {
    let script = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        for (table,) in db.execute('select name from sqlite_master where type = \"table\"').fetchall():\n\
        \x20 for row in db.execute(f'select * from {table}'):\n\
        \x20   for value in row:\n\
        \x20     print(value.decode('latin-1') if isinstance(value, bytes) else value)\n";
    let mut command = site.command_of(&place::python(), &[]);
    command.args(["-c", script]).arg(database);
    Running::start(command, &site.path("output")).wait(seconds(60)).ok()
}

/// The prefix of a cluster's volume in the cloud's bucket, from what `status --json` says: `s3://BUCKET/PREFIX`.
#[track_caller]
pub fn prefix(status: &Value) -> String {
    let url = status["volume"].as_str().expect("a cluster has a volume");
    let path = url.strip_prefix("s3://").expect("a volume is an s3:// URL");
    let prefix = path.split_once('/').expect("a cluster's volume has a prefix").1;
    format!("{}/", prefix.trim_end_matches('/'))
}

#[track_caller]
fn ask(site: &Site, words: &[&str]) -> Value {
    let script = place::program("stranger.py");
    let cloud = site.path("cloud/cloud.json");
    let mut command = site.command_of(&place::python(), &[]);
    command.arg(script).arg(cloud).args(words);
    Running::start(command, &site.path("output")).wait(seconds(60)).json()
}
