//! Between messages and what they mean; what is illegal is refused here.

use std::time::Duration;

use ec2mpi_proto::v1::{self, agent_message, command, process_output};

use crate::node::command::{Command, ending_signal};
use crate::node::exec::StartProcess;
use crate::node::facts;
use crate::node::hosts::Peer;
use crate::node::output::{Followed, Stream};
use crate::node::paths::Paths;
use crate::node::spool::ProcessId;

/// The longest drain that may be asked for.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 3600);

/// A command that is run once by its id.
pub(super) fn command(command: command::Command) -> Result<Command, String> {
    Ok(match command {
        command::Command::SetPeers(peers) => Command::SetPeers(self::peers(peers.peers)?),
        command::Command::Drain(drain) => {
            Command::Drain { timeout: Duration::from_secs(drain.timeout_seconds.into()).min(LONGEST_DRAIN) }
        }
        command::Command::RaiseEpoch(_) => Command::RaiseEpoch,
        command::Command::StartProcess(start) => Command::StartProcess(start_process(start)?),
        command::Command::SignalProcess(signal) => {
            Command::SignalProcess { id: signal.process_id.parse()?, signal: ending_signal(signal.signal)? }
        }
        command::Command::KillJob(kill) => Command::KillJob { id: kill.process_id.parse()? },
        command::Command::ForgetProcess(forget) => Command::ForgetProcess { id: forget.process_id.parse()? },
        command::Command::WriteHostfile(write) => {
            Command::WriteHostfile { id: write.process_id.parse()?, text: write.text }
        }
        command::Command::FollowProcess(_) | command::Command::Transfer(_) => {
            return Err("this command belongs to the session".to_owned());
        }
    })
}

fn peers(peers: Vec<v1::NodeIdentity>) -> Result<Vec<Peer>, String> {
    let peer = |node: v1::NodeIdentity| {
        if node.host_name.is_empty() || !node.host_name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(format!("{:?} is not a host name", node.host_name));
        }
        let address = node.address.parse().map_err(|_| format!("peer {}: no address", node.host_name))?;
        Ok(Peer { host_name: node.host_name, address })
    };
    peers.into_iter().map(peer).collect()
}

fn start_process(start: v1::StartProcess) -> Result<StartProcess, String> {
    if start.argv.first().is_none_or(String::is_empty) {
        return Err("no program was named".to_owned());
    }
    if !start.working_directory.starts_with('/') {
        return Err(format!("working directory {:?} is not absolute", start.working_directory));
    }
    Ok(StartProcess {
        id: start.process_id.parse()?,
        argv: start.argv,
        environment: start.environment.into_iter().collect(),
        working_directory: start.working_directory.into(),
    })
}

/// One event of a followed process.
pub(super) fn followed(id: &ProcessId, event: Followed) -> v1::AgentMessage {
    let process_id = id.to_string();
    let message = match event {
        Followed::Output { stream, offset, data } => agent_message::Message::Output(v1::ProcessOutput {
            process_id,
            stream: match stream {
                Stream::Stdout => process_output::Stream::Stdout as i32,
                Stream::Stderr => process_output::Stream::Stderr as i32,
            },
            offset,
            data: data.into(),
        }),
        Followed::Exit(exit) => agent_message::Message::Exit(v1::ProcessExit {
            process_id,
            code: exit.code,
            signal: exit.signal,
            error: exit.error,
        }),
    };
    super::message(message)
}

/// What this node is.
pub(super) async fn facts(paths: &Paths) -> v1::NodeFacts {
    let mpi = facts::mpi().await.iter().map(|found| v1::MpiInstallation {
        family: found.family.to_owned(),
        version: found.version.clone(),
        mpirun: found.mpirun.clone(),
    });
    v1::NodeFacts {
        cores: facts::cores(),
        memory_bytes: facts::memory_bytes(),
        architecture: std::env::consts::ARCH.to_owned(),
        mpi: mpi.collect(),
        phases: facts::phases(paths).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(argv: &[&str], dir: &str) -> Result<StartProcess, String> {
        start_process(v1::StartProcess {
            process_id: "j-1".into(),
            argv: argv.iter().map(ToString::to_string).collect(),
            working_directory: dir.into(),
            ..Default::default()
        })
    }

    #[test]
    fn illegal_commands_are_refused() {
        assert!(start(&["ls"], "/").is_ok());
        assert!(start(&[], "/").unwrap_err().contains("no program"));
        assert!(start(&["ls"], "tmp").unwrap_err().contains("not absolute"));
        let forget = v1::ForgetProcess { process_id: "../x".into() };
        assert!(command(command::Command::ForgetProcess(forget)).is_err());
        let node = v1::NodeIdentity { host_name: "a\n1.2.3.4 b".into(), ..Default::default() };
        assert!(peers(vec![node]).is_err());
    }
}
