//! `cloud status`: read from files, so that it answers whatever the cloud is busy with.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use crate::faults::admin::{self, Ask};
use crate::fleet::{self, Instance};
use crate::info::CloudInfo;
use crate::layout::Layout;

/// `cloud.json` and the instances.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    info: CloudInfo,
    instances: Vec<Row>,
    /// Those that are not over.
    faults: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    state: &'static str,
    reason: Option<String>,
    address: Ipv4Addr,
    host_name: String,
    instance_type: String,
    launch_index: u32,
    launched_at: String,
    client_token: Option<String>,
    tags: std::collections::BTreeMap<String, String>,
}

impl From<Instance> for Row {
    fn from(instance: Instance) -> Self {
        Self {
            id: instance.id.to_string(),
            state: instance.state.name(),
            reason: instance.state.reason().map(|reason| reason.message.clone()),
            address: instance.address,
            host_name: instance.host_name(),
            instance_type: instance.spec().instance_type.clone(),
            launch_index: instance.index,
            launched_at: instance.reservation.launched_at.to_string(),
            client_token: instance.spec().client_token.clone(),
            tags: instance.tags,
        }
    }
}

pub(super) fn run(directory: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let info = CloudInfo::load(directory)?;
    let layout = Layout::open(directory)?;
    let mut instances: Vec<Instance> = fleet::load_instances(&layout)?.into_values().collect();
    instances.sort_by_key(|instance| (instance.reservation.launched_at, instance.index));
    let faults = admin::ask(&layout, &Ask::List)?.iter().filter(|fault| !fault.is_over(Timestamp::now())).count();
    let status = Status { info, instances: instances.into_iter().map(Row::from).collect(), faults };
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print_text(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_text(status: &Status) {
    let CloudInfo { pid, directory, ec2_endpoint, s3_endpoint, cidr, bridge, .. } = &status.info;
    println!("cloud is running in {}: pid {pid}", directory.display());
    println!("EC2 {ec2_endpoint}, S3 {s3_endpoint}, network {cidr} on {bridge}");
    if status.faults > 0 {
        println!("{} faults are in force: `ec2mpi cloud fault list`", status.faults);
    }
    println!("{} instances", status.instances.len());
    for row in &status.instances {
        let reason = row.reason.as_deref().unwrap_or_default();
        println!("{}  {:<13}  {:<15}  {:<13}  {reason}", row.id, row.state, row.address, row.instance_type);
    }
}
