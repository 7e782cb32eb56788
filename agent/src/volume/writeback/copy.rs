//! Copies on the server: one COPY, or parts for an object over S3's limit for that.

use std::ops::Range;

use futures::{StreamExt, TryStreamExt};

use crate::volume::Volume;
use crate::volume::breaker::Steps;
use crate::volume::store::{Condition, Etag, Headers, ObjectKey, Part, StoreError};

/// Parts of one object copied at a time.
const PARALLEL: usize = 8;

const MAX_PARTS: u64 = 10_000;

type Result<T> = std::result::Result<T, StoreError>;

impl Volume {
    /// Copies one version of an object of `size` bytes, headers replaced.
    pub(crate) async fn copy_version(
        &self,
        from: &ObjectKey,
        etag: &Etag,
        size: u64,
        to: &ObjectKey,
        headers: &Headers,
        condition: &Condition,
    ) -> Result<Etag> {
        self.copy_in_steps((from, etag), size, to, headers, condition, &Steps::default()).await
    }

    /// The same; every part that is copied is a step.
    pub(crate) async fn copy_in_steps(
        &self,
        (from, etag): (&ObjectKey, &Etag),
        size: u64,
        to: &ObjectKey,
        headers: &Headers,
        condition: &Condition,
        steps: &Steps,
    ) -> Result<Etag> {
        if size <= self.cut.single_copy {
            return self.store.copy(from, etag, to, Some(headers), condition).await;
        }
        let upload = self.store.multipart_begin(to, headers).await?;
        let result = match self.copy_parts((from, etag), size, to, &upload, steps).await {
            Ok(parts) => self.store.multipart_complete(to, &upload, &parts, condition).await,
            Err(error) => Err(error),
        };
        if result.is_err()
            && let Err(error) = self.store.multipart_abort(to, &upload).await
        {
            tracing::info!(key = %to, %error, "a copy in parts could not be given up");
        }
        result
    }

    async fn copy_parts(
        &self,
        from: (&ObjectKey, &Etag),
        size: u64,
        to: &ObjectKey,
        upload: &str,
        steps: &Steps,
    ) -> Result<Vec<Part>> {
        futures::stream::iter((1..).zip(ranges(size, self.cut.copy_part)))
            .map(async |(number, range)| {
                let part = self.store.multipart_copy(to, upload, number, from, range).await?;
                steps.done();
                Ok(part)
            })
            .buffered(PARALLEL)
            .try_collect()
            .await
    }
}

/// At most 10,000.
fn ranges(size: u64, part: u64) -> impl Iterator<Item = Range<u64>> {
    let part = if size.div_ceil(part) > MAX_PARTS { size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20) } else { part };
    (0..size.div_ceil(part)).map(move |index| index * part..((index + 1) * part).min(size))
}
