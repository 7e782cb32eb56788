//! Jobs.

use std::path::PathBuf;

use crate::cluster::Clusters;
use crate::error::Error;
use crate::registry::Registry;
use crate::state::State;

/// The jobs of this coordinator. Cheap to clone; clones share.
#[derive(Debug, Clone)]
pub struct Jobs {}

impl Jobs {
    /// `output_dir` holds a directory a job with its output (`<state-dir>/jobs`).
    pub fn new(_state: State, _clusters: Clusters, _registry: Registry, _output_dir: PathBuf) -> Self {
        todo!()
    }

    /// Goes on with every job that had not ended when the coordinator did. Call once, inside the runtime, after the
    /// registry can be reached by agents.
    pub fn resume(&self) -> Result<(), Error> {
        todo!()
    }
}
