//! `ec2mpi-agent mount`, with its defaults.

use std::process::Command;

use super::mounted::Program;
use super::{Layout, Place, Promise, Tools};
use crate::daemon::run;
use crate::works::Name;

/// What keeps file data out of the kernel's passthrough.
const PLAIN: &str = "--no-passthrough";

pub(super) const PROMISE: Promise = Promise {
    attr_ttl: "1 s",
    excl: "node",
    close: "journaled; on the local disk a second later",
    fsync: "in S3",
    fsync_in_s3: true,
};

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
        if self.name == Name::OursPlain {
            command.arg(PLAIN);
        }
        command.env("AWS_ACCESS_KEY_ID", &s3.key).env("AWS_SECRET_ACCESS_KEY", &s3.secret);
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("EC2MPI_LOG", "warn");
        Ok(command)
    }

    fn drain(&mut self, place: &Place) -> anyhow::Result<()> {
        run(agent(place, "drain").arg("--timeout").arg("300").arg(&place.root)).map(drop)
    }
}

/// Whether this version has a passthrough that could be turned off.
pub(super) fn cannot_be_plain(tools: &Tools) -> Option<String> {
    let help = Command::new(tools.agent()).args(["mount", "--help"]).output();
    let has_option = help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(PLAIN));
    (!has_option).then(|| format!("the agent has no {PLAIN}"))
}
