//! The bytes of extents: as a reply's body, or summed up.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use s3s::S3Result;
use s3s::dto::StreamingBlob;
use uuid::Uuid;

use super::blob::{Blobs, Extent, Pin};
use super::checksum::{Algorithm, Digests, Hasher};
use super::store::internal;

/// So much is read at once.
const CHUNK: u64 = 512 << 10;

/// The bytes of `extents`, read as they are sent. The pin is kept until then.
pub(super) fn body(blobs: &Arc<Blobs>, pin: Pin, extents: Vec<Extent>) -> StreamingBlob {
    let reader = Reader { blobs: Arc::clone(blobs), _pin: Some(pin), left: extents.into(), file: None };
    StreamingBlob::wrap(stream::try_unfold(reader, |reader| async move {
        tokio::task::spawn_blocking(move || reader.next()).await.map_err(io::Error::other)?
    }))
}

/// Sums up the bytes of `extents`, which the caller keeps pinned.
pub(super) async fn digest(blobs: &Arc<Blobs>, extents: &[Extent], algorithms: &[Algorithm]) -> S3Result<Digests> {
    let mut reader =
        Reader { blobs: Arc::clone(blobs), _pin: None, left: extents.iter().cloned().collect(), file: None };
    let mut hasher = Hasher::new(algorithms);
    let digests = tokio::task::spawn_blocking(move || {
        while let Some((bytes, next)) = reader.next()? {
            hasher.update(&bytes);
            reader = next;
        }
        Ok(hasher.finish())
    });
    digests.await.map_err(io::Error::other).and_then(|result| result).map_err(internal)
}

struct Reader {
    blobs: Arc<Blobs>,
    _pin: Option<Pin>,
    left: VecDeque<Extent>,
    file: Option<(Uuid, File)>,
}

impl Reader {
    /// The next bytes and the reader of those after them; none at the end.
    fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let Some(extent) = self.left.front_mut() else { return Ok(None) };
        let (blob, offset, length) = (extent.blob, extent.offset, extent.length.min(CHUNK));
        if length == extent.length {
            self.left.pop_front();
        } else {
            extent.offset += length;
            extent.length -= length;
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let file = match self.file.take() {
            Some((open, file)) if open == blob => file,
            _ => self.blobs.read(blob)?,
        };
        file.read_exact_at(&mut bytes, offset)?;
        self.file = Some((blob, file));
        Ok(Some((bytes.into(), self)))
    }
}
