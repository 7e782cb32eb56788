//! What the coordinator may ask of a node, and the one match that does it. Here the node meets the volume: through its
//! control socket only.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::exec::{Executor, StartProcess};
use super::hosts::{self, Peer};
use super::paths::Paths;
use super::spool::ProcessId;
use crate::volume::control;

/// Answers that are remembered. A coordinator repeats a command within minutes, if at all.
const MEMORY: usize = 4096;
/// What a raise of the epoch may take.
const EPOCH_LIMIT: Duration = Duration::from_secs(30);
/// What the answer to a drain may take beyond the drain's own limit.
const ANSWER_GRACE: Duration = Duration::from_secs(10);

/// One command, checked. Copies and followed output belong to the session, which carries their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    SetPeers(Vec<Peer>),
    Drain { timeout: Duration },
    RaiseEpoch,
    StartProcess(StartProcess),
    SignalProcess { id: ProcessId, signal: Signal },
    KillJob { id: ProcessId },
    ForgetProcess { id: ProcessId },
    WriteHostfile { id: ProcessId, text: String },
}

/// What came of a command: a value, or an error for people.
pub type Outcome = Result<String, String>;

/// Runs commands, each id once.
#[derive(Debug, Clone)]
pub struct Commander {
    paths: Paths,
    executor: Executor,
    answered: Arc<Mutex<Answered>>,
    /// Numbers commands as they come.
    sequence: Arc<AtomicU64>,
    /// The number of the last SetPeers that was carried out.
    newest_peers: Arc<tokio::sync::Mutex<u64>>,
}

/// The outcome of a command that was begun.
#[derive(Debug)]
pub struct Pending(watch::Receiver<Option<Outcome>>);

impl Pending {
    /// Waits for it.
    pub async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err("no outcome".to_owned())),
            Err(_) => Err("the agent failed while it ran the command".to_owned()),
        }
    }
}

/// The outcomes by id, oldest first in `order`.
#[derive(Debug, Default)]
struct Answered {
    outcomes: HashMap<String, watch::Receiver<Option<Outcome>>>,
    order: VecDeque<String>,
}

impl Commander {
    /// Commands of this node.
    pub fn new(paths: Paths, executor: Executor) -> Self {
        Self { paths, executor, answered: Arc::default(), sequence: Arc::default(), newest_peers: Arc::default() }
    }

    /// Begins the command unless its id was seen before; [`Pending`] has the outcome of its one run. The run goes on
    /// when the caller is dropped: a session that breaks does not undo half a command.
    pub fn begin(&self, id: &str, command: Command) -> Pending {
        let number = self.sequence.fetch_add(1, Ordering::Relaxed);
        let this = self.clone();
        self.once(id, async move { this.run(number, command).await })
    }

    /// Begins the work unless its id was seen before.
    pub fn once(&self, id: &str, work: impl Future<Output = anyhow::Result<String>> + Send + 'static) -> Pending {
        let mut answered = self.answered.lock();
        if let Some(outcome) = answered.outcomes.get(id) {
            return Pending(outcome.clone());
        }
        let (sender, receiver) = watch::channel(None);
        answered.remember(id, receiver.clone());
        tokio::spawn(async move {
            let outcome = work.await.map_err(|error| format!("{error:#}"));
            let _ = sender.send(Some(outcome));
        });
        Pending(receiver)
    }

    async fn run(&self, number: u64, command: Command) -> anyhow::Result<String> {
        match command {
            Command::SetPeers(peers) => self.set_peers(number, &peers).await?,
            Command::Drain { timeout } => self.drain(timeout).await?,
            Command::RaiseEpoch => self.ask_volume(&control::Request::Epoch, EPOCH_LIMIT).await?,
            Command::StartProcess(request) => self.executor.start(&request).await?,
            Command::SignalProcess { id, signal } => self.executor.signal(&id, signal)?,
            Command::KillJob { id } => self.executor.kill_job(&id).await?,
            Command::ForgetProcess { id } => self.executor.forget(&id)?,
            Command::WriteHostfile { id, text } => return self.write_hostfile(&id, &text),
        }
        Ok(String::new())
    }

    /// Commands run side by side; of two lists of peers the one that came last must win.
    async fn set_peers(&self, number: u64, peers: &[Peer]) -> anyhow::Result<()> {
        let mut newest = self.newest_peers.lock().await;
        if number >= *newest {
            hosts::write(&self.paths.hosts(), peers).context("cannot write the hosts file")?;
            *newest = number;
        }
        Ok(())
    }

    fn write_hostfile(&self, id: &ProcessId, text: &str) -> anyhow::Result<String> {
        let path: PathBuf = self.executor.write_hostfile(id, text)?;
        Ok(path.display().to_string())
    }

    async fn drain(&self, timeout: Duration) -> anyhow::Result<()> {
        let request = control::Request::Drain { timeout_seconds: timeout.as_secs() };
        self.ask_volume(&request, timeout + ANSWER_GRACE).await
    }

    async fn ask_volume(&self, request: &control::Request, limit: Duration) -> anyhow::Result<()> {
        let answer = control::call(&self.paths.volume_socket(), request, limit).await?;
        if !answer.ok {
            bail!("{}", answer.error.unwrap_or_else(|| "the volume refused".to_owned()));
        }
        Ok(())
    }
}

impl Answered {
    fn remember(&mut self, id: &str, outcome: watch::Receiver<Option<Outcome>>) {
        self.outcomes.insert(id.to_owned(), outcome);
        self.order.push_back(id.to_owned());
        if self.order.len() > MEMORY
            && let Some(oldest) = self.order.pop_front()
        {
            self.outcomes.remove(&oldest);
        }
    }
}

/// The signal of a number; only those that end a job are let through.
pub fn ending_signal(number: i32) -> Result<Signal, String> {
    match Signal::try_from(number) {
        Ok(signal @ (Signal::SIGINT | Signal::SIGTERM | Signal::SIGKILL)) => Ok(signal),
        _ => Err(format!("signal {number} is none of SIGINT, SIGTERM and SIGKILL")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::membership::User;
    use super::*;
    use std::net::Ipv4Addr;

    fn commander(root: &std::path::Path) -> Commander {
        let paths = Paths::new(root);
        std::fs::create_dir_all(root.join("etc")).unwrap();
        let user = User { name: "mpi".into(), id: 2009, home: "/home/mpi".into() };
        Commander::new(paths.clone(), Executor::new(paths, user, "/bin/true".into()))
    }

    fn peers(last: u8) -> Command {
        Command::SetPeers(vec![Peer { host_name: "demo-0".into(), address: Ipv4Addr::new(10, 0, 0, last) }])
    }

    #[tokio::test]
    async fn a_repeated_id_is_answered_and_not_run_again() {
        let root = tempfile::tempdir().unwrap();
        let commander = commander(root.path());
        assert_eq!(commander.begin("a", peers(1)).outcome().await, Ok(String::new()));
        assert_eq!(commander.begin("a", peers(2)).outcome().await, Ok(String::new()));
        let hosts = std::fs::read_to_string(root.path().join("etc/hosts")).unwrap();
        assert!(hosts.contains("10.0.0.1 ") && !hosts.contains("10.0.0.2 "), "{hosts}");
        commander.begin("b", peers(2)).outcome().await.unwrap();
        assert!(std::fs::read_to_string(root.path().join("etc/hosts")).unwrap().contains("10.0.0.2 "));
    }

    #[tokio::test]
    async fn a_failure_is_remembered_too() {
        let root = tempfile::tempdir().unwrap();
        let commander = commander(root.path());
        let first = commander.begin("d", Command::RaiseEpoch).outcome().await.unwrap_err();
        assert!(first.contains("no volume answers"), "{first}");
        assert_eq!(commander.begin("d", Command::RaiseEpoch).outcome().await.unwrap_err(), first);
    }

    #[tokio::test]
    async fn the_last_list_of_peers_wins() {
        let root = tempfile::tempdir().unwrap();
        let commander = commander(root.path());
        let Command::SetPeers(old) = peers(1) else { panic!("no peers") };
        commander.run(7, peers(2)).await.unwrap();
        commander.set_peers(6, &old).await.unwrap();
        assert!(std::fs::read_to_string(root.path().join("etc/hosts")).unwrap().contains("10.0.0.2 "));
    }

    #[test]
    fn only_ending_signals_pass() {
        assert_eq!(ending_signal(2), Ok(Signal::SIGINT));
        assert!(ending_signal(19).is_err());
        assert!(ending_signal(0).is_err());
    }
}
