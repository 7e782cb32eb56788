//! A request's body into a blob: streamed, summed up on the way, never whole in memory.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3Result, s3_error};
use uuid::Uuid;

use super::blob::{Blobs, Extent, Pin};
use super::checksum::{Algorithm, Digests, Hasher};
use super::store::{internal, refusal};

/// S3's limit for one PUT, part or COPY.
pub(super) const MAX_SINGLE: u64 = 5 << 30;

/// So much is written at once.
const BATCH: usize = 1 << 20;

/// A client that sends nothing for so long has gone.
const IDLE: Duration = Duration::from_secs(60);

/// A body received.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) extents: Vec<Extent>,
    pub(super) size: u64,
    pub(super) digests: Digests,
    /// Keeps the bytes until they are committed.
    pub(super) _pin: Option<Pin>,
}

/// Reads a body to its end. `length` is what the request says it is, if it does.
pub(super) async fn receive(
    blobs: &Arc<Blobs>,
    body: Option<StreamingBlob>,
    length: Option<i64>,
    algorithms: &[Algorithm],
) -> S3Result<Received> {
    let mut writer = Writer::new(Arc::clone(blobs), algorithms);
    if let Some(mut body) = body {
        let mut batch = Vec::new();
        let mut waiting = 0;
        while let Some(chunk) = next(&mut body).await? {
            waiting += chunk.len();
            batch.push(chunk);
            if waiting >= BATCH {
                writer = writer.write(std::mem::take(&mut batch)).await?;
                waiting = 0;
            }
        }
        writer = writer.write(batch).await?;
    }
    let received = writer.finish();
    if length.is_some_and(|length| u64::try_from(length) != Ok(received.size)) {
        return Err(s3_error!(
            IncompleteBody,
            "You did not provide the number of bytes specified by the Content-Length HTTP header."
        ));
    }
    Ok(received)
}

/// The next bytes of a body; none at its end.
async fn next(body: &mut StreamingBlob) -> S3Result<Option<Bytes>> {
    match tokio::time::timeout(IDLE, body.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
        Ok(Some(Err(error))) => Err(unreadable(&error.to_string())),
        Err(_) => Err(s3_error!(RequestTimeout, "Your socket connection was not read from or written to in time.")),
    }
}

/// Why a body could not be read to its end. `s3s` tells it in text alone.
fn unreadable(error: &str) -> S3Error {
    if error.ends_with("Sha256Mismatch") {
        let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
        refusal("XAmzContentSHA256Mismatch", StatusCode::BAD_REQUEST, message)
    } else if error.ends_with("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch, "The signature of a chunk does not match its bytes.")
    } else {
        s3_error!(IncompleteBody, "the body could not be read: {error}")
    }
}

struct Writer {
    blobs: Arc<Blobs>,
    blob: Option<(Pin, Uuid, File)>,
    hasher: Hasher,
    size: u64,
}

impl Writer {
    fn new(blobs: Arc<Blobs>, algorithms: &[Algorithm]) -> Self {
        Self { blobs, blob: None, hasher: Hasher::new(algorithms), size: 0 }
    }

    async fn write(self, batch: Vec<Bytes>) -> S3Result<Self> {
        let size = self.size + batch.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        if size > MAX_SINGLE {
            return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size"));
        }
        let writer = tokio::task::spawn_blocking(move || self.write_now(&batch)).await;
        writer.map_err(io::Error::other).and_then(|result| result).map_err(internal)
    }

    fn write_now(mut self, batch: &[Bytes]) -> io::Result<Self> {
        for bytes in batch.iter().filter(|bytes| !bytes.is_empty()) {
            self.hasher.update(bytes);
            let (_, _, file) = match &mut self.blob {
                Some(blob) => blob,
                none => none.insert(self.blobs.create()?),
            };
            file.write_all(bytes)?;
            self.size += bytes.len() as u64;
        }
        Ok(self)
    }

    fn finish(self) -> Received {
        let (pin, id) = self.blob.map(|(pin, id, _)| (pin, id)).unzip();
        let extents = id.map(|blob| Extent { blob, offset: 0, length: self.size }).into_iter().collect();
        Received { extents, size: self.size, digests: self.hasher.finish(), _pin: pin }
    }
}
