//! The body of a reply: whole, or as it comes.

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use crate::volume::store::{Sink, StoreError};

/// Bytes that are handed over at a time, if so many are left: small enough to be still in the processor's cache.
const CHUNK: usize = 256 << 10;

/// A reply's body, whole.
pub(super) async fn whole(what: &str, body: ByteStream) -> Result<Bytes, StoreError> {
    let bytes = body.collect().await;
    bytes.map(|bytes| bytes.into_bytes()).map_err(|error| StoreError::Transient(what.to_owned(), error.to_string()))
}

/// A reply's body of at most `length` bytes, as it comes.
pub(super) async fn hand_over(
    what: &str,
    mut body: ByteStream,
    length: u64,
    sink: &dyn Sink,
) -> Result<(), StoreError> {
    let (mut left, mut gathered, mut size) = (length, Vec::new(), 0);
    while let Some(piece) = body.next().await {
        let mut piece = piece.map_err(|error| StoreError::Transient(what.to_owned(), error.to_string()))?;
        // A server that sends more than it was asked for is not believed.
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= piece.len() as u64;
        size += piece.len();
        gathered.push(piece);
        if size >= CHUNK {
            size = 0;
            if !sink.take(std::mem::take(&mut gathered)).await {
                return Ok(());
            }
        }
    }
    if size > 0 {
        sink.take(gathered).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    /// Takes so many bytes at most.
    struct Taken(Mutex<Vec<u8>>, usize);

    #[async_trait::async_trait]
    impl Sink for Taken {
        async fn take(&self, bytes: Vec<Bytes>) -> bool {
            let mut taken = self.0.lock();
            taken.extend(bytes.concat());
            taken.len() < self.1
        }
    }

    #[tokio::test]
    async fn a_body_is_handed_over_in_order_and_no_more_than_was_asked_for() {
        let body: Vec<u8> = (0..=250).cycle().take(3 * CHUNK + 100).collect();
        for (length, most, expected) in [
            (body.len(), usize::MAX, body.len()),
            (CHUNK + 7, usize::MAX, CHUNK + 7),
            (0, usize::MAX, 0),
            (body.len(), 1, body.len()),
        ] {
            let sink = Taken(Mutex::default(), most);
            hand_over("k", ByteStream::from(body.clone()), length as u64, &sink).await.unwrap();
            assert!(*sink.0.lock() == body[..expected], "{length}");
        }
    }
}
