//! `copy_file_range`: a whole large object is copied by S3, everything else in the cache.

use uuid::Uuid;

use crate::volume::Volume;
use crate::volume::attr::{self, Attr, Extra};
use crate::volume::content::State;
use crate::volume::error::Result;
use crate::volume::journal::Base;
use crate::volume::store::{Condition, Etag, ObjectKey, StoreError};
use crate::volume::tree::{Ino, Place, Remote, Told};
use crate::volume::version::conflict::{self, Resolution};
use crate::volume::writeback::FAILING_PATIENCE;

/// A smaller file is read and sent again as fast.
const SMALLEST_ON_SERVER: u64 = 8 << 20;
/// S3 is done with it within a program's patience.
const LARGEST_ON_SERVER: u64 = 1 << 30;
/// Bytes copied at a time in the cache, and in one call.
const CHUNK: u32 = 1 << 20;
const AT_ONCE: u64 = 64 << 20;

/// An open file and a place in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    pub(crate) handle: u64,
    pub(crate) offset: u64,
}

/// A copy that S3 can make: the source as it is there, the target as it shall be.
#[derive(Debug)]
struct Plan {
    source: (String, Etag),
    target: Ino,
    path: String,
    size: u64,
    attr: Attr,
    extra: Extra,
    base: Base,
    /// That of the target's `Open`: after a crash the object is known as ours.
    write: Uuid,
}

impl Volume {
    /// Copies bytes; how many. Fewer than asked are no error, the caller goes on.
    pub(crate) async fn copy_range(&self, from: Side, to: Side, length: u64, unprivileged: bool) -> Result<u64> {
        if from.offset == 0 && to.offset == 0 {
            let copied = self.copy_on_server(from.handle, to.handle, length).await?;
            if copied > 0 {
                return Ok(copied);
            }
        }
        let (mut done, length) = (0, length.min(AT_ONCE));
        while done < length {
            let chunk = u32::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
            let bytes = self.read(from.handle, from.offset + done, chunk).await?;
            if bytes.is_empty() {
                break;
            }
            self.write(to.handle, to.offset + done, &bytes, unprivileged).await?;
            done += bytes.len() as u64;
        }
        Ok(done)
    }

    /// Zero when it is not for S3 to do.
    async fn copy_on_server(&self, from: u64, to: u64, length: u64) -> Result<u64> {
        let ((source, _, _), (target, content, _)) = (self.file(from)?, self.file(to)?);
        let mut state = content.state.write().await;
        let Some(plan) = self.plan_copy(source, target, &state, length)? else { return Ok(0) };
        match self.send_copy(&plan).await {
            Some(etag) => self.adopt_copy(plan, etag, &mut state),
            None => Ok(0),
        }
    }

    /// None unless all of an object that S3 has goes into a new file that nothing else is about to become.
    fn plan_copy(&self, source: Ino, target: Ino, state: &State, length: u64) -> Result<Option<Plan>> {
        let tree = self.tree();
        if state.data.as_ref().is_some_and(|data| data.is_exposed()) {
            return Ok(None);
        }
        let (from, into) = (tree.get(source)?, tree.get(target)?);
        let (Some(remote), Some(open), Place::At { parent, .. }) = (&from.remote, state.open, &into.place) else {
            return Ok(None);
        };
        let fits = (SMALLEST_ON_SERVER..=LARGEST_ON_SERVER).contains(&remote.size) && length >= remote.size;
        let Some(path) = tree.path(target).filter(|path| fits && state.size == 0 && !self.queue.has(path)) else {
            return Ok(None);
        };
        // A directory on its way is not where its path says.
        let settled = tree.places(*parent).len() == 1 && tree.sources(*parent).is_empty();
        let Some(write) = self.open_write(open).filter(|_| settled && !tree.is_local(from) && into.writers == 1) else {
            return Ok(None);
        };
        let mut attr = into.attr;
        attr.touch();
        let source = (remote.path.clone(), remote.etag.clone());
        let (extra, base) = (into.extra.clone(), into.base.clone());
        Ok(Some(Plan { source, target, path, size: remote.size, attr, extra, base, write }))
    }

    /// The new version; none when it has to be done without S3.
    async fn send_copy(&self, plan: &Plan) -> Option<Etag> {
        let condition = match &plan.base {
            Base::Absent => Condition::Absent,
            Base::Version(etag) => Condition::Matches(etag.clone()),
            Base::Unknown => return None,
        };
        let headers = attr::to_headers(&plan.attr, &plan.extra, attr::content_type(&plan.path), plan.write);
        let (from, to) = (ObjectKey::new(&plan.source.0), ObjectKey::new(&plan.path));
        let copy = self.store.copy(&from, &plan.source.1, &to, Some(&headers), &condition);
        match tokio::time::timeout(FAILING_PATIENCE, copy).await {
            Ok(Ok(etag)) => return Some(etag),
            Ok(Err(StoreError::Conflict(_) | StoreError::NotFound(_) | StoreError::Refused(_, _))) => return None,
            Ok(Err(error)) => tracing::info!(path = plan.path, %error, "a copy by s3 did not go well"),
            Err(_) => tracing::info!(path = plan.path, "a copy by s3 takes too long"),
        }
        let there = self.head(&plan.path).await.ok()?;
        match conflict::resolve(&condition, plan.write, there.as_ref()) {
            Resolution::Ours(etag) => Some(etag),
            Resolution::Again | Resolution::Lost => {
                // It may still happen: the upload looks at what is there then.
                self.tree().get_mut(plan.target).ok()?.base = Base::Unknown;
                None
            }
        }
    }

    /// The target is what S3 has now, and nothing of it is here.
    fn adopt_copy(&self, plan: Plan, etag: Etag, state: &mut State) -> Result<u64> {
        let mut tree = self.tree();
        if let Some(open) = state.open.take() {
            self.drop_open(open)?;
        }
        *state = State::remote(plan.size);
        let node = tree.get_mut(plan.target)?;
        (node.size, node.dirty, node.attr) = (plan.size, false, plan.attr);
        node.base = Base::Version(etag.clone());
        node.extra.content_type = Some(attr::content_type(&plan.path).to_owned());
        node.remote =
            Some(Remote { path: plan.path, etag, size: plan.size, last_modified: None, told: Told::All, racy: true });
        if let Place::At { parent, name } = node.place.clone() {
            tree.touch(parent, &name);
        }
        Ok(plan.size)
    }
}
