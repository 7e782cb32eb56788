//! An S3 server behind the lab, and agents that mount it: as processes that can be killed, or in this process.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ec2mpi_agent::volume::Options;
use ec2mpi_agent::volume::control::{self, Answer, Request};
use ec2mpi_agent::volume::mount::{MountedVolume, mount_with};
use ec2mpi_agent::volume::store::retry::{RetryPolicy, Retrying};
use ec2mpi_agent::volume::store::s3::{S3Settings, S3Store};
use ec2mpi_agent::volume::store::{Body, Condition, Headers, ObjectKey, ObjectStore, StoreError};
use ec2mpi_local_cloud::bucket::{self, KeyGrant, KeySource};
use ec2mpi_tests::lab::Lab;
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// For whatever should be quick.
const PATIENCE: Duration = Duration::from_secs(60);

struct OneKey;

impl KeySource for OneKey {
    fn secret(&self, access_key: &str) -> Option<KeyGrant> {
        let grant = || KeyGrant { secret: "SECRET".to_owned(), session_token: None, expires_at: None };
        (access_key == "ACCESS").then(grant)
    }
}

/// A server, the lab before it, and a prefix of a bucket for one test.
pub(crate) struct Place {
    pub(crate) lab: Lab,
    /// For mount points and caches.
    pub(crate) dir: TempDir,
    bucket: String,
    prefix: String,
    server: SocketAddr,
    runtime: Runtime,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists(), "needs root and /dev/fuse");
        let dir = tempfile::Builder::new().prefix("durable-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (server, bucket) = match std::env::var("EC2MPI_TEST_S3") {
            Ok(place) => {
                let (address, bucket) = place.split_once('/').expect("ADDRESS:PORT/BUCKET");
                (address.parse().expect("an address and a port"), bucket.to_owned())
            }
            Err(_) => (own_server(&runtime, &dir.path().join("objects")), "bucket".to_owned()),
        };
        let lab = Lab::start(server, 1).unwrap();
        let prefix = format!("{name}-{}", uuid::Uuid::new_v4().simple());
        Self { lab, dir, bucket, prefix, server, runtime }
    }

    fn settings(&self, endpoint: String) -> S3Settings {
        S3Settings {
            bucket: self.bucket.clone(),
            prefix: format!("{}/", self.prefix),
            endpoint: Some(endpoint),
            ..S3Settings::default()
        }
    }

    /// The bucket past the lab.
    fn store(&self) -> S3Store {
        let settings = self.settings(format!("http://{}", self.server));
        self.runtime.block_on(S3Store::connect(settings)).unwrap()
    }

    /// What S3 has under a name, past the lab.
    pub(crate) fn object(&self, key: &str) -> Option<Vec<u8>> {
        let store = self.store();
        match self.runtime.block_on(store.get(&ObjectKey::new(key))) {
            Ok((_, body)) => Some(body.to_vec()),
            Err(StoreError::NotFound(_)) => None,
            Err(error) => panic!("{key}: {error}"),
        }
    }

    /// What is mounted: bucket and prefix.
    pub(crate) fn source(&self) -> String {
        format!("{}/{}", self.bucket, self.prefix)
    }

    /// Writes an object as another tool would, past the lab.
    pub(crate) fn insert(&self, key: &str, bytes: &[u8]) {
        let (store, body) = (self.store(), Body::Bytes(bytes.to_vec().into()));
        let put = async { store.put(&ObjectKey::new(key), body, &Headers::default(), &Condition::Always).await };
        self.runtime.block_on(put).unwrap();
    }

    /// Deletes an object, past the lab.
    pub(crate) fn remove(&self, key: &str) {
        let store = self.store();
        self.runtime.block_on(store.delete(&ObjectKey::new(key), &Condition::Always)).unwrap();
    }

    /// All keys of the volume, past the lab.
    pub(crate) fn keys(&self) -> Vec<String> {
        let store = self.store();
        self.runtime.block_on(async {
            let (mut keys, mut token) = (Vec::new(), None);
            loop {
                let page = store.list("", None, token.as_deref(), 1000).await.unwrap();
                keys.extend(page.objects.into_iter().map(|object| object.key.to_string()));
                token = page.next;
                if token.is_none() {
                    return keys;
                }
            }
        })
    }

    /// Multipart uploads that were begun and not ended.
    pub(crate) fn uploads(&self) -> usize {
        let store = self.store();
        self.runtime.block_on(store.multipart_list("")).unwrap().len()
    }

    /// A mount in this process: another node for every name.
    pub(crate) fn mount(&self, name: &str, change: impl FnOnce(&mut Options)) -> Mount {
        let root = self.dir.path().join(name);
        std::fs::create_dir_all(&root).unwrap();
        let mut options = Options::new(root.clone(), self.dir.path().join(format!("cache-{name}")));
        options.control = self.dir.path().join(format!("{name}.sock"));
        options.node_name = name.to_owned();
        change(&mut options);
        let store = self.runtime.block_on(S3Store::connect(self.settings(self.lab.endpoint()))).unwrap();
        let store = Arc::new(Retrying::new(store, RetryPolicy::default()));
        Mount { root, volume: mount_with(store, options).unwrap() }
    }

    /// The agent as a process, `arguments` and `environment` added. It is not waited for.
    pub(crate) fn start(&self, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Agent {
        self.start_on(name, name, arguments, environment)
    }

    /// [`Place::start`] on the cache directory of another.
    pub(crate) fn start_on(&self, name: &str, cache: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Agent {
        let root = self.dir.path().join(name);
        // One that died here left a mount that answers nothing.
        let _ = umount2(&root, MntFlags::MNT_DETACH);
        std::fs::create_dir_all(&root).unwrap();
        let socket = self.dir.path().join(format!("{name}.sock"));
        let log = self.dir.path().join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ec2mpi-agent"))
            .args(["mount", "--foreground", "--endpoint", &self.lab.endpoint(), "--node-name", name])
            .arg("--cache-dir")
            .arg(self.dir.path().join(format!("cache-{cache}")))
            .arg("--control")
            .arg(&socket)
            .args(arguments)
            .arg(self.source())
            .arg(&root)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Agent { child, root, socket, name: name.to_owned(), dir: self.dir.path().to_owned() }
    }
}

fn own_server(runtime: &Runtime, objects: &Path) -> SocketAddr {
    // SAFETY: every test is a process of its own, and nothing else runs in it yet.
    unsafe {
        std::env::set_var("AWS_ACCESS_KEY_ID", "ACCESS");
        std::env::set_var("AWS_SECRET_ACCESS_KEY", "SECRET");
        std::env::set_var("AWS_EC2_METADATA_DISABLED", "true");
    }
    let service = bucket::open(objects, Arc::new(OneKey)).unwrap();
    service.create_bucket_if_absent("bucket").unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(bucket::serve(listener, service, std::future::pending()));
    address
}

/// A mount in this process.
pub(crate) struct Mount {
    pub(crate) root: PathBuf,
    pub(crate) volume: MountedVolume,
}

impl Mount {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn drain(&self) {
        let answer = self.volume.ask(&Request::Drain { timeout_seconds: 60 });
        assert!(answer.ok, "{answer:?}");
    }

    pub(crate) fn epoch(&self) {
        assert!(self.volume.ask(&Request::Epoch).ok);
    }

    pub(crate) fn conflicts(&self) -> u64 {
        self.volume.status().conflicts
    }
}

/// An agent's process. Dropped, it is killed and its mount detached.
pub(crate) struct Agent {
    child: Child,
    pub(crate) root: PathBuf,
    socket: PathBuf,
    name: String,
    dir: PathBuf,
}

impl Agent {
    pub(crate) fn ask(&self, request: &Request, patience: Duration) -> anyhow::Result<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(control::call(&self.socket, request, patience))
    }

    /// Whether it answers; false when it died instead.
    pub(crate) fn is_ready(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.ended().is_some() {
                return false;
            }
            if self.ask(&Request::Status, Duration::from_secs(1)).is_ok_and(|answer| answer.ok) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the agent does not answer:\n{}", self.log());
    }

    pub(crate) fn drain(&self) -> Answer {
        self.ask(&Request::Drain { timeout_seconds: 60 }, PATIENCE * 2).unwrap_or_else(|error| {
            panic!("no answer to a drain: {error:#}\n{}", self.log());
        })
    }

    pub(crate) fn status(&self) -> Answer {
        self.ask(&Request::Status, PATIENCE).unwrap()
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end; false when it lives on.
    pub(crate) fn dies_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `umount DIR`: the exit code and what it says.
    pub(crate) fn umount(&self, timeout: u64) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_ec2mpi-agent"))
            .args(["umount", "--timeout", &timeout.to_string(), "--control"])
            .arg(&self.socket)
            .arg(&self.root)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The most memory it ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join(format!("{}.log", self.name))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
    }
}
