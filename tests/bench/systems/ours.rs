//! `ec2mpi-agent mount`, with its defaults.

use std::process::Command;

use super::mounted::Program;
use super::{Layout, Place, Promise, Tools};
use crate::daemon::run;
use crate::works::Name;

/// What keeps file data out of the kernel's passthrough.
const PLAIN: &str = "--no-passthrough";
/// What makes close wait until data and journal are on the disk.
const DISK: &str = "--close=disk";

const PROMISE: Promise =
    Promise { attr_ttl: "1 s", excl: "node", close: "on the local disk", fsync: "in S3", fsync_in_s3: true };

/// What it promises: a close that does not wait for the disk is one of three where there are three.
pub(super) fn promise(name: Name, tools: &Tools) -> Promise {
    if name != Name::OursDisk && has_close_disk(tools) {
        return Promise { close: "journaled, on the local disk within a second", ..PROMISE };
    }
    PROMISE
}

#[derive(Debug)]
pub(super) struct Ours {
    name: Name,
    bucket: String,
}

impl Ours {
    pub(super) fn new(name: Name) -> Self {
        Self { name, bucket: String::new() }
    }
}

fn agent(place: &Place, verb: &str) -> Command {
    let mut command = Command::new(place.tools.agent());
    command.arg(verb).arg("--control").arg(place.base.join("control"));
    command
}

impl Program for Ours {
    fn name(&self) -> Name {
        self.name
    }

    fn layout(&self) -> Layout {
        Layout::Objects
    }

    fn adopt(&mut self, _place: &Place, bucket: &str) -> anyhow::Result<()> {
        self.bucket = bucket.to_owned();
        Ok(())
    }

    fn command(&mut self, place: &Place) -> anyhow::Result<Command> {
        let s3 = &place.s3;
        let mut command = agent(place, "mount");
        command.args(["--foreground", "--region", "us-east-1", "--endpoint", &s3.endpoint]);
        command.arg("--cache-dir").arg(&place.cache).arg(&self.bucket).arg(&place.root);
        match self.name {
            Name::OursPlain => command.arg(PLAIN),
            Name::OursDisk => command.arg(DISK),
            _ => &mut command,
        };
        command.env("AWS_ACCESS_KEY_ID", &s3.key).env("AWS_SECRET_ACCESS_KEY", &s3.secret);
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("EC2MPI_LOG", "warn");
        Ok(command)
    }

    fn drain(&mut self, place: &Place) -> anyhow::Result<()> {
        run(agent(place, "drain").arg("--timeout").arg("300").arg(&place.root)).map(drop)
    }
}

/// Why a variant cannot take part with this version of the agent.
pub(super) fn missing(name: Name, tools: &Tools) -> Option<String> {
    let lacks = |option: &str| Some(format!("the agent has no {option}"));
    match name {
        Name::OursPlain if !help(tools).contains(PLAIN) => lacks(PLAIN),
        Name::OursDisk if !has_close_disk(tools) => lacks(DISK),
        _ => None,
    }
}

fn has_close_disk(tools: &Tools) -> bool {
    help(tools).lines().skip_while(|line| !line.contains("--close")).take(12).any(|line| line.contains("- disk"))
}

fn help(tools: &Tools) -> String {
    let output = Command::new(tools.agent()).args(["mount", "--help"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
