//! A store in memory and mounts of it below one temporary directory.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ec2mpi_agent::volume::Options;
use ec2mpi_agent::volume::attr::Owner;
use ec2mpi_agent::volume::control::{Answer, Request};
use ec2mpi_agent::volume::mount::{MountedVolume, mount_with};
use ec2mpi_agent::volume::store::Headers;
use ec2mpi_agent::volume::store::memory::MemoryStore;
use tempfile::TempDir;

pub(crate) struct Lab {
    pub(crate) store: MemoryStore,
    pub(crate) dir: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let dir = tempfile::Builder::new().prefix("volume-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { store: MemoryStore::new(), dir }
    }

    /// Options of the mount called `name`: its directory, its cache, its node name.
    pub(crate) fn options(&self, name: &str) -> Options {
        let mount_point = self.dir.path().join(name);
        std::fs::create_dir_all(&mount_point).unwrap_or_default();
        let mut options = Options::new(mount_point, self.dir.path().join(format!("cache-{name}")));
        options.control = self.dir.path().join(format!("{name}.sock"));
        options.owner = Owner { uid: 1234, gid: 1235 };
        options.node_name = name.to_owned();
        options
    }

    pub(crate) fn mount_as(&self, name: &str) -> Mount {
        self.mount_options(self.options(name))
    }

    pub(crate) fn mount_options(&self, options: Options) -> Mount {
        let root = options.dir.clone();
        Mount { root, volume: Some(mount_with(Arc::new(self.store.clone()), options).unwrap()) }
    }

    pub(crate) fn mount(&self) -> Mount {
        self.mount_as("a")
    }

    /// A mount that knows nothing: another node.
    pub(crate) fn elsewhere(&self) -> Mount {
        self.mount_as(&format!("other-{}", uuid::Uuid::new_v4().simple()))
    }

    pub(crate) fn body(&self, key: &str) -> Vec<u8> {
        self.store.object(key).unwrap_or_else(|| panic!("no object {key}")).1.to_vec()
    }

    pub(crate) fn metadata(&self, key: &str, name: &str) -> String {
        let (info, _) = self.store.object(key).unwrap_or_else(|| panic!("no object {key}"));
        info.headers.metadata.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn insert(&self, key: &str, body: &[u8]) {
        self.store.insert(key, body.to_vec(), Headers::default());
    }
}

pub(crate) struct Mount {
    pub(crate) root: PathBuf,
    pub(crate) volume: Option<MountedVolume>,
}

impl Mount {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn ask(&self, request: &Request) -> Answer {
        self.volume.as_ref().unwrap().ask(request)
    }

    pub(crate) fn drain(&self) {
        let answer = self.ask(&Request::Drain { timeout_seconds: 30 });
        assert!(answer.ok, "{answer:?}");
        assert_eq!((answer.status.dirty_files, answer.status.dirty_bytes), (0, 0), "{answer:?}");
    }

    pub(crate) fn epoch(&self) {
        assert!(self.ask(&Request::Epoch).ok);
    }

    pub(crate) fn crash(mut self) {
        self.volume.take().unwrap().crash();
    }

    pub(crate) fn unmount(mut self) {
        self.volume.take().unwrap().unmount().unwrap();
    }

    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// The errno of a failed operation.
pub(crate) fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// Waits until `holds`, for at most ten seconds.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes that differ everywhere, by `seed`.
pub(crate) fn pattern(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A program that `make setup` has installed for the tests.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = ec2mpi_tests::place::executables().join("../tools/bin").join(name);
    assert!(path.exists(), "{} is missing: run `make setup`", path.display());
    path
}

/// Whether the long forms of the tests are wanted (`make soak`).
pub(crate) fn soak() -> bool {
    std::env::var_os("EC2MPI_SOAK").is_some_and(|value| value == "1")
}
