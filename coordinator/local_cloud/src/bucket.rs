//! S3 over a directory: `s3s` for the protocol and the signatures, our own index and files behind it.
//!
//! What holds:
//! - a condition and the change it guards are one step, for PUT, COPY, COMPLETE and DELETE;
//! - an object is visible whole or not at all, and only after its checksums were verified, also when the process is
//!   killed at any instant: bytes go into a new file ([`blob`]), then one record in an append-only log ([`log`]) makes
//!   the object. Nothing is forced to disk: a machine that loses power may lose the last changes;
//! - any legal key works: keys are data in the log, never file names;
//! - a GET that has begun gives the bytes of one version, whatever is written meanwhile;
//! - memory holds the index, never a body;
//! - a full disk refuses what needs room (507 `InsufficientStorage`) and takes deletions: the log sets room aside.
//!
//! Not here: versions, tags, ACLs, lifecycle, encryption (what is asked for is echoed), browser forms.

mod api;
mod blob;
mod checksum;
mod conditions;
mod headers;
mod index;
mod keys;
mod listing;
mod lists;
mod log;
mod multipart;
mod object;
mod read;
mod receive;
mod reply;
mod server;
mod store;
#[cfg(test)]
mod tests;

pub use server::serve;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use s3s::service::S3ServiceBuilder;
use s3s::validation::{AwsNameValidation, NameValidation};

use self::index::Record;
use self::reply::Completed;
use self::store::Store;
use crate::faults::Faults;

/// The region of the local cloud.
const REGION: &str = "local-1";

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

/// Why the buckets could not be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The directory could not be read or written, or is damaged.
    #[error("bucket directory: {0}")]
    Io(#[from] std::io::Error),
    /// Against S3's rules for bucket names.
    #[error("illegal bucket name: {0}")]
    IllegalName(String),
    /// Any other refusal of the service.
    #[error("bucket: {0}")]
    Refused(String),
}

/// The S3 service over one directory. Clones share it.
#[derive(Debug, Clone)]
pub struct BucketService {
    store: Arc<Store>,
    protocol: Completed,
    faults: Option<Arc<Faults>>,
}

/// Opens the directory (made when absent) as the last process left it, however that ended. No other process may have
/// it open.
///
/// # Errors
///
/// [`BucketError::Io`] when the directory cannot be used, or its log is damaged other than by a torn last record.
pub fn open(directory: &Path, keys: Arc<dyn KeySource>) -> Result<BucketService, BucketError> {
    let store = Arc::new(Store::open(directory)?);
    let keys = keys::Keys(keys);
    let mut builder = S3ServiceBuilder::new(api::Api(Arc::clone(&store)));
    builder.set_auth(keys.clone());
    builder.set_access(keys);
    Ok(BucketService { store, protocol: Completed(builder.build()), faults: None })
}

impl BucketService {
    /// The same, with faults on request.
    pub(crate) fn with_faults(mut self, faults: Arc<Faults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Makes a bucket unless it exists.
    ///
    /// # Errors
    ///
    /// [`BucketError::IllegalName`], or that the log could not be written.
    pub fn create_bucket_if_absent(&self, name: &str) -> Result<(), BucketError> {
        if !AwsNameValidation::new().validate_bucket_name(name) {
            return Err(BucketError::IllegalName(name.to_owned()));
        }
        let created = conditions::now();
        let made = self.store.commit(|index| {
            let absent = !index.buckets.contains_key(name);
            Ok(absent.then(|| Record::CreateBucket { bucket: name.to_owned(), created }).into_iter().collect())
        });
        made.map_err(|error| BucketError::Refused(error.to_string()))
    }
}
