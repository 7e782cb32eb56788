//! The launchers' own arguments and variables.
//!
//! Sources: mpirun(1) of Open MPI 4.1; the documentation of Open MPI 5 and PRRTE 3; Hydra's wiki (MPICH); the Intel MPI
//! developer reference. Interfaces are chosen by address block, never by device name: those differ between machines.

use std::collections::BTreeMap;

use super::{JOB_VARIABLE, LaunchFacts, Launcher, SSH_CONFIG};

/// Between `-n RANKS` and the exported variables.
pub(super) fn launcher(launcher: Launcher, facts: &LaunchFacts, hostfile_path: &str) -> Vec<String> {
    let ssh = format!("-F {SSH_CONFIG}");
    match launcher {
        Launcher::OpenMpi4 => {
            let mut out = open_mpi(facts, hostfile_path, "self,vader,tcp");
            out.extend(parameter("--mca", "oob_tcp_if_include", &facts.cidr));
            out.extend(parameter("--mca", "plm_rsh_args", &ssh));
            out.extend(parameter("--mca", "orte_tmpdir_base", "/tmp"));
            out
        }
        Launcher::OpenMpi5 => {
            let mut out = open_mpi(facts, hostfile_path, "self,sm,tcp");
            out.extend(parameter("--prtemca", "prte_if_include", &facts.cidr));
            out.extend(parameter("--prtemca", "plm_ssh_args", &ssh));
            out.extend(parameter("--prtemca", "prte_tmpdir_base", "/tmp"));
            out
        }
        Launcher::Mpich => {
            let binding = if facts.dedicated_cores { "core" } else { "none" };
            words(&["-f", hostfile_path, "-launcher", "ssh", "-bind-to", binding])
        }
        Launcher::Intel => words(&["-machinefile", hostfile_path]),
    }
}

/// What both generations of Open MPI understand.
fn open_mpi(facts: &LaunchFacts, hostfile_path: &str, transports: &str) -> Vec<String> {
    let mut out = words(&["--hostfile", hostfile_path]);
    if facts.dedicated_cores {
        out.extend(words(&["--map-by", "slot", "--bind-to", "core"]));
    } else {
        // Machines that share cores: a rank that waits must let others run, and slots may be more than cores.
        out.extend(words(&["--map-by", "slot", "--bind-to", "none", "--oversubscribe"]));
        out.extend(parameter("--mca", "mpi_yield_when_idle", "1"));
    }
    out.extend(parameter("--mca", "pml", "ob1"));
    out.extend(parameter("--mca", "btl", transports));
    out.extend(parameter("--mca", "btl_tcp_if_include", &facts.cidr));
    out
}

/// Makes the launcher hand these variables to every rank. Values stay out of argv, which all users can read.
pub(super) fn exported<'a>(launcher: Launcher, names: impl Iterator<Item = &'a String>) -> Vec<String> {
    match launcher {
        Launcher::OpenMpi4 | Launcher::OpenMpi5 => {
            let names = names.map(String::as_str).filter(|name| *name != JOB_VARIABLE);
            [JOB_VARIABLE].into_iter().chain(names).flat_map(|name| words(&["-x", name])).collect()
        }
        // Hydra hands over the whole environment.
        Launcher::Mpich | Launcher::Intel => Vec::new(),
    }
}

/// Variables that stand for arguments.
pub(super) fn environment(launcher: Launcher, facts: &LaunchFacts) -> BTreeMap<String, String> {
    let ssh = format!("-F {SSH_CONFIG}");
    let pairs: Vec<(&str, &str)> = match launcher {
        Launcher::OpenMpi4 | Launcher::OpenMpi5 => Vec::new(),
        Launcher::Mpich => vec![("HYDRA_LAUNCHER_EXTRA_ARGS", &ssh), ("FI_PROVIDER", "tcp")],
        Launcher::Intel => {
            let mut out = vec![
                ("I_MPI_HYDRA_BOOTSTRAP", "ssh"),
                ("I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS", &*ssh),
                ("I_MPI_FABRICS", "shm:ofi"),
                ("FI_PROVIDER", "tcp"),
            ];
            if !facts.dedicated_cores {
                // No pinning, and yield to the scheduler while waiting.
                out.extend([("I_MPI_PIN", "0"), ("I_MPI_THREAD_YIELD", "2")]);
            }
            out
        }
    };
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn parameter(kind: &str, name: &str, value: &str) -> Vec<String> {
    words(&[kind, name, value])
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}
