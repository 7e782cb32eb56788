//! What this node is and how far it has come.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::paths::Paths;
use crate::durable;

/// The longest that `mpirun --version` may take.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// A milestone on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Agent,
    Join,
    Ssh,
    Mount,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Join => "join",
            Self::Ssh => "ssh",
            Self::Mount => "mount",
        }
    }
}

/// One MPI library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    pub family: &'static str,
    pub version: String,
    pub mpirun: String,
}

/// Notes the time at which a phase was first reached since boot.
pub fn reached(paths: &Paths, phase: Phase) -> anyhow::Result<()> {
    let mut all = stored(paths);
    if all.contains_key(phase.name()) {
        return Ok(());
    }
    all.insert(phase.name().to_owned(), seconds(SystemTime::now()));
    let text = serde_json::to_vec(&all)?;
    durable::overwrite(&paths.phases_json(), 0o644, &text).context("cannot note a phase")
}

/// Whether a phase was reached since boot.
pub fn was_reached(paths: &Paths, phase: Phase) -> bool {
    stored(paths).contains_key(phase.name())
}

/// Seconds since the epoch by phase, `boot` among them.
pub fn phases(paths: &Paths) -> BTreeMap<String, f64> {
    let mut all = stored(paths);
    if let Some(boot) = boot_time() {
        all.insert("boot".to_owned(), boot);
    }
    all
}

fn stored(paths: &Paths) -> BTreeMap<String, f64> {
    let text = std::fs::read(paths.phases_json()).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// When process 1 started: the boot of a real machine, and of one that shares its kernel.
fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let kernel: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    // SAFETY: asks for a constant of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    #[allow(clippy::cast_precision_loss)]
    Some(kernel + super::procfs::start_ticks(1)? as f64 / per_second.max(1) as f64)
}

/// Tells one boot of this machine from another, also where several machines share a kernel.
pub fn boot_id() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{}-{}", kernel.trim(), super::procfs::start_ticks(1).unwrap_or_default())
}

/// Physical cores that this process may use: distinct (package, core) pairs of its processors.
pub fn cores() -> u32 {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok();
    let may_use = |cpu: usize| allowed.as_ref().is_none_or(|set| set.is_set(cpu).unwrap_or(false));
    let pairs: HashSet<(String, String)> =
        (0..nix::sched::CpuSet::count()).filter(|cpu| may_use(*cpu)).filter_map(topology).collect();
    let fallback = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(if pairs.is_empty() { fallback } else { pairs.len() }).unwrap_or(1)
}

fn topology(cpu: usize) -> Option<(String, String)> {
    let read = |name: &str| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    };
    Some((read("physical_package_id")?, read("core_id")?))
}

/// Memory of the machine, bytes.
pub fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

/// The MPI libraries that are installed where they are looked for; looked for once in the life of the agent.
pub async fn mpi() -> &'static [Installation] {
    static FOUND: tokio::sync::OnceCell<Vec<Installation>> = tokio::sync::OnceCell::const_new();
    FOUND.get_or_init(look_for_mpi).await
}

async fn look_for_mpi() -> Vec<Installation> {
    let mut found: Vec<Installation> = Vec::new();
    for mpirun in candidates() {
        if let Some(installation) = ask(&mpirun).await
            && !found.iter().any(|known| known.family == installation.family && known.version == installation.version)
        {
            found.push(installation);
        }
    }
    found
}

fn candidates() -> Vec<String> {
    let dirs = ["/opt/amazon/openmpi5/bin", "/opt/amazon/openmpi/bin", "/usr/local/bin", "/usr/bin"];
    let names = ["mpirun", "mpirun.openmpi", "mpirun.mpich", "mpiexec.hydra"];
    let all = dirs.iter().flat_map(|dir| names.iter().map(move |name| format!("{dir}/{name}")));
    all.filter(|path| std::path::Path::new(path).exists()).collect()
}

async fn ask(mpirun: &str) -> Option<Installation> {
    let mut command = tokio::process::Command::new(mpirun);
    command.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_LIMIT, command.output()).await.ok()?.ok()?;
    let (family, version) = parse_version(&String::from_utf8_lossy(&output.stdout))?;
    Some(Installation { family, version, mpirun: mpirun.to_owned() })
}

/// What `mpirun --version` prints: `mpirun (Open MPI) 4.1.4`, Hydra's `Version: 4.0.2` among other lines, or
/// `Intel(R) MPI Library for Linux* OS, Version 2021.13 Build ...`.
fn parse_version(text: &str) -> Option<(&'static str, String)> {
    let after = |mark: &str| text.split_once(mark)?.1.split_whitespace().next().map(str::to_owned);
    if text.contains("Open MPI)") {
        return Some(("openmpi", after("Open MPI)")?));
    }
    if text.contains("Intel(R) MPI") {
        return Some(("intel", after("Version")?));
    }
    text.contains("HYDRA").then(|| after("Version:")).flatten().map(|version| ("mpich", version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_each_prints() {
        let open = parse_version("mpirun (Open MPI) 4.1.4\n\nReport bugs to ...");
        assert_eq!(open, Some(("openmpi", "4.1.4".to_owned())));
        let hydra = parse_version("HYDRA build details:\n    Version:                                 4.0.2\n");
        assert_eq!(hydra, Some(("mpich", "4.0.2".to_owned())));
        let intel = parse_version("Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240515");
        assert_eq!(intel, Some(("intel", "2021.13".to_owned())));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn this_machine_has_cores_memory_and_a_boot() {
        assert!(cores() >= 1);
        assert!(memory_bytes() > 1 << 20);
        let boot = boot_time().unwrap();
        assert!(boot > 1e9 && boot <= seconds(SystemTime::now()) + 1.0);
    }

    #[test]
    fn a_phase_keeps_its_first_time() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        std::fs::create_dir_all(paths.run_dir()).unwrap();
        reached(&paths, Phase::Join).unwrap();
        let first = phases(&paths)["join"];
        reached(&paths, Phase::Join).unwrap();
        assert!((phases(&paths)["join"] - first).abs() < f64::EPSILON);
    }
}
