//! Assembles a volume, mounts it, and takes it apart again.

use std::path::PathBuf;

/// `mount BUCKET[/PREFIX] DIR`.
#[derive(Debug, Clone, clap::Args)]
pub struct MountArgs {
    /// The bucket, with a prefix if only a part of it is to be mounted.
    pub bucket: String,
    /// The mount point; must exist.
    pub dir: PathBuf,
    /// URL of the S3 server, for one that is not AWS.
    #[arg(long)]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long)]
    pub region: Option<String>,
    /// Where file data and the journal are kept; one volume at a time.
    #[arg(long)]
    pub cache_dir: Option<PathBuf>,
    /// Where the control socket is made.
    #[arg(long)]
    pub control: Option<PathBuf>,
    /// Owner of the root and of objects without metadata.
    #[arg(long)]
    pub uid: Option<u32>,
    /// Group of the root and of objects without metadata.
    #[arg(long)]
    pub gid: Option<u32>,
    /// Name of this node in conflict copies.
    #[arg(long)]
    pub node_name: Option<String>,
    /// Seconds for which attributes and names are trusted without asking S3; 0 asks at every open.
    #[arg(long, default_value_t = 1.0)]
    pub attr_ttl: f64,
    /// Stay in the foreground.
    #[arg(long)]
    pub foreground: bool,
}

/// Mounts. In the foreground it returns after the unmount, otherwise once the mount answers.
///
/// Must be called from a thread without a runtime: it makes its own.
pub fn run(args: MountArgs) -> anyhow::Result<()> {
    anyhow::bail!("cannot mount {} yet", args.bucket)
}
