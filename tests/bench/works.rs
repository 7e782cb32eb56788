//! What is measured, as descriptions: nothing here does anything. [`scenes`](crate::scenes) says in which order and what
//! must be reached; [`files`](crate::files) and [`bare`](crate::bare) do it.

use serde::Serialize;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Name {
    Ours,
    /// The same, with the kernel's passthrough of file data turned off.
    OursPlain,
    /// The same, with close waiting for the disk itself.
    OursDisk,
    S3fs,
    Rclone,
    Juicefs,
    JuicefsWriteback,
    /// The local disk.
    Native,
    /// A parallel client without a file system: the limit.
    Bare,
}

impl Name {
    pub(crate) const ALL: [Self; 9] = [
        Self::Ours,
        Self::OursPlain,
        Self::OursDisk,
        Self::S3fs,
        Self::Rclone,
        Self::Juicefs,
        Self::JuicefsWriteback,
        Self::Native,
        Self::Bare,
    ];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursPlain => "ours-plain",
            Self::OursDisk => "ours-disk",
            Self::S3fs => "s3fs",
            Self::Rclone => "rclone",
            Self::Juicefs => "juicefs",
            Self::JuicefsWriteback => "juicefs-writeback",
            Self::Native => "native",
            Self::Bare => "bare",
        }
    }

    /// Whether it is a file system on S3 that is not ours.
    pub(crate) const fn is_peer(self) -> bool {
        matches!(self, Self::S3fs | Self::Rclone | Self::Juicefs)
    }
}

/// What a value says, and whether more of it is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "MiB/s")]
    MibPerSecond,
    #[serde(rename = "files/s")]
    FilesPerSecond,
    #[serde(rename = "calls/s")]
    CallsPerSecond,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "MiB")]
    Mib,
    #[serde(rename = "s/GiB")]
    SecondsPerGib,
}

impl Unit {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::MibPerSecond => "MiB/s",
            Self::FilesPerSecond => "files/s",
            Self::CallsPerSecond => "calls/s",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Mib => "MiB",
            Self::SecondsPerGib => "s/GiB",
        }
    }

    pub(crate) const fn more_is_better(self) -> bool {
        matches!(self, Self::MibPerSecond | Self::FilesPerSecond | Self::CallsPerSecond)
    }

    /// The value of a work that did `amount` (MiB, files, calls, or 1) in so many seconds.
    pub(crate) fn value(self, amount: f64, seconds: f64) -> f64 {
        match self {
            Self::MibPerSecond | Self::FilesPerSecond | Self::CallsPerSecond => amount / seconds.max(1e-9),
            Self::Milliseconds => seconds * 1e3,
            Self::Seconds | Self::SecondsPerGib => seconds,
            Self::Mib => amount,
        }
    }
}

/// What must be there before the clock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seed {
    Nothing,
    /// `big.bin`.
    Big,
    /// `cold-N.bin`, for the first byte.
    Cold,
    /// `small/`, put into S3 with the metadata that s3fs writes.
    Small,
    /// `small/`, written through the mount.
    SmallThroughMount,
    /// `program`, an executable of 50 MB.
    Program,
    /// `project/`, sources in C, written through the mount.
    Project,
}

/// In which state the caches are when the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Mounted, whatever was done before.
    AsIs,
    /// Mounted anew with empty caches.
    Cold,
    /// `big.bin` has been read as a whole.
    Read,
    /// The same, and then the kernel's caches were dropped.
    ReadThenDropped,
}

/// Work on a mount, or what comes nearest to it without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing, for two seconds.
    Idle,
    /// Read `big.bin` from its beginning to its end.
    ReadAll,
    /// The same with its attributes known, again and again: one time is over in milliseconds.
    ReadAgain,
    /// Read pages of `big.bin` at random.
    ReadRandom { reads: u64 },
    /// The same with its attributes known, for some time at least.
    ReadRandomAgain { reads: u64 },
    /// Open `big.bin` and read its first page, when it was last used more than a second ago.
    Reopen,
    /// Stat, then open and read the first page of each of the cold files.
    FirstByte,
    /// Write a new file as large as `big.bin`, then close, or fsync and close.
    Write { fsync: bool },
    /// Write a new file in calls of 512 bytes.
    WriteSmall { calls: u64 },
    /// Append 512 bytes to a file and fsync it, again and again.
    Log { calls: u64 },
    /// Write pages at random within the first `span` MiB of `big.bin` (0: everywhere) and fsync.
    Overwrite { writes: u64, span: u64 },
    /// Append a page to `big.bin` and fsync.
    Append,
    /// Make new files of 4 KiB in a new directory.
    Create { files: u64 },
    /// `ls -l small`.
    List,
    /// Read all files of `small/`.
    ReadFiles,
    /// Stat all files of `small/`, several times over.
    Stat { calls: u64 },
    /// Rename `small/`.
    Rename,
    /// `tar x` of a source tree.
    Untar { files: u64 },
    /// `cp -r` of that tree to the local disk.
    CopyTree,
    /// `find` through that tree.
    Find,
    /// `rm -r` of that tree.
    Remove,
    /// `make -j2` in `project/`, all of it built once before.
    Build,
    /// Run `program`, which reads all of itself.
    Exec,
    /// The same with its attributes known.
    ExecAgain,
}

/// With whom a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    Native,
    S3fs,
    Rclone,
    Juicefs,
    /// The fastest of s3fs, rclone and JuiceFS.
    BestPeer,
    /// The fastest of those whose fsync returns when the data are in S3.
    BestDurablePeer,
    Limit,
}

impl Whom {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::S3fs => "s3fs",
            Self::Rclone => "rclone",
            Self::Juicefs => "JuiceFS",
            Self::BestPeer => "the best peer",
            Self::BestDurablePeer => "the best peer with a durable fsync",
            Self::Limit => "the limit",
        }
    }
}

/// What ours must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// So many times the speed of another.
    Times(f64, Whom),
    AtLeast(f64),
    AtMost(f64),
    /// No more than the limit's time and so many milliseconds.
    LimitAnd {
        milliseconds: f64,
    },
    /// So many MiB on their way to S3.
    SentAtMost(f64),
    /// No more of it than s3fs needs.
    NotAbove(Whom),
}

/// One row of the table: a value that an act gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    pub(crate) targets: &'static [Target],
    /// Why others are expected to be faster, where they are.
    pub(crate) expected: Option<&'static str>,
}

impl Row {
    /// The same, of a work that others are expected to do faster.
    pub(crate) const fn behind(self, why: &'static str) -> Self {
        Self { expected: Some(why), ..self }
    }

    /// What a system has to reach in it.
    pub(crate) fn targets_of(&self, name: Name) -> &'static [Target] {
        match name {
            Name::Ours => self.targets,
            // What the file system does on kernels without passthrough.
            Name::OursPlain if self.id == "re-read" => &[Target::Times(0.5, Whom::Native)],
            _ => &[],
        }
    }
}

/// An act, how often, in which state, by whom. It gives a value for each of its rows, in this order.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    pub(crate) act: Act,
    pub(crate) before: Before,
    /// It needs what the phase before has made.
    pub(crate) chained: bool,
    /// Times in a round at most, as long as it is not clear who is faster; the systems take turns.
    pub(crate) repeats: usize,
    pub(crate) who: &'static [Name],
    pub(crate) rows: &'static [Row],
}

impl Phase {
    /// Its first row's.
    pub(crate) fn id(&self) -> &'static str {
        self.rows[0].id
    }
}

/// Phases on the same data.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) seed: Seed,
    pub(crate) phases: Vec<Phase>,
    /// Those that work on fewer files, compared by rate: one file takes them several round trips to S3.
    pub(crate) few: &'static [Name],
    /// Measured under every setting, not under the first alone.
    pub(crate) core: bool,
}

/// How large everything is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Sizes {
    pub(crate) big_mib: u64,
    pub(crate) span_mib: u64,
    pub(crate) cold_files: u64,
    pub(crate) cold_mib: u64,
    pub(crate) files: u64,
    /// For those who are too slow for all of them.
    pub(crate) few: u64,
    pub(crate) tree_files: u64,
    pub(crate) program_mib: u64,
    pub(crate) sources: u64,
    pub(crate) random_reads: u64,
    pub(crate) warm_reads: u64,
    pub(crate) random_writes: u64,
    pub(crate) small_writes: u64,
    pub(crate) log_calls: u64,
    pub(crate) stat_calls: u64,
    /// Seconds after which a work on many things is stopped; then what it has done counts, by rate.
    pub(crate) patience: f64,
}

impl Sizes {
    /// The sizes of the table, or a part of them.
    pub(crate) fn scaled(scale: f64) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
        let of = |whole: u64, least: u64| ((whole as f64 * scale).round() as u64).clamp(least, whole);
        Self {
            big_mib: of(512, 16),
            span_mib: of(32, 4),
            cold_files: of(8, 3),
            cold_mib: of(16, 4),
            files: of(1000, 20),
            few: of(200, 20),
            tree_files: of(5000, 50),
            program_mib: of(50, 4),
            sources: of(32, 8),
            random_reads: of(1000, 50),
            warm_reads: of(40_000, 10_000),
            random_writes: of(2000, 50),
            small_writes: of(200_000, 10_000),
            log_calls: of(20, 5),
            stat_calls: of(20_000, 1000),
            patience: (45.0 * scale.powf(1.3)).clamp(4.0, 45.0),
        }
    }
}
