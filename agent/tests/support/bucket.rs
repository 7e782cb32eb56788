//! A bucket served over HTTP inside the test, and its keys as a passwd_file.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use ec2mpi_agent::volume::store::s3::{Keys, S3Settings, S3Store};
use ec2mpi_agent::volume::store::{ObjectInfo, ObjectKey, ObjectStore};
use ec2mpi_local_cloud::bucket::{self, KeyGrant, KeySource};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const BUCKET: &str = "bucket";

struct OneKey;

impl KeySource for OneKey {
    fn secret(&self, access_key: &str) -> Option<KeyGrant> {
        let grant = || KeyGrant { secret: "SECRET".to_owned(), session_token: None, expires_at: None };
        (access_key == "ACCESS").then(grant)
    }
}

/// The server; it ends with the value.
pub(crate) struct Bucket {
    pub(crate) endpoint: String,
    /// For whatever a test keeps beside it.
    pub(crate) dir: TempDir,
    runtime: Option<Runtime>,
}

impl Bucket {
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("bucket-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let service = bucket::open(&dir.path().join("objects"), Arc::new(OneKey)).unwrap();
        service.create_bucket_if_absent(BUCKET).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(bucket::serve(listener, service, std::future::pending()));
        let bucket = Self { endpoint, dir, runtime: Some(runtime) };
        std::fs::write(bucket.passwd_file(), "ACCESS:SECRET\n").unwrap();
        std::fs::set_permissions(bucket.passwd_file(), std::fs::Permissions::from_mode(0o600)).unwrap();
        bucket
    }

    pub(crate) fn passwd_file(&self) -> PathBuf {
        self.dir.path().join("passwd")
    }

    /// What is there, past every mount.
    pub(crate) fn object(&self, key: &str) -> (ObjectInfo, Vec<u8>) {
        let settings = S3Settings {
            bucket: BUCKET.to_owned(),
            endpoint: Some(self.endpoint.clone()),
            keys: Keys::PasswdFile { path: self.passwd_file(), bucket: BUCKET.to_owned() },
            ..S3Settings::default()
        };
        let (info, body) = self.runtime.as_ref().unwrap().block_on(async {
            let store = S3Store::connect(settings).await.unwrap();
            store.get(&ObjectKey::new(key)).await.unwrap_or_else(|error| panic!("{key}: {error}"))
        });
        (info, body.to_vec())
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
