//! A node from its first boot on, against a coordinator over TLS: join, session, commands once by id, restart.
//! Needs root, as the agent does; without it there is nothing to see.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

#[path = "support/coordinator.rs"]
mod coordinator;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use coordinator::{Coordinator, DOCUMENT, Session};
use ec2mpi_agent::node;
use ec2mpi_agent::node::paths::Paths;
use ec2mpi_proto::v1::*;
use rcgen::{CertificateSigningRequestParams, PublicKeyData};
use tokio::task::JoinHandle;

const ID: &str = "j-0123456789ab";

/// Runs the test with a fresh machine. Every test is a process of its own, and none shares this variable.
fn with_machine<F: Future<Output = ()>>(test: impl FnOnce(Coordinator, tempfile::TempDir) -> F) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not root: nothing is tested here");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let metadata = coordinator::metadata_service().await;
        // SAFETY: the only reader of the environment is the agent, which is started below.
        unsafe { std::env::set_var("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{metadata}")) };
        let coordinator = Coordinator::start().await;
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        coordinator::machine(root.path(), &coordinator);
        test(coordinator, root).await;
    });
}

/// The agent's program where user mpi may run it, wherever this checkout is.
fn agent_in(root: &Path) -> PathBuf {
    let agent = root.join("ec2mpi-agent");
    if !agent.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_ec2mpi-agent"), &agent).unwrap();
    }
    agent
}

fn run_agent(root: &Path) -> JoinHandle<anyhow::Result<()>> {
    tokio::spawn(node::run(Paths::new(root), agent_in(root)))
}

fn start(marks: &Path) -> command::Command {
    let script = format!("echo ran >> {}; echo out; echo err >&2; exit 7", marks.display());
    command::Command::StartProcess(StartProcess {
        process_id: ID.into(),
        argv: vec!["sh".into(), "-c".into(), script],
        environment: Default::default(),
        working_directory: "/".into(),
    })
}

fn follow() -> command::Command {
    command::Command::FollowProcess(FollowProcess { process_id: ID.into(), stdout_offset: 1, stderr_offset: 0 })
}

async fn end(session: &mut Session) -> ProcessExit {
    session
        .next(|message| match message {
            agent_message::Message::Exit(exit) => Some(exit),
            _ => None,
        })
        .await
}

/// A place where user mpi may write.
fn marks(root: &Path) -> PathBuf {
    let dir = root.join("marks");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    dir.join("marks")
}

#[test]
fn a_node_joins_and_a_command_runs_once_across_sessions_and_restarts() {
    with_machine(|mut coordinator, root| async move {
        let agent = run_agent(root.path());
        let mut session = coordinator.session().await;
        let joins = coordinator.joins();
        assert_eq!(joins.len(), 2, "the first one was answered with UNAVAILABLE");
        assert_eq!(joins[1].identity_pkcs7, DOCUMENT);
        assert!(joins[1].ssh_host_public_key.starts_with("ssh-ed25519 "));
        assert_eq!(joins[0].ssh_host_public_key, joins[1].ssh_host_public_key);
        assert!(session.hello.process_ids.is_empty());
        assert!(session.hello.facts.as_ref().is_some_and(|facts| facts.cores > 0 && facts.phases.contains_key("join")));

        let marks = marks(root.path());
        session.command("c1", start(&marks)).await;
        session.command("c1", start(&marks)).await;
        assert_eq!(session.reply("c1").await.error, "");
        assert_eq!(session.reply("c1").await.error, "");
        session.command("c2", follow()).await;
        let output = session
            .next(|message| match message {
                agent_message::Message::Output(output) if output.stream == 1 => Some(output),
                _ => None,
            })
            .await;
        assert_eq!((output.offset, output.data.as_slice()), (1, b"ut\n".as_slice()));
        assert_eq!(end(&mut session).await.code, 7);

        drop(session);
        let mut session = coordinator.session().await;
        assert_eq!(session.hello.process_ids, [ID]);
        session.command("c1", start(&marks)).await;
        assert_eq!(session.reply("c1").await.error, "");

        agent.abort();
        drop(session);
        let _again = run_agent(root.path());
        let mut session = coordinator.session().await;
        assert_eq!(coordinator.joins().len(), 2, "what was joined once is not joined again");
        session.command("c1", start(&marks)).await;
        assert_eq!(session.reply("c1").await.error, "");
        session.command("c3", follow()).await;
        assert_eq!(end(&mut session).await.code, 7);
        assert_eq!(std::fs::read_to_string(&marks).unwrap(), "ran\n");
        assert_eq!(std::fs::metadata(&marks).unwrap().uid(), 2009);
    });
}

#[test]
fn a_node_whose_certificate_is_refused_joins_again_with_the_same_key() {
    with_machine(|mut coordinator, root| async move {
        coordinator.refuse_sessions(true);
        let _agent = run_agent(root.path());
        while coordinator.joins().len() < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        coordinator.refuse_sessions(false);
        coordinator.session().await;
        let keys: Vec<Vec<u8>> = coordinator
            .joins()
            .iter()
            .map(|join| {
                CertificateSigningRequestParams::from_pem(&join.csr_pem).unwrap().public_key.der_bytes().to_vec()
            })
            .collect();
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "one key for all joins");
    });
}

#[test]
fn a_coordinator_of_another_authority_is_told_nothing() {
    with_machine(|mut coordinator, root| async move {
        let impostor = Coordinator::start().await;
        let path = root.path().join("etc/ec2mpi/agent.toml");
        let config = std::fs::read_to_string(&path).unwrap();
        let (theirs, ours) = (impostor.address.to_string(), coordinator.address.to_string());
        std::fs::write(&path, config.replace(&ours, &theirs)).unwrap();
        let agent = run_agent(root.path());
        let tries = async {
            while impostor.connections() < 3 {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(coordinator::LIMIT, tries).await.expect("the agent tries again and again");
        assert!(!agent.is_finished(), "the right one may come back at this address");
        agent.abort();
        assert!(impostor.joins().is_empty(), "no document, no key, no request");
        assert!(!root.path().join("var/lib/ec2mpi/join.json").exists());

        std::fs::write(&path, config).unwrap();
        let _agent = run_agent(root.path());
        coordinator.session().await;
    });
}

#[test]
fn what_a_join_leaves_on_the_machine_is_complete_and_private_keys_are_private() {
    with_machine(|mut coordinator, root| async move {
        let _agent = run_agent(root.path());
        coordinator.session().await;
        let read = |path: &str| std::fs::read_to_string(root.path().join(path)).unwrap();
        assert!(read("etc/passwd").contains("mpi:*:2009:2009:"));
        assert!(read("etc/group").contains("mpi:x:2009:"));
        assert!(read("etc/hosts").contains("10.0.0.1 demo-0\n"));
        assert!(read("etc/ec2mpi/ssh/known_hosts").starts_with("@cert-authority "));
        assert!(read("etc/ec2mpi/ssh/sshd_config").contains("TrustedUserCAKeys"));
        assert!(read("home/mpi/.ssh/config").contains("Include "));
        for (path, owner, mode) in [
            ("var/lib/ec2mpi", 0, 0o700),
            ("var/lib/ec2mpi/node.key", 0, 0o600),
            ("etc/ec2mpi/ssh/ssh_host_ed25519_key", 0, 0o600),
            ("home/mpi/.ssh", 2009, 0o700),
            ("home/mpi/.ssh/id_ed25519", 2009, 0o600),
        ] {
            let meta = std::fs::metadata(root.path().join(path)).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (owner, mode), "{path}");
        }
        let membership = read("var/lib/ec2mpi/join.json");
        assert!(!membership.contains("PRIVATE") && membership.contains("demo-0"));
    });
}

#[test]
fn bad_and_unknown_commands_are_answered_and_the_session_goes_on() {
    with_machine(|mut coordinator, root| async move {
        let _agent = run_agent(root.path());
        let mut session = coordinator.session().await;
        let unknown = Command { id: "u".into(), command: None };
        let message = CoordinatorMessage { message: Some(coordinator_message::Message::Command(unknown)) };
        session.to_node.send(Ok(message)).await.unwrap();
        assert!(session.reply("u").await.error.contains("does not know"));
        let forget = ForgetProcess { process_id: "../../etc".into() };
        session.command("f", command::Command::ForgetProcess(forget)).await;
        assert!(session.reply("f").await.error.contains("not a process id"));
        session.command("d", command::Command::Drain(Drain { timeout_seconds: 1 })).await;
        assert!(session.reply("d").await.error.contains("no volume answers"));
        let write = WriteHostfile { process_id: ID.into(), text: "10.0.0.1 slots=2\n".into() };
        session.command("h", command::Command::WriteHostfile(write)).await;
        let path = session.reply("h").await.value;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "10.0.0.1 slots=2\n");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    });
}

#[test]
fn files_go_in_and_out_as_the_user_of_the_jobs() {
    with_machine(|mut coordinator, root| async move {
        let _agent = run_agent(root.path());
        let mut session = coordinator.session().await;
        let target = marks(root.path());
        let content = vec![42; 300_000];
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        tar.append_data(&mut header, "data", content.as_slice()).unwrap();
        let tar = tar.into_inner().unwrap();

        session.command("in", transfer("t-in", transfer::Direction::In, &target)).await;
        let mut copy = coordinator.copy().await;
        assert_eq!(copy.from_node.message().await.unwrap().unwrap().transfer_id, "t-in");
        for chunk in tar.chunks(ec2mpi_proto::CHUNK_BYTES) {
            let frame = TransferFrame { data: chunk.to_vec(), ..Default::default() };
            copy.to_node.send(Ok(frame)).await.unwrap();
        }
        copy.to_node.send(Ok(TransferFrame { end: true, ..Default::default() })).await.unwrap();
        let last = copy.from_node.message().await.unwrap().unwrap();
        assert!(last.end && last.error.is_empty(), "{}", last.error);
        drop(copy);
        assert_eq!(session.reply("in").await.error, "");
        let meta = std::fs::metadata(&target).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777, meta.len()), (2009, 0o640, 300_000));

        session.command("out", transfer("t-out", transfer::Direction::Out, &target)).await;
        let packed = taken(coordinator.copy().await).await.unwrap();
        assert_eq!(session.reply("out").await.error, "");
        let mut archive = tar::Archive::new(packed.as_slice());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new("marks"));
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut unpacked).unwrap();
        assert!(unpacked == content);

        // Root's secrets are out of reach of a copy.
        let secret = Path::new(&root.path().join("var/lib/ec2mpi/node.key")).to_owned();
        session.command("no", transfer("t-no", transfer::Direction::Out, &secret)).await;
        let error = taken(coordinator.copy().await).await.unwrap_err();
        assert!(error.contains("Permission denied"), "{error}");
        assert_eq!(session.reply("no").await.error, error);
    });
}

fn transfer(id: &str, direction: transfer::Direction, path: &Path) -> command::Command {
    let path = path.to_str().unwrap().to_owned();
    command::Command::Transfer(Transfer { transfer_id: id.into(), direction: direction.into(), path })
}

/// Takes a copy that goes out: its bytes, or its error.
async fn taken(mut copy: coordinator::Copy) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::time::timeout(coordinator::LIMIT, copy.from_node.message()).await.unwrap().unwrap().unwrap();
        bytes.extend_from_slice(&frame.data);
        if frame.end {
            return if frame.error.is_empty() { Ok(bytes) } else { Err(frame.error) };
        }
    }
}
