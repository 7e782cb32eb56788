//! What all systems have in common that a daemon serves: it is started with empty caches, and unmounted.

use std::path::Path;
use std::process::Command;

use super::{Layout, Place, System};
use crate::daemon::Daemon;
use crate::works::Name;

/// What is different.
pub(super) trait Program {
    fn name(&self) -> Name;
    fn layout(&self) -> Layout;
    /// Makes the bucket its own, with nothing in it.
    fn adopt(&mut self, place: &Place, bucket: &str) -> anyhow::Result<()>;
    /// What mounts the bucket at the place's root, and serves it in the foreground.
    fn command(&mut self, place: &Place) -> anyhow::Result<Command>;
    /// Waits until everything written so far is in S3.
    fn drain(&mut self, place: &Place) -> anyhow::Result<()>;
}

#[derive(Debug)]
pub(super) struct Mounted<P: Program> {
    program: P,
    place: Place,
    daemon: Option<Daemon>,
}

impl<P: Program> Mounted<P> {
    pub(super) fn new(program: P, place: Place) -> Self {
        Self { program, place, daemon: None }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.daemon.take().map_or(Ok(()), |daemon| daemon.unmount(&self.place.root))
    }
}

impl<P: Program> System for Mounted<P> {
    fn name(&self) -> Name {
        self.program.name()
    }

    fn layout(&self) -> Layout {
        self.program.layout()
    }

    fn adopt(&mut self, bucket: &str) -> anyhow::Result<()> {
        self.program.adopt(&self.place, bucket)
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        self.end()?;
        self.place.clear()?;
        let command = self.program.command(&self.place)?;
        let mut daemon = Daemon::start(command, &self.place.log)?;
        daemon.wait_for_mount(&self.place.root)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.place.root)
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        self.program.drain(&self.place)
    }

    fn daemon(&self) -> Option<i32> {
        self.daemon.as_ref().map(Daemon::pid)
    }
}

/// What the program needs while it is mounted is there until then.
impl<P: Program> Drop for Mounted<P> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{} did not end well: {error:#}", self.program.name().text());
        }
    }
}
