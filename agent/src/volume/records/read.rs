//! Who lists a directory of many files of which nothing is known looks whether there is a record.

use std::time::{Duration, SystemTime};

use super::format::Record;
use super::{LEAST, MOST_BYTES, key};
use crate::volume::Volume;
use crate::volume::error::Result;
use crate::volume::store::ObjectKey;
use crate::volume::tree::{Child, Ino, Listed};
use crate::volume::version::{found, optional};

/// A record that takes longer is none: the HEADs come instead.
const PATIENCE: Duration = Duration::from_secs(2);

impl Volume {
    /// Believes the record of a directory that was just listed, where it may be believed. What it says is as old as the
    /// listing.
    pub(crate) async fn believe_record(&self, dir: Ino) {
        let Some(path) = self.wants_record(dir) else { return };
        match tokio::time::timeout(PATIENCE, self.fetch_record(&path)).await {
            Ok(Ok(Some((record, written)))) => self.adopt_record(dir, &path, record, written),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!(path, %error, "an attribute record cannot be read"),
            Err(_) => tracing::debug!(path, "an attribute record takes too long"),
        }
    }

    /// The path of a directory of which a listing is fresh, and little else is known.
    fn wants_record(&self, dir: Ino) -> Option<String> {
        let tree = self.tree();
        let known = tree.get(dir).ok()?.dir().ok()?;
        let unknown = |child: &&Child| matches!(child, Child::Listed(Listed::File { .. }));
        let wanted = self.options.attr_records
            && tree.is_fresh(known.listed)
            && tree.len() < self.options.bounds.inodes
            && known.children.values().filter(unknown).nth(LEAST - 1).is_some();
        if wanted { self.recorded_path(&tree, dir) } else { None }
    }

    /// The record of the directory at `path`, and when S3 says it was written.
    pub(super) async fn fetch_record(&self, path: &str) -> Result<Option<(Record, SystemTime)>> {
        let Some(key) = key(path).map(ObjectKey::new) else { return Ok(None) };
        let _memory = self.limits.memory(MOST_BYTES).await?;
        let got = optional(self.breaker.patiently(|| self.store.get_within(&key, MOST_BYTES)).await)?;
        let Some((info, Some(bytes))) = got else { return Ok(None) };
        let record = Record::parse(&bytes, path);
        if record.is_none() {
            tracing::debug!(path, "what is in place of an attribute record is none");
        }
        Ok(record.map(|record| (record, info.last_modified)))
    }

    fn adopt_record(&self, dir: Ino, path: &str, record: Record, written: SystemTime) {
        let mut tree = self.tree();
        for (name, entry) in record.files {
            let Ok(known) = tree.get(dir).and_then(|node| node.dir()) else { return };
            let Some(stamp) = known.listed.filter(|stamp| tree.is_fresh(Some(*stamp))) else { return };
            let Some(Child::Listed(listed)) = known.children.get(&name) else { continue };
            if !entry.is_about(listed, written) {
                continue;
            }
            let path = crate::volume::tree::join(path, &name);
            let found = found(&path, entry.into_info().into());
            if let Err(error) = tree.adopt_listed(dir, &name, found, self.options.owner, stamp) {
                tracing::debug!(%dir, name, %error, "an entry of an attribute record is not used");
            }
        }
    }
}
