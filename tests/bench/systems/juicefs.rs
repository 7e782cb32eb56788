//! JuiceFS with a Redis of its own on this machine, which is not behind the lab: its names cost it no round trip.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;
use nix::sys::signal::Signal;

use super::mounted::Program;
use super::{Layout, Place, Promise};
use crate::daemon::{Daemon, free_port, listens, run};
use crate::works::Name;

pub(super) const REDIS: &str = "/usr/bin/redis-server";
const DRAIN: Duration = Duration::from_secs(300);

pub(super) const PROMISE: Promise = Promise {
    attr_ttl: "1 s",
    excl: "cluster",
    close: "in S3, names in Redis",
    fsync: "in S3, names in Redis",
    fsync_in_s3: true,
};
pub(super) const PROMISE_WRITEBACK: Promise = Promise {
    close: "in the local cache, names in Redis",
    fsync: "in the local cache, names in Redis",
    fsync_in_s3: false,
    ..PROMISE
};

#[derive(Debug)]
pub(super) struct Juicefs {
    name: Name,
    redis: Daemon,
    /// Where the names are.
    meta: String,
}

impl Juicefs {
    pub(super) fn new(name: Name, place: &Place) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(REDIS);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command
            .args(["--set-proc-title", "no", "--appendonly", "yes", "--appendfsync", "everysec"])
            .arg("--dir")
            .arg(&place.base);
        let mut redis = Daemon::start(command, &place.base.join("redis.log"))?;
        redis.wait_for("a Redis", || listens(port).then_some(()))?;
        Ok(Self { name, redis, meta: format!("redis://127.0.0.1:{port}/0") })
    }
}

fn program(place: &Place) -> Command {
    Command::new(place.tools.peer("juicefs"))
}

/// Blocks that wait for their upload (only ever with `--writeback`).
fn staged(place: &Place) -> bool {
    fn any_file(directory: &Path) -> bool {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| if path.is_dir() { any_file(&path) } else { path.is_file() })
    }
    let volumes = std::fs::read_dir(&place.cache).into_iter().flatten().flatten();
    volumes.map(|volume| volume.path().join("rawstaging")).any(|staging| any_file(&staging))
}

impl Program for Juicefs {
    fn name(&self) -> Name {
        self.name
    }

    fn layout(&self) -> Layout {
        Layout::Blocks
    }

    /// Redis is emptied: a database belongs to one volume.
    fn adopt(&mut self, place: &Place, bucket: &str) -> anyhow::Result<()> {
        let url = self.meta.trim_end_matches("/0");
        run(Command::new("redis-cli").args(["-u", url, "flushall"]))?;
        let s3 = &place.s3;
        let mut command = program(place);
        command.args(["format", "--storage", "s3", "--trash-days", "0", "--bucket"]);
        command.arg(format!("{}/{bucket}", s3.endpoint)).args(["--access-key", &s3.key, "--secret-key", &s3.secret]);
        run(command.args([&self.meta, "bench"])).map(drop)
    }

    fn command(&mut self, place: &Place) -> anyhow::Result<Command> {
        let mut command = program(place);
        command.args(["mount", "--no-usage-report", "--backup-meta", "0", "--free-space-ratio", "0.02", "--metrics"]);
        command.arg(format!("127.0.0.1:{}", free_port()?)).arg("--cache-dir").arg(&place.cache);
        if self.name == Name::JuicefsWriteback {
            command.arg("--writeback");
        }
        command.arg(&self.meta).arg(&place.root);
        Ok(command)
    }

    fn drain(&mut self, place: &Place) -> anyhow::Result<()> {
        let begun = Instant::now();
        while staged(place) {
            if begun.elapsed() > DRAIN {
                bail!("JuiceFS has not sent everything in {} s", DRAIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Juicefs {
    fn drop(&mut self) {
        if let Err(error) = self.redis.end(Signal::SIGTERM) {
            eprintln!("Redis did not end well: {error:#}");
        }
    }
}
