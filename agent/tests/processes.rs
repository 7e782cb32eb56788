//! Processes run by command, with the real wrapper: exit codes, output, signals, once by id.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ec2mpi_agent::node::exec::{Executor, StartProcess};
use ec2mpi_agent::node::membership::User;
use ec2mpi_agent::node::output::{self, Followed};
use ec2mpi_agent::node::paths::Paths;
use ec2mpi_agent::node::spool::{Exit, Order, ProcessId, Spool};
use nix::sys::signal::Signal;

const AGENT: &str = env!("CARGO_BIN_EXE_ec2mpi-agent");

/// As root the wrapper becomes another user; otherwise it stays who it is.
fn user_id() -> u32 {
    let own = nix::unistd::geteuid();
    if own.is_root() { 2009 } else { own.as_raw() }
}

fn executor(root: &Path) -> Executor {
    let user = User { name: "mpi".into(), id: user_id(), home: "/home/mpi".into() };
    Executor::new(Paths::new(root), user, PathBuf::from(AGENT))
}

fn order(argv: &[&str]) -> Order {
    Order {
        argv: argv.iter().map(ToString::to_string).collect(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into()), ("GREETING".into(), "hello".into())],
        working_directory: "/".into(),
        uid: user_id(),
        gid: user_id(),
    }
}

/// Runs one order to its end: exit, stdout, stderr.
fn run(order: &Order) -> (Exit, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::new(dir.path());
    spool.write_order(order).unwrap();
    let status = Command::new(AGENT).arg("job").arg(dir.path()).status().unwrap();
    assert!(status.success(), "{status}");
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    (spool.exit().unwrap().unwrap(), read(spool.stdout()), read(spool.stderr()))
}

fn start(id: &str, script: &str) -> StartProcess {
    StartProcess {
        id: id.parse().unwrap(),
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        environment: BTreeMap::new(),
        working_directory: "/".into(),
    }
}

async fn end_of(executor: &Executor, id: &ProcessId) -> Exit {
    let began = Instant::now();
    loop {
        if let Some(exit) = executor.spool(id).exit().unwrap() {
            return exit;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{id} does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn code_signal_and_output_are_those_of_the_program() {
    let (exit, out, err) = run(&order(&["sh", "-c", "echo $GREETING; echo oops >&2; exit 7"]));
    assert_eq!(exit, Exit { code: 7, signal: 0, error: String::new() });
    assert_eq!((out.as_str(), err.as_str()), ("hello\n", "oops\n"));
    let (exit, ..) = run(&order(&["sh", "-c", "kill -TERM $$"]));
    assert_eq!((exit.code, exit.signal), (143, 15));
}

#[test]
fn what_cannot_be_run_ends_as_in_a_shell() {
    let (exit, _, err) = run(&order(&["no-such-program"]));
    assert_eq!((exit.code, err.as_str()), (127, "ec2mpi: no-such-program: not found\n"));
    let (exit, _, err) = run(&order(&["/etc/passwd"]));
    assert_eq!(exit.code, 126);
    assert!(err.contains("/etc/passwd: cannot be run"), "{err}");
    let lost = Order { working_directory: "/no/such/dir".into(), ..order(&["true"]) };
    let (exit, _, err) = run(&lost);
    assert_eq!(exit.code, 126);
    assert!(err.contains("cannot enter working directory /no/such/dir"), "{err}");
}

#[test]
fn the_process_has_its_own_session_user_environment_and_no_input() {
    let script = "read line || echo no input; id -u; id -G; env | sort | grep -v ^_=; ps -o pid=,pgid=,sid= -p $$";
    let (exit, out, err) = run(&order(&["sh", "-c", script]));
    assert_eq!(exit.code, 0, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "no input");
    assert_eq!(lines[1], user_id().to_string());
    if nix::unistd::geteuid().is_root() {
        assert_eq!(lines[2], user_id().to_string(), "no groups of root's are left");
    }
    let environment: Vec<&&str> = lines.iter().filter(|line| line.contains('=') && !line.starts_with("PWD=")).collect();
    assert_eq!(environment, [&"GREETING=hello", &"PATH=/usr/bin:/bin"]);
    let ids: Vec<&str> = lines.last().unwrap().split_whitespace().collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "leader of group and session: {ids:?}");
}

#[test]
fn a_script_without_interpreter_is_the_shells() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "echo got $1\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (exit, out, _) = run(&order(&[script.to_str().unwrap(), "this"]));
    assert_eq!((exit.code, out.as_str()), (0, "got this\n"));
}

#[test]
fn an_order_is_never_carried_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::new(dir.path());
    spool.write_order(&order(&["echo", "once"])).unwrap();
    let wrapper = || Command::new(AGENT).arg("job").arg(dir.path()).output().unwrap();
    assert!(wrapper().status.success());
    assert!(!wrapper().status.success());
    assert_eq!(std::fs::read_to_string(spool.stdout()).unwrap(), "once\n");
}

#[tokio::test]
async fn a_repeated_start_starts_nothing() {
    let root = tempfile::tempdir().unwrap();
    let executor = executor(root.path());
    let request = start("j-1", "echo run; sleep 0.3");
    let (one, two) = tokio::join!(executor.start(&request), executor.start(&request));
    one.unwrap();
    two.unwrap();
    assert_eq!(end_of(&executor, &request.id).await.code, 0);
    executor.start(&request).await.unwrap();
    assert_eq!(std::fs::read_to_string(executor.spool(&request.id).stdout()).unwrap(), "run\n");
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group_and_output_is_followed_to_the_end() {
    let root = tempfile::tempdir().unwrap();
    let executor = executor(root.path());
    let request = start("j-2", "echo begun; sleep 60 & wait");
    executor.start(&request).await.unwrap();
    let (to, mut followed) = tokio::sync::mpsc::channel(4);
    tokio::spawn(output::follow(executor.clone(), request.id.clone(), [0, 0], to));
    let Some(Followed::Output { data, offset: 0, .. }) = followed.recv().await else { panic!("no output") };
    assert_eq!(&data[..], b"begun\n");
    executor.signal(&request.id, Signal::SIGTERM).unwrap();
    let Some(Followed::Exit(exit)) = followed.recv().await else { panic!("no end") };
    assert_eq!((exit.code, exit.signal), (143, 15));
    executor.signal(&request.id, Signal::SIGTERM).unwrap();
    executor.forget(&request.id).unwrap();
    assert!(executor.known().is_empty());
}

#[tokio::test]
async fn kill_job_ends_what_left_its_group_and_ignores_signals_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let executor = executor(root.path());
    let marked = format!("j-{}", std::process::id());
    let stray = "setsid sh -c 'trap \"\" TERM; echo stray $$; while :; do sleep 0.1; done' & sleep 0.3";
    let (mine, other) = (start(&marked, stray), start("j-other", "sleep 5"));
    executor.start(&mine).await.unwrap();
    executor.start(&other).await.unwrap();
    end_of(&executor, &mine.id).await;
    let out = std::fs::read_to_string(executor.spool(&mine.id).stdout()).unwrap();
    let pid = out.trim().strip_prefix("stray ").unwrap().to_owned();
    let alive = || Path::new("/proc").join(&pid).join("cmdline").metadata().is_ok() && !is_zombie(&pid);
    assert!(alive());
    executor.kill_job(&mine.id).await.unwrap();
    assert!(!alive(), "the stray process was killed");
    assert!(executor.spool(&other.id).exit().unwrap().is_none(), "another job goes on");
    executor.signal(&other.id, Signal::SIGKILL).unwrap();
    assert_eq!(end_of(&executor, &other.id).await.signal, 9);
}

fn is_zombie(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_process_whose_wrapper_was_killed_ends_with_an_error_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let executor = executor(root.path());
    let request = start(&format!("j-lost-{}", std::process::id()), "echo begun; sleep 60");
    executor.start(&request).await.unwrap();
    let pid = executor.spool(&request.id).running().unwrap().unwrap().pid;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let wrapper: i32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(wrapper), Signal::SIGKILL).unwrap();
    let (to, mut followed) = tokio::sync::mpsc::channel(4);
    tokio::spawn(output::follow(executor.clone(), request.id.clone(), [0, 0], to));
    let end = loop {
        match followed.recv().await.unwrap() {
            Followed::Output { .. } => {}
            Followed::Exit(exit) => break exit,
        }
    };
    assert!(end.error.contains("wrapper"), "{}", end.error);
    let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    assert!(gone(), "what it left running was ended");
}

#[test]
fn a_tree_goes_through_pack_and_unpack() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("tree/sub")).unwrap();
    std::fs::write(dir.path().join("tree/sub/file"), vec![7; 200_000]).unwrap();
    let packed = Command::new(AGENT).arg("pack").arg(dir.path().join("tree")).output().unwrap();
    assert!(packed.status.success());
    let stream = dir.path().join("stream");
    std::fs::write(&stream, &packed.stdout).unwrap();
    let unpacked = Command::new(AGENT)
        .arg("unpack")
        .arg(dir.path().join("copy"))
        .stdin(std::fs::File::open(&stream).unwrap())
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    assert_eq!(std::fs::read(dir.path().join("copy/sub/file")).unwrap(), vec![7; 200_000]);
    let missing = Command::new(AGENT).arg("pack").arg("/no/such/file").output().unwrap();
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot copy /no/such/file"));
}
