//! `ec2mpi-agent mount`, with its defaults.

use std::path::Path;
use std::process::Command;

use super::{Layout, Place, Promise, System, Tools};
use crate::daemon::{Daemon, run};
use crate::works::Name;

/// What keeps file data out of the kernel's passthrough.
const PLAIN: &str = "--no-passthrough";

pub(super) const PROMISE: Promise =
    Promise { attr_ttl: "1 s", excl: "node", close: "journaled on the local disk", fsync: "in S3", fsync_in_s3: true };

#[derive(Debug)]
pub(super) struct Ours {
    name: Name,
    place: Place,
    bucket: String,
    daemon: Option<Daemon>,
}

impl Ours {
    pub(super) fn new(name: Name, place: Place) -> Self {
        Self { name, place, bucket: String::new(), daemon: None }
    }

    fn agent(&self, verb: &str) -> Command {
        let mut command = Command::new(self.place.tools.agent());
        command.arg(verb).arg("--control").arg(self.place.base.join("control"));
        command
    }
}

impl System for Ours {
    fn name(&self) -> Name {
        self.name
    }

    fn layout(&self) -> Layout {
        Layout::Objects
    }

    fn adopt(&mut self, bucket: &str) -> anyhow::Result<()> {
        self.bucket = bucket.to_owned();
        Ok(())
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.place.clear()?;
        let s3 = &self.place.s3;
        let mut command = self.agent("mount");
        command.args(["--foreground", "--region", "us-east-1", "--endpoint", &s3.endpoint]);
        command.arg("--cache-dir").arg(&self.place.cache).arg(&self.bucket).arg(&self.place.root);
        if self.name == Name::OursPlain {
            command.arg(PLAIN);
        }
        command.env("AWS_ACCESS_KEY_ID", &s3.key).env("AWS_SECRET_ACCESS_KEY", &s3.secret);
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("EC2MPI_LOG", "warn");
        let mut daemon = Daemon::start(command, &self.place.log)?;
        daemon.wait_for_mount(&self.place.root)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        self.daemon.take().map_or(Ok(()), |daemon| daemon.unmount(&self.place.root))
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.place.root)
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        run(self.agent("drain").arg("--timeout").arg("300").arg(&self.place.root)).map(drop)
    }

    fn daemon(&self) -> Option<i32> {
        self.daemon.as_ref().map(Daemon::pid)
    }
}

/// Whether this version has a passthrough that could be turned off.
pub(super) fn cannot_be_plain(tools: &Tools) -> Option<String> {
    let help = Command::new(tools.agent()).args(["mount", "--help"]).output();
    let has_option = help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(PLAIN));
    (!has_option).then(|| format!("the agent has no {PLAIN}"))
}
