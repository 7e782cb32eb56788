//! JuiceFS with a Redis of its own on this machine, which is not behind the lab: its names cost it no round trip.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;
use nix::sys::signal::Signal;

use super::{Layout, Place, Promise, System};
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
    place: Place,
    redis: Daemon,
    /// Where the names are.
    meta: String,
    daemon: Option<Daemon>,
}

impl Juicefs {
    pub(super) fn new(name: Name, place: Place) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(REDIS);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command
            .args(["--set-proc-title", "no", "--appendonly", "yes", "--appendfsync", "everysec"])
            .arg("--dir")
            .arg(&place.base);
        let mut redis = Daemon::start(command, &place.base.join("redis.log"))?;
        redis.wait_for("a Redis", || listens(port).then_some(()))?;
        Ok(Self { name, place, redis, meta: format!("redis://127.0.0.1:{port}/0"), daemon: None })
    }

    fn program(&self) -> Command {
        Command::new(self.place.tools.peer("juicefs"))
    }

    /// Blocks that wait for their upload (only ever with `--writeback`).
    fn staged(&self) -> bool {
        fn any_file(directory: &Path) -> bool {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).any(|path| if path.is_dir() { any_file(&path) } else { path.is_file() })
        }
        let volumes = std::fs::read_dir(&self.place.cache).into_iter().flatten().flatten();
        volumes.map(|volume| volume.path().join("rawstaging")).any(|staging| any_file(&staging))
    }
}

impl System for Juicefs {
    fn name(&self) -> Name {
        self.name
    }

    fn layout(&self) -> Layout {
        Layout::Blocks
    }

    /// Redis is emptied: a database belongs to one volume.
    fn adopt(&mut self, bucket: &str) -> anyhow::Result<()> {
        let url = self.meta.trim_end_matches("/0");
        run(Command::new("redis-cli").args(["-u", url, "flushall"]))?;
        let s3 = &self.place.s3;
        let mut command = self.program();
        command.args(["format", "--storage", "s3", "--trash-days", "0", "--bucket"]);
        command.arg(format!("{}/{bucket}", s3.endpoint)).args(["--access-key", &s3.key, "--secret-key", &s3.secret]);
        run(command.args([&self.meta, "bench"])).map(drop)
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.place.clear()?;
        let mut command = self.program();
        command.args(["mount", "--no-usage-report", "--backup-meta", "0", "--free-space-ratio", "0.02", "--metrics"]);
        command.arg(format!("127.0.0.1:{}", free_port()?)).arg("--cache-dir").arg(&self.place.cache);
        if self.name == Name::JuicefsWriteback {
            command.arg("--writeback");
        }
        command.arg(&self.meta).arg(&self.place.root);
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
        let begun = Instant::now();
        while self.staged() {
            if begun.elapsed() > DRAIN {
                bail!("JuiceFS has not sent everything in {} s", DRAIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn daemon(&self) -> Option<i32> {
        self.daemon.as_ref().map(Daemon::pid)
    }
}

impl Drop for Juicefs {
    fn drop(&mut self) {
        if self.unmount().and_then(|()| self.redis.end(Signal::SIGTERM)).is_err() {
            eprintln!("JuiceFS did not end well");
        }
    }
}
