//! The S3 servers: SeaweedFS, and the bucket of the local cloud. Each is reached directly for seeding and checking, and
//! through the lab for everything that is measured.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use ec2mpi_tests::lab::{Faults, Lab};

use crate::daemon::{Daemon, call, free_port, listens};
use crate::s3::Access;
use serde::Serialize;

const KEY: &str = "benchkey";
const SECRET: &str = "benchsecret";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Seaweedfs,
    Own,
}

/// A server, and how far away it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Setting {
    pub(crate) server: Kind,
    pub(crate) latency_ms: u64,
    pub(crate) bytes_per_second: Option<u64>,
}

impl Setting {
    /// As in a data centre: 20 ms a request, 90 MB/s a connection.
    pub(crate) const fn distant(server: Kind) -> Self {
        Self { server, latency_ms: 20, bytes_per_second: Some(90_000_000) }
    }

    /// As near as it can be.
    pub(crate) const fn near(server: Kind) -> Self {
        Self { server, latency_ms: 0, bytes_per_second: None }
    }

    pub(crate) fn text(&self) -> String {
        let server = match self.server {
            Kind::Seaweedfs => "SeaweedFS",
            Kind::Own => "our bucket server",
        };
        match self.bytes_per_second {
            Some(bytes) => {
                format!("{server}, {} ms a request, {} MB/s a connection", self.latency_ms, bytes / 1_000_000)
            }
            None => format!("{server}, {} ms a request", self.latency_ms),
        }
    }
}

/// A running server with the lab before it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) lab: Lab,
    pub(crate) direct: Access,
    pub(crate) behind_lab: Access,
    setting: Setting,
    /// SeaweedFS's master.
    master: Option<u16>,
    _process: Daemon,
}

impl Server {
    pub(crate) fn start(setting: Setting, directory: &Path, tools: &Tools) -> anyhow::Result<Self> {
        let data = directory.join("data");
        fs::create_dir_all(&data)?;
        let port = free_port()?;
        let master = (setting.server == Kind::Seaweedfs).then(free_port).transpose()?;
        let command = match master {
            Some(master) => seaweedfs(tools, directory, &data, port, master)?,
            None => own(tools, &data, port),
        };
        let mut process = Daemon::start(command, &directory.join("server.log"))?;
        process.wait_for("an S3 server", || listens(port).then_some(()))?;
        let lab = Lab::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), 1).context("starting the lab")?;
        let access = |endpoint| Access { endpoint, key: KEY.to_owned(), secret: SECRET.to_owned() };
        let direct = access(format!("http://127.0.0.1:{port}"));
        Ok(Self { behind_lab: access(lab.endpoint()), direct, lab, setting, master, _process: process })
    }

    /// From now on it is as far away as the setting says.
    pub(crate) fn keep_distance(&self) {
        let Setting { latency_ms, bytes_per_second, .. } = self.setting;
        self.lab.set(Faults { latency_ms, bytes_per_second, ..Faults::default() });
    }

    /// Lets the server free what was deleted; SeaweedFS keeps it until it is asked.
    pub(crate) fn clear_garbage(&self) -> anyhow::Result<()> {
        let Some(master) = self.master else { return Ok(()) };
        call(master, "GET", "/vol/vacuum?garbageThreshold=0.1").context("clearing SeaweedFS's garbage").map(drop)
    }

    /// From now on it is as near as it can be.
    pub(crate) fn come_near(&self) {
        self.lab.set(Faults::default());
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// The executables of this workspace.
    pub(crate) own: PathBuf,
    /// Those from PyPI.
    pub(crate) venv: PathBuf,
}

impl Tools {
    pub(crate) fn peer(&self, name: &str) -> PathBuf {
        self.venv.join("bin").join(name)
    }

    pub(crate) fn agent(&self) -> PathBuf {
        self.own.join("ec2mpi-agent")
    }
}

fn seaweedfs(tools: &Tools, directory: &Path, data: &Path, port: u16, master: u16) -> anyhow::Result<Command> {
    let config = directory.join("s3.json");
    let identity = serde_json::json!({"identities": [{
        "name": "bench",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    fs::write(&config, identity.to_string())?;
    let mut command = Command::new(tools.peer("weed"));
    command.current_dir(directory).env("HOME", directory).arg("mini");
    command.arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", config.display()));
    command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
    command.args(["-webdav=false", "-admin.ui=false"]).arg(format!("-s3.port={port}"));
    command.arg(format!("-master.port={master}")).arg("-volume.max=200");
    for part in ["volume", "filer", "admin"] {
        command.arg(format!("-{part}.port={}", free_port()?));
    }
    for part in ["s3", "filer"] {
        command.arg(format!("-{part}.localSocket={}", directory.join(format!("{part}.sock")).display()));
    }
    Ok(command)
}

fn own(tools: &Tools, data: &Path, port: u16) -> Command {
    let mut command = Command::new(tools.own.join("examples/bucket"));
    command.arg(data).arg(format!("127.0.0.1:{port}")).arg(format!("{KEY}:{SECRET}"));
    command
}
