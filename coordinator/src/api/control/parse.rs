//! From requests to what they mean. Whatever is refused here is INVALID_ARGUMENT.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ec2mpi_proto::id::{ClusterName, JobId};
use ec2mpi_proto::v1;

use crate::cluster::ClusterSpec;
use crate::error::Error;
use crate::job::{DEFAULT_NODE_TIMEOUT, ExecSpec, RunSpec};

const MAX_NODES: u32 = 1000;
const MAX_SLOTS: u32 = 1024;
const MAX_RANKS: u32 = 1_000_000;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(120);
/// No wait that a user asks for is longer.
const MAX_TIMEOUT_SECONDS: u32 = 24 * 3600;
/// No cluster is asked to live longer.
const MAX_TTL_SECONDS: u32 = 30 * 24 * 3600;
/// Where jobs and commands run unless told otherwise: the volume.
const DEFAULT_DIRECTORY: &str = "/shared";
/// Linux's PATH_MAX.
const MAX_PATH: usize = 4096;

/// One end of a copy, on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CopyPath {
    pub(super) cluster: ClusterName,
    pub(super) node: u32,
    /// Absolute.
    pub(super) path: String,
}

pub(super) fn cluster_name(text: &str) -> Result<ClusterName, Error> {
    text.parse().map_err(|error| invalid(format!("{error}")))
}

pub(super) fn job(text: &str) -> Result<JobId, Error> {
    text.parse().map_err(|error| invalid(format!("{error}; `ec2mpi jobs NAME` lists them")))
}

/// Empty: none.
pub(super) fn optional_job(text: &str) -> Result<Option<JobId>, Error> {
    (!text.is_empty()).then(|| job(text)).transpose()
}

pub(super) fn cluster_spec(request: v1::CreateClusterRequest) -> Result<ClusterSpec, Error> {
    let name = cluster_name(&request.name)?;
    let nodes = request.nodes;
    within("nodes", nodes, 1, MAX_NODES)?;
    let min_nodes = if request.min_nodes == 0 { nodes } else { request.min_nodes };
    within("min_nodes", min_nodes, 1, nodes)?;
    within("slots_per_node", request.slots_per_node, 0, MAX_SLOTS)?;
    let timeout = timeout("timeout_seconds", request.timeout_seconds, DEFAULT_TIMEOUT)?;
    let instance_type = instance_type(request.instance_type)?;
    let ttl = ttl(request.ttl_seconds)?;
    Ok(ClusterSpec { name, nodes, min_nodes, timeout, instance_type, slots_per_node: request.slots_per_node, ttl })
}

pub(super) fn drain_timeout(seconds: u32) -> Result<Duration, Error> {
    timeout("drain_timeout_seconds", seconds, DEFAULT_DRAIN_TIMEOUT)
}

fn node_timeout(seconds: u32) -> Result<Duration, Error> {
    timeout("node_timeout_seconds", seconds, DEFAULT_NODE_TIMEOUT)
}

pub(super) fn run(request: v1::RunJobRequest) -> Result<(ClusterName, RunSpec), Error> {
    let cluster = cluster_name(&request.cluster)?;
    within("ranks", request.ranks, 1, MAX_RANKS)?;
    let spec = RunSpec {
        ranks: request.ranks,
        working_directory: directory(request.working_directory)?,
        environment: environment(request.environment)?,
        program: program(request.program)?,
        arguments: arguments("arguments", request.arguments)?,
        barrier: !request.no_barrier,
        mpi_arguments: arguments("mpi_arguments", request.mpi_arguments)?,
        node_timeout: node_timeout(request.node_timeout_seconds)?,
    };
    Ok((cluster, spec))
}

pub(super) fn exec(request: v1::ExecRequest) -> Result<(ClusterName, ExecSpec), Error> {
    let cluster = cluster_name(&request.cluster)?;
    let spec = ExecSpec {
        node: request.node,
        working_directory: directory(request.working_directory)?,
        environment: environment(request.environment)?,
        program: program(request.program)?,
        arguments: arguments("arguments", request.arguments)?,
        node_timeout: node_timeout(request.node_timeout_seconds)?,
    };
    Ok((cluster, spec))
}

pub(super) fn copy_target(target: v1::CopyTarget) -> Result<CopyPath, Error> {
    Ok(CopyPath { cluster: cluster_name(&target.cluster)?, node: target.node, path: path("path", target.path)? })
}

pub(super) fn copy_source(source: v1::CopyOutRequest) -> Result<CopyPath, Error> {
    Ok(CopyPath { cluster: cluster_name(&source.cluster)?, node: source.node, path: path("path", source.path)? })
}

fn instance_type(text: String) -> Result<String, Error> {
    let legal = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    if legal { Ok(text) } else { Err(invalid(format!("{text:?} is not an instance type, such as c7i.large"))) }
}

fn within(what: &str, number: u32, least: u32, most: u32) -> Result<(), Error> {
    if (least..=most).contains(&number) {
        return Ok(());
    }
    Err(invalid(format!("{what} is {number}, it has to be {least} to {most}")))
}

fn timeout(what: &str, seconds: u32, default: Duration) -> Result<Duration, Error> {
    within(what, seconds, 0, MAX_TIMEOUT_SECONDS)?;
    Ok(if seconds == 0 { default } else { Duration::from_secs(u64::from(seconds)) })
}

/// None: the cloud's default.
fn ttl(seconds: u32) -> Result<Option<Duration>, Error> {
    within("ttl_seconds", seconds, 0, MAX_TTL_SECONDS)?;
    Ok((seconds > 0).then(|| Duration::from_secs(u64::from(seconds))))
}

fn directory(text: String) -> Result<String, Error> {
    if text.is_empty() { Ok(DEFAULT_DIRECTORY.to_owned()) } else { path("working_directory", text) }
}

fn path(what: &str, text: String) -> Result<String, Error> {
    if text.starts_with('/') && text.len() < MAX_PATH && !text.contains('\0') {
        return Ok(text);
    }
    Err(invalid(format!("{what} {text:?} has to be an absolute path of less than {MAX_PATH} bytes")))
}

fn environment(variables: HashMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    for (name, value) in &variables {
        if !is_variable_name(name) {
            return Err(invalid(format!(
                "{name:?} is not the name of an environment variable: [A-Za-z_][A-Za-z0-9_]*"
            )));
        }
        if name == "EC2MPI_JOB" {
            return Err(invalid("EC2MPI_JOB is set by the coordinator; choose another name".into()));
        }
        without_zero(name, value)?;
    }
    Ok(variables.into_iter().collect())
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn program(text: String) -> Result<String, Error> {
    if text.is_empty() {
        return Err(invalid("the program is missing: give its path or name".into()));
    }
    without_zero("program", &text)?;
    Ok(text)
}

fn arguments(what: &str, words: Vec<String>) -> Result<Vec<String>, Error> {
    words.iter().try_for_each(|word| without_zero(what, word))?;
    Ok(words)
}

fn without_zero(what: &str, text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        Err(invalid(format!("{what} holds a zero byte, which no process can take")))
    } else {
        Ok(())
    }
}

fn invalid(why: String) -> Error {
    Error::Invalid(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str, nodes: u32, min_nodes: u32) -> Result<ClusterSpec, Error> {
        cluster_spec(v1::CreateClusterRequest { name: name.into(), nodes, min_nodes, ..Default::default() })
    }

    #[test]
    fn a_cluster_has_defaults() {
        let spec = create("demo", 4, 0).unwrap();
        assert_eq!((spec.nodes, spec.min_nodes, spec.timeout), (4, 4, Duration::from_secs(600)));
        assert_eq!((spec.instance_type.as_str(), spec.slots_per_node), ("", 0));
    }

    #[test]
    fn numbers_and_names_out_of_range_are_refused_with_the_range() {
        for (name, nodes, min, expected) in [
            ("demo", 0, 0, "nodes is 0, it has to be 1 to 1000"),
            ("demo", 10_000, 0, "nodes is 10000"),
            ("demo", 4, 5, "min_nodes is 5, it has to be 1 to 4"),
            ("De_mo", 4, 0, "\"De_mo\" is not a cluster name"),
            ("", 4, 0, "is not a cluster name"),
        ] {
            let error = create(name, nodes, min).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    fn request() -> v1::RunJobRequest {
        v1::RunJobRequest { cluster: "demo".into(), ranks: 2, program: "./a".into(), ..Default::default() }
    }

    #[test]
    fn a_run_defaults_to_the_volume_and_its_barriers() {
        let (cluster, spec) = run(request()).unwrap();
        assert_eq!(cluster.as_str(), "demo");
        assert_eq!((spec.working_directory.as_str(), spec.barrier), ("/shared", true));
    }

    #[test]
    fn bad_runs_are_refused() {
        let set = |name: &str, value: &str| HashMap::from([(name.to_owned(), value.to_owned())]);
        let cases: [(v1::RunJobRequest, &str); 8] = [
            (v1::RunJobRequest { ranks: 0, ..request() }, "ranks is 0"),
            (v1::RunJobRequest { program: String::new(), ..request() }, "program is missing"),
            (v1::RunJobRequest { program: "a\0b".into(), ..request() }, "zero byte"),
            (v1::RunJobRequest { arguments: vec!["\0".into()], ..request() }, "zero byte"),
            (v1::RunJobRequest { working_directory: "relative".into(), ..request() }, "absolute path"),
            (v1::RunJobRequest { environment: set("1A", ""), ..request() }, "\"1A\" is not the name"),
            (v1::RunJobRequest { environment: set("A=B", ""), ..request() }, "is not the name"),
            (v1::RunJobRequest { environment: set("EC2MPI_JOB", "x"), ..request() }, "set by the coordinator"),
        ];
        for (request, expected) in cases {
            let error = run(request).unwrap_err();
            assert!(matches!(&error, Error::Invalid(why) if why.contains(expected)), "{error}");
        }
    }

    #[test]
    fn jobs_and_copies_are_parsed() {
        assert_eq!(optional_job("").unwrap(), None);
        assert!(optional_job("x").unwrap_err().to_string().contains("is not a job id"));
        let target = |path: &str| copy_target(v1::CopyTarget { cluster: "demo".into(), node: 1, path: path.into() });
        assert_eq!(target("/shared/x").unwrap().node, 1);
        assert!(target("x").is_err());
        assert!(target(&format!("/{}", "x".repeat(4096))).is_err());
    }
}
