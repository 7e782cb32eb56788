//! Between messages of the wire and the registry's words.

use bytes::Bytes;
use ec2mpi_proto::id::JobId;
use ec2mpi_proto::v1::{self, command, process_output, transfer, volume_status};

use crate::mpi::Installation;
use crate::registry::{Direction, Facts, Peer, ProcessEvent, Request, VolumeCondition, VolumeState};

pub(super) fn facts(facts: v1::NodeFacts, boot_id: String) -> Facts {
    let installation =
        |mpi: v1::MpiInstallation| Installation { family: mpi.family, version: mpi.version, mpirun: mpi.mpirun };
    Facts {
        boot_id,
        cores: facts.cores,
        memory_bytes: facts.memory_bytes,
        architecture: facts.architecture,
        mpi: facts.mpi.into_iter().map(installation).collect(),
        phases: facts.phases.into_iter().filter(|(_, at)| at.is_finite()).collect(),
    }
}

pub(super) fn volume(volume: v1::VolumeStatus) -> VolumeState {
    VolumeState {
        condition: match volume.state() {
            volume_status::State::Unspecified | volume_status::State::Starting => VolumeCondition::Starting,
            volume_status::State::Mounted => VolumeCondition::Mounted,
            volume_status::State::Failed => VolumeCondition::Failed,
        },
        dirty_files: volume.dirty_files,
        dirty_bytes: volume.dirty_bytes,
        failed_files: volume.failed_files,
        message: volume.message,
    }
}

pub(super) fn output(output: v1::ProcessOutput) -> Result<(JobId, ProcessEvent), &'static str> {
    let stderr = match output.stream() {
        process_output::Stream::Stdout => false,
        process_output::Stream::Stderr => true,
        process_output::Stream::Unspecified => return Err("output of no stream came"),
    };
    let event = ProcessEvent::Output { stderr, offset: output.offset, data: Bytes::from(output.data) };
    Ok((job(&output.process_id)?, event))
}

pub(super) fn exit(exit: v1::ProcessExit) -> Result<(JobId, ProcessEvent), &'static str> {
    let event = ProcessEvent::Exit { code: exit.code, signal: exit.signal, error: exit.error };
    Ok((job(&exit.process_id)?, event))
}

fn job(text: &str) -> Result<JobId, &'static str> {
    text.parse().map_err(|_| "a process id came that is no job id")
}

pub(super) fn command(id: String, request: Request) -> v1::Command {
    v1::Command { id, command: Some(payload(request)) }
}

fn payload(request: Request) -> command::Command {
    use command::Command as C;
    match request {
        Request::SetPeers(peers) => C::SetPeers(v1::SetPeers { peers: peers.into_iter().map(identity).collect() }),
        Request::Drain { timeout } => C::Drain(v1::Drain { timeout_seconds: whole_seconds(timeout) }),
        Request::RaiseEpoch => C::RaiseEpoch(v1::RaiseEpoch {}),
        Request::StartProcess { job, argv, environment, working_directory } => C::StartProcess(v1::StartProcess {
            process_id: job.to_string(),
            argv,
            environment: environment.into_iter().collect(),
            working_directory,
        }),
        Request::SignalProcess { job, signal } => {
            C::SignalProcess(v1::SignalProcess { process_id: job.to_string(), signal })
        }
        Request::KillJob { job } => C::KillJob(v1::KillJob { process_id: job.to_string() }),
        Request::FollowProcess { job, stdout_offset, stderr_offset } => {
            C::FollowProcess(v1::FollowProcess { process_id: job.to_string(), stdout_offset, stderr_offset })
        }
        Request::ForgetProcess { job } => C::ForgetProcess(v1::ForgetProcess { process_id: job.to_string() }),
        Request::WriteHostfile { job, text } => {
            C::WriteHostfile(v1::WriteHostfile { process_id: job.to_string(), text })
        }
        Request::Transfer { id, direction, path } => {
            C::Transfer(v1::Transfer { transfer_id: id, direction: wire_direction(direction).into(), path })
        }
    }
}

/// At least one: 0 would be no limit to some readers.
fn whole_seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}

fn wire_direction(direction: Direction) -> transfer::Direction {
    match direction {
        Direction::In => transfer::Direction::In,
        Direction::Out => transfer::Direction::Out,
    }
}

fn identity(peer: Peer) -> v1::NodeIdentity {
    v1::NodeIdentity {
        cluster: peer.cluster.to_string(),
        cluster_id: peer.cluster_id.to_string(),
        index: peer.index,
        host_name: peer.host_name,
        instance_id: peer.instance.to_string(),
        address: peer.address.to_string(),
    }
}
