//! From facts to hostfile text, argv and environment of a launch. Pure; golden-tested.

/// One MPI library on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    pub family: String,
    pub version: String,
    /// Absolute path.
    pub mpirun: String,
}
