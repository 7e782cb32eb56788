//! Processes that run by command: started through a wrapper that outlives the agent, signalled, swept away.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::membership::User;
use super::paths::Paths;
use super::procfs;
use super::spool::{Exit, Order, ProcessId, Spool, State};
use crate::durable;

/// How long a wrapper may take until its process runs.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long processes get between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// How long KillJob goes on killing what appears again.
const KILL_LIMIT: Duration = Duration::from_secs(10);

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Marks every process of a job, wherever it runs.
pub const JOB_VARIABLE: &str = "EC2MPI_JOB";

/// What `StartProcess` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartProcess {
    pub id: ProcessId,
    pub argv: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub working_directory: PathBuf,
}

/// Starts and signals processes as one user, with the spool under `paths`.
#[derive(Debug, Clone)]
pub struct Executor {
    paths: Paths,
    user: User,
    agent_binary: PathBuf,
}

impl Executor {
    /// `agent_binary` is run as the wrapper.
    pub fn new(paths: Paths, user: User, agent_binary: PathBuf) -> Self {
        Self { paths, user, agent_binary }
    }

    /// The user that processes run as.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The program of the agent, for children that do its work as another user.
    pub fn agent_binary(&self) -> &Path {
        &self.agent_binary
    }

    /// The spool of a process.
    pub fn spool(&self, id: &ProcessId) -> Spool {
        Spool::new(self.paths.job(id))
    }

    /// Every process that has a spool here, ended or not.
    pub fn known(&self) -> Vec<ProcessId> {
        let entries = std::fs::read_dir(self.paths.jobs_dir()).ok().into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Starts the process once by its id: a repeated call is Ok and starts nothing. Returns when it runs or has ended.
    pub async fn start(&self, request: &StartProcess) -> anyhow::Result<()> {
        let spool = self.spool(&request.id);
        if self.spawn_wrapper(&spool, request)? {
            info!(process = %request.id, "process started");
        }
        let limit = Instant::now() + START_LIMIT;
        while spool.running()?.is_none() && spool.exit()?.is_none() {
            if Instant::now() > limit || !matches!(spool.state()?, State::Running | State::Ended(_)) {
                bail!("the wrapper of process {} did not start it", request.id);
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// False when the process was begun before.
    fn spawn_wrapper(&self, spool: &Spool, request: &StartProcess) -> anyhow::Result<bool> {
        durable::create_dirs(spool.dir(), 0o700).context("cannot make the spool directory")?;
        let Some(lock) = spool.try_lock().context("cannot lock the spool")? else { return Ok(false) };
        if spool.is_started() || spool.exit()?.is_some() {
            return Ok(false);
        }
        spool.write_order(&self.order(request)).context("cannot write the order")?;
        let mut child = Command::new(&self.agent_binary)
            .arg("job")
            .arg(spool.dir())
            .env_clear()
            .stdin(Stdio::from(lock))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", self.agent_binary.display()))?;
        // Reaped here while the agent lives, by init afterwards.
        std::thread::spawn(move || child.wait());
        Ok(true)
    }

    fn order(&self, request: &StartProcess) -> Order {
        Order {
            argv: request.argv.clone(),
            environment: environment(&self.user, &request.id, &request.environment).into_iter().collect(),
            working_directory: request.working_directory.clone(),
            uid: self.user.id,
            gid: self.user.id,
        }
    }

    /// Signals the process group. No such process is fine.
    pub fn signal(&self, id: &ProcessId, signal: Signal) -> anyhow::Result<()> {
        let spool = self.spool(id);
        if spool.state()? != State::Running {
            return Ok(());
        }
        let Some(running) = spool.running()? else { return Ok(()) };
        if procfs::start_ticks(running.pid) != Some(running.start_ticks) {
            return Ok(());
        }
        match killpg(Pid::from_raw(running.pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => bail!("cannot signal process {id}: {errno}"),
        }
    }

    /// Ends every process of the user whose environment names the job: SIGTERM, 2 s later SIGKILL.
    pub async fn kill_job(&self, id: &ProcessId) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut termed = std::collections::HashSet::new();
        loop {
            let left = self.processes_of(id).await?;
            if left.is_empty() {
                return Ok(());
            }
            if started.elapsed() > KILL_LIMIT {
                bail!("processes of {id} do not end: {left:?}");
            }
            for pid in left {
                if started.elapsed() >= TERM_GRACE {
                    warn!(pid, process = %id, "killing a process that was left");
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                } else if termed.insert(pid) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn processes_of(&self, id: &ProcessId) -> anyhow::Result<Vec<i32>> {
        let (uid, assignment) = (self.user.id, format!("{JOB_VARIABLE}={id}"));
        Ok(tokio::task::spawn_blocking(move || procfs::with_environment(uid, &assignment)).await?)
    }

    /// Removes the spool of a process that is not running.
    pub fn forget(&self, id: &ProcessId) -> anyhow::Result<()> {
        let spool = self.spool(id);
        match spool.state()? {
            State::Unknown => Ok(()),
            State::Running => bail!("process {id} is running"),
            State::Idle | State::Lost | State::Ended(_) => {
                let _ = durable::remove(&self.paths.hostfiles_dir().join(id.as_str()));
                std::fs::remove_dir_all(spool.dir()).with_context(|| format!("cannot remove the spool of {id}"))
            }
        }
    }

    /// Writes the end of a process whose wrapper died without doing so, and ends what it left running.
    pub async fn settle_lost(&self, id: &ProcessId) -> anyhow::Result<Exit> {
        if let Err(error) = self.kill_job(id).await {
            warn!(process = %id, error = format!("{error:#}"), "cannot sweep a lost process");
        }
        let error = "the node was restarted, or the wrapper of the process killed, while it ran".to_owned();
        let exit = Exit { code: 128 + libc::SIGKILL, signal: libc::SIGKILL, error };
        self.spool(id).write_exit(&exit)?;
        Ok(exit)
    }

    /// Stores the hostfile of a job where its user can read it, and tells where.
    pub fn write_hostfile(&self, id: &ProcessId, text: &str) -> anyhow::Result<PathBuf> {
        let dir = self.paths.hostfiles_dir();
        durable::create_dirs(&dir, 0o755).context("cannot make the directory of hostfiles")?;
        let path = dir.join(id.as_str());
        durable::overwrite(&path, 0o644, text.as_bytes()).context("cannot write the hostfile")?;
        Ok(path)
    }
}

/// A clean environment for the user's process, with the command's own variables over it. The job's mark comes last:
/// cancelling finds processes by it.
fn environment(user: &User, id: &ProcessId, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let base = [
        ("PATH", PATH),
        ("HOME", user.home.as_str()),
        ("USER", user.name.as_str()),
        ("LOGNAME", user.name.as_str()),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
    ];
    let mut all: BTreeMap<String, String> = base.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    all.extend(own.iter().filter(|(key, _)| is_variable(key)).map(|(key, value)| (key.clone(), value.clone())));
    all.insert(JOB_VARIABLE.to_owned(), id.to_string());
    all
}

fn is_variable(key: &str) -> bool {
    !key.is_empty() && !key.contains(['=', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_clean_and_carries_the_job() {
        let user = User { name: "mpi".into(), id: 2009, home: "/home/mpi".into() };
        let own = BTreeMap::from([
            ("LANG".to_owned(), "de_DE".to_owned()),
            ("EC2MPI_JOB".to_owned(), "forged".to_owned()),
            ("A=B".to_owned(), "x".to_owned()),
        ]);
        let all = environment(&user, &"j-1".parse().unwrap(), &own);
        assert_eq!(all["LANG"], "de_DE");
        assert_eq!(all["EC2MPI_JOB"], "j-1");
        assert_eq!(all["HOME"], "/home/mpi");
        assert_eq!(all.len(), 7);
    }

    #[test]
    fn a_hostfile_is_readable_by_all_and_forgotten_with_its_job() {
        let dir = tempfile::tempdir().unwrap();
        let user = User { name: "mpi".into(), id: 2009, home: "/home/mpi".into() };
        let executor = Executor::new(Paths::new(dir.path()), user, "/bin/true".into());
        let id: ProcessId = "j-1".parse().unwrap();
        let path = executor.write_hostfile(&id, "10.0.0.1 slots=2\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "10.0.0.1 slots=2\n");
        std::fs::create_dir_all(executor.spool(&id).dir()).unwrap();
        assert_eq!(executor.known(), std::slice::from_ref(&id));
        executor.forget(&id).unwrap();
        assert!(!path.exists());
        assert!(executor.known().is_empty());
    }
}
