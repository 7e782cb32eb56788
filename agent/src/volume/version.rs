//! Versions: what S3 has under a name, whether it is still what an inode shows, and who won a race.
//!
//! Every question has a limit (see `breaker`): without an answer the caller gets an error, or, for a name of which
//! something was known, that.

pub(crate) mod conflict;

use std::collections::BTreeMap;
use std::time::Duration;

use super::Volume;
use super::attr;
use super::error::{Result, VolumeError};
use super::name;
use super::store::{ObjectInfo, ObjectKey, Page, StoreError};
use super::tree::adopt::Found;
use super::tree::{Hint, Ino, Known, Listed, Place, Question, Remembered};

/// S3's limit.
const PAGE: u16 = 1000;
/// An open comes no later than this after its lookup was begun.
const LOOKED_UP: Duration = Duration::from_secs(1);
/// What Hadoop puts behind the name of an empty directory.
const FOLDER: &str = "_$folder$";

/// "There is none" as a value.
pub(crate) fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(VolumeError::Store(StoreError::NotFound(_))) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The key of Hadoop's marker of a directory.
pub(crate) fn folder_key(path: &str) -> String {
    format!("{path}{FOLDER}")
}

/// An object under a bare name.
fn found(path: &str, info: ObjectInfo) -> Found {
    if attr::is_directory(&info) {
        Found::Dir { marker: Some(info) }
    } else {
        Found::File { path: path.to_owned(), info }
    }
}

/// The key of a directory's marker, or the prefix of everything in it.
pub(crate) fn directory_key(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}/") }
}

impl Volume {
    /// The inode that a name has now; [`VolumeError::NotFound`] when there is none.
    ///
    /// When S3 is away, what was known of the name before is served.
    pub(crate) async fn resolve(&self, parent: Ino, name: &str) -> Result<Ino> {
        let known = self.tree().knows(parent, name)?;
        let question = match known {
            Known::Node(ino) => return Ok(ino),
            Known::Absent => return Err(VolumeError::NotFound),
            Known::Ask(question) => question,
        };
        match self.breaker.briefly(question.older, self.ask(&question)).await {
            Ok(found) => {
                self.tree().adopt(parent, name, &question, found, self.options.owner)?.ok_or(VolumeError::NotFound)
            }
            Err(error) => self.unverified(parent, name, error),
        }
    }

    /// When S3 is away: the version that was known, or that a listing did not have the name. Else the error.
    fn unverified(&self, parent: Ino, name: &str, error: VolumeError) -> Result<Ino> {
        if !error.is_away() {
            return Err(error);
        }
        match self.tree().remembers(parent, name)? {
            Remembered::Node(ino) => {
                tracing::debug!(%ino, %error, "s3 is away, serving an unverified version");
                Ok(ino)
            }
            Remembered::Absent => Err(VolumeError::NotFound),
            Remembered::Nothing => Err(error),
        }
    }

    /// Asks where a name may be, in the order that loses nothing to a move on its way; the last answer is the best.
    async fn ask(&self, question: &Question) -> Result<Option<Found>> {
        let mut best = None;
        for path in &question.paths {
            if let Some(found) = self.ask_path(path, question.hint).await? {
                best = Some(found);
            }
        }
        Ok(best)
    }

    async fn ask_path(&self, path: &str, hint: Hint) -> Result<Option<Found>> {
        if hint == Hint::File
            && let Some(info) = self.head(path).await?
        {
            return Ok(Some(found(path, info)));
        }
        let (file, directory) = tokio::join!(self.head(path), self.ask_directory(path));
        match (directory?, file?) {
            // A marker of another form tells more than that there are keys below.
            (Some(Found::Dir { marker: None }), Some(info)) if attr::is_directory(&info) => Ok(Some(found(path, info))),
            (Some(directory), _) => Ok(Some(directory)),
            (None, Some(info)) => Ok(Some(found(path, info))),
            (None, None) => self.ask_folder(path).await,
        }
    }

    /// Hadoop's form of an empty directory.
    async fn ask_folder(&self, path: &str) -> Result<Option<Found>> {
        if !self.options.compat_dir {
            return Ok(None);
        }
        Ok(self.head(&folder_key(path)).await?.map(|info| Found::Dir { marker: Some(info) }))
    }

    /// A directory is there when any key is below it; the marker, when it exists, comes first.
    async fn ask_directory(&self, path: &str) -> Result<Option<Found>> {
        let prefix = directory_key(path);
        let page = self.breaker.patiently(|| self.store.list(&prefix, None, None, 1)).await?;
        let Some(first) = page.objects.first() else { return Ok(None) };
        let marker = if first.key.as_str() == prefix { self.head(&prefix).await? } else { None };
        Ok(Some(Found::Dir { marker }))
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Option<ObjectInfo>> {
        let key = ObjectKey::new(key);
        optional(self.breaker.patiently(|| self.store.head(&key)).await)
    }

    /// Brings what is known of an inode up to date; [`VolumeError::Stale`] when its name has another version now.
    pub(crate) async fn revalidate(&self, ino: Ino) -> Result<()> {
        self.revalidate_after(ino, Duration::ZERO).await
    }

    /// [`Volume::revalidate`] for an open. The kernel, which keeps no names, has just looked this one up: to ask again
    /// would only find newer changes than the open must see, and more often than the kernel is ready to start again.
    pub(crate) async fn revalidate_open(&self, ino: Ino) -> Result<()> {
        self.revalidate_after(ino, LOOKED_UP).await
    }

    /// What was asked within the attribute time, or within `grace`, is not asked again.
    async fn revalidate_after(&self, ino: Ino, grace: Duration) -> Result<()> {
        let (parent, name) = {
            let tree = self.tree();
            let node = tree.get(ino)?;
            match &node.place {
                Place::At { parent, name } if !tree.is_local(node) && !tree.is_fresh_within(node.checked, grace) => {
                    (*parent, name.clone())
                }
                Place::At { .. } | Place::Root | Place::Gone => return Ok(()),
                Place::Replaced { .. } => return Err(VolumeError::Stale),
            }
        };
        match self.resolve(parent, &name).await {
            Ok(now) if now == ino => Ok(()),
            Ok(_) | Err(VolumeError::NotFound) => Err(VolumeError::Stale),
            Err(error) => Err(error),
        }
    }

    /// Brings the names of a directory up to date; `force` asks S3 even when they are fresh.
    pub(crate) async fn list(&self, dir: Ino, force: bool) -> Result<()> {
        let (places, asked, older) = {
            let tree = self.tree();
            let listed = tree.get(dir)?.dir()?.listed;
            if !force && tree.is_fresh(listed) {
                return Ok(());
            }
            (tree.places(dir), tree.ask(), !force && tree.will_do(listed))
        };
        if places.is_empty() {
            // Nobody else has a part in this directory yet: the names that are known are all there are.
            return Ok(());
        }
        match self.list_places(&places, older).await {
            Err(error) if error.is_away() && !force && self.tree().get(dir)?.dir()?.listed.is_some() => {
                tracing::debug!(%dir, %error, "s3 is away, serving an unverified listing");
                Ok(())
            }
            listing => self.tree().adopt_listing(dir, &listing?, asked),
        }
    }

    async fn list_places(&self, places: &[String], older: bool) -> Result<BTreeMap<String, Listed>> {
        let mut entries = BTreeMap::new();
        for place in places {
            self.list_place(place, older, &mut entries).await?;
        }
        Ok(entries)
    }

    async fn list_place(&self, place: &str, older: bool, entries: &mut BTreeMap<String, Listed>) -> Result<()> {
        let prefix = directory_key(place);
        let mut token = None;
        loop {
            let list = || self.store.list(&prefix, Some('/'), token.as_deref(), PAGE);
            let page = self.breaker.briefly(older, self.breaker.patiently(list)).await?;
            collect(&page, &prefix, self.options.compat_dir, entries);
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }
}

/// The names in a page. A directory hides a file of the same name; names that no path can have are left out.
/// `compat`: Hadoop's markers are directories.
fn collect(page: &Page, prefix: &str, compat: bool, entries: &mut BTreeMap<String, Listed>) {
    for object in &page.objects {
        let Some(name) = object.key.as_str().strip_prefix(prefix).filter(|name| is_name(name)) else { continue };
        if let Some(folder) = name.strip_suffix(FOLDER).filter(|folder| compat && is_name(folder)) {
            entries.insert(folder.to_owned(), Listed::Dir);
            continue;
        }
        let listed = Listed::File { etag: object.etag.clone(), size: object.size, last_modified: object.last_modified };
        entries.insert(name.to_owned(), listed);
    }
    for sub in &page.prefixes {
        let name = sub.strip_prefix(prefix).and_then(|name| name.strip_suffix('/'));
        if let Some(name) = name.filter(|name| is_name(name)) {
            entries.insert(name.to_owned(), Listed::Dir);
        }
    }
}

/// s3fs leaves files that were deleted while open under a name of its own; they are not shown.
fn is_name(text: &str) -> bool {
    let legal =
        !text.is_empty() && text != "." && text != ".." && name::length(text) <= 255 && !text.contains(['/', '\0']);
    legal && !text.starts_with(".fuse_hidden") && text != super::spill::DIRECTORY
}
