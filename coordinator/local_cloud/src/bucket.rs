//! S3 over a directory.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;

/// What an access key stands for.
#[derive(Clone)]
pub struct KeyGrant {
    /// The secret that signs requests.
    pub secret: String,
    /// The session token that must come with every request signed with it; none for a permanent key.
    pub session_token: Option<String>,
    /// From then on the key is refused; none for a permanent key.
    pub expires_at: Option<SystemTime>,
}

impl std::fmt::Debug for KeyGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyGrant").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Who may sign requests.
pub trait KeySource: Send + Sync + 'static {
    /// What `access_key` stands for; none for an unknown key.
    fn secret(&self, access_key: &str) -> Option<KeyGrant>;
}

/// Why the bucket service could not be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The directory could not be read or written.
    #[error("bucket directory: {0}")]
    Io(#[from] std::io::Error),
    /// S3's rules for bucket names.
    #[error("illegal bucket name: {0}")]
    IllegalName(String),
}

/// The S3 service over one directory.
#[derive(Debug, Clone)]
pub struct BucketService {}

/// Opens the directory (made when absent), and makes it as it was when the last process ended, however it ended.
pub fn open(directory: &Path, keys: Arc<dyn KeySource>) -> Result<BucketService, BucketError> {
    let _ = (directory, keys);
    Ok(BucketService {})
}

impl BucketService {
    /// Makes a bucket unless it exists.
    pub fn create_bucket_if_absent(&self, name: &str) -> Result<(), BucketError> {
        let _ = name;
        Ok(())
    }
}

/// Serves until `shutdown` is done, then lets requests in progress end for a few seconds.
pub async fn serve(
    listener: TcpListener,
    service: BucketService,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let _ = (listener, service);
    shutdown.await;
    Ok(())
}
