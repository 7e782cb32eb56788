//! A system in a scene.

use std::fs;
use std::time::Duration;

use anyhow::Context;

use super::Stage;
use crate::guard::Limit;
use crate::job::State;
use crate::material::{BIG, SMALL};
use crate::s3::Bucket;
use crate::server::Server;
use crate::systems::System;
use crate::works::{Before, Phase, Scene};
use crate::{files, seed};

pub(super) struct Player {
    pub(super) system: Box<dyn System>,
    pub(super) direct: Bucket,
    pub(super) state: State,
    pub(super) files: u64,
    pub(super) few: bool,
    mounted: bool,
    /// `big.bin` has been read as a whole since the mount.
    pub(super) read: bool,
    /// The phase is done that those chained to it need.
    pub(super) head: bool,
    /// Why it plays no more.
    pub(super) broken: Option<String>,
}

impl Player {
    /// With a bucket of its own and the scene's files in it; one that fails at that is broken.
    pub(super) fn new(
        stage: &Stage<'_>,
        server: &Server,
        scene: &Scene,
        mut system: Box<dyn System>,
    ) -> anyhow::Result<Self> {
        let (name, sizes) = (system.name(), stage.material.sizes);
        let few = scene.few.contains(&name);
        let bucket = format!("{}-{}", scene.name, name.text());
        let direct = Bucket::new(&stage.runtime, &server.direct, &bucket);
        direct.create().with_context(|| format!("making the bucket {bucket}"))?;
        let files = if few { sizes.few } else { sizes.files };
        let limit = Limit::new(super::SEED, system.base());
        let planted = system
            .adopt(&bucket)
            .and_then(|()| seed::plant(scene.seed, stage.material, system.as_mut(), &direct, files));
        drop(limit);
        let (mounted, broken) = (system.daemon().is_some(), planted.err().map(|error| format!("{error:#}")));
        if let Some(error) = &broken {
            eprintln!("  {} does not take part: {error}", name.text());
        }
        let (small, tree) = (SMALL.to_owned(), String::new());
        let state = State { big: stage.material.big(), small, tree, tree_files: 0 };
        Ok(Self { system, direct, state, files, few, mounted, read: false, head: false, broken })
    }

    /// What a phase needs and is not there.
    pub(super) fn lacks(&self, phase: &Phase) -> Option<String> {
        (phase.chained && !self.head).then(|| "the work before it is missing".to_owned())
    }

    /// In the state that the phase wants.
    pub(super) fn prepare(&mut self, before: Before) -> anyhow::Result<()> {
        if before == Before::Cold || !self.mounted {
            self.system.mount()?;
            (self.mounted, self.read) = (true, false);
        }
        let wants_read = matches!(before, Before::Read | Before::ReadThenDropped);
        if let Some(root) = self.system.root().filter(|_| wants_read && !self.read) {
            files::read_all(&root.join(BIG), &self.state.big)?;
            self.read = true;
        }
        if before == Before::ReadThenDropped {
            drop_caches()?;
        }
        Ok(())
    }

    /// A new mount after a failure; when that fails too, it is out of the scene.
    pub(super) fn recover(&mut self, limit: Duration) {
        let _limit = Limit::new(limit, self.system.base());
        let again = self.system.unmount().and_then(|()| self.system.mount());
        (self.mounted, self.read) = (again.is_ok(), false);
        self.broken = again.err().map(|error| format!("{error:#}"));
    }
}

fn drop_caches() -> anyhow::Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the kernel's caches")
}
