//! The service, as a process of its own.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ec2mpi_local_cloud::bucket::{self, KeyGrant, KeySource};

use crate::client::Client;

/// Tells the service process its directory.
const DIRECTORY: &str = "EC2MPI_TEST_BUCKET";

struct Keys;

impl KeySource for Keys {
    fn secret(&self, access_key: &str) -> Option<KeyGrant> {
        let now = SystemTime::now();
        let (token, expires_at) = match access_key {
            "permanent" => (None, None),
            "temporary" => (Some("token/+="), Some(now + Duration::from_secs(600))),
            "expired" => (Some("token/+="), Some(now - Duration::from_secs(1))),
            _ => return None,
        };
        Some(KeyGrant { secret: "secret".into(), session_token: token.map(str::to_owned), expires_at })
    }
}

/// Not a test: the service, as a child process of the tests. It keeps its objects in `s3` below the directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests"]
async fn service_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let service = bucket::open(&directory.join("s3"), Arc::new(Keys)).unwrap();
    service.create_bucket_if_absent("bkt").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    fs::write(directory.join("address.new"), listener.local_addr().unwrap().to_string()).unwrap();
    fs::rename(directory.join("address.new"), directory.join("address")).unwrap();
    bucket::serve(listener, service, std::future::pending()).await.unwrap();
}

/// The service on a directory; killed with SIGKILL when dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) client: Client,
}

impl Service {
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_by(directory, &["env"])
    }

    /// Starts it by a program that becomes what it is told to run.
    pub(crate) fn start_by(directory: &Path, program: &[&str]) -> Self {
        let address = directory.join("address");
        let _ = fs::remove_file(&address);
        let child = Command::new(program[0])
            .args(&program[1..])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "service::service_process", "--ignored"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nowhere = ([127, 0, 0, 1], 0).into();
        let client = Client { address: nowhere, access_key: "permanent".into(), secret: "secret".into(), token: None };
        let mut service = Self { child, client };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !address.exists() {
            assert!(service.child.try_wait().unwrap().is_none(), "the service ended");
            assert!(Instant::now() < deadline, "the service did not start");
            thread::sleep(Duration::from_millis(5));
        }
        service.client.address = fs::read_to_string(&address).unwrap().parse().unwrap();
        service
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A line of `/proc/PID/status` in KiB.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files below a directory.
pub(crate) fn files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.file_type().unwrap().is_dir() { files(&entry.path()) } else { 1 }).sum()
}
