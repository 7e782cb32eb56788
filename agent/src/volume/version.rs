//! Versions: what S3 has under a name, whether it is still what an inode shows, and who won a race.
//!
//! Every question has a limit (see `breaker`): without an answer the caller gets an error, or, for a name of which
//! something was known, that.

pub(crate) mod conflict;
pub(crate) mod contested;

use std::collections::BTreeMap;
use std::time::Duration;

use self::contested::Seen;
use super::Volume;
use super::attr;
use super::error::{Result, VolumeError};
use super::ops::data::SMALL;
use super::store::{ObjectInfo, ObjectKey, Page, StoreError};
use super::tree::adopt::Found;
use super::tree::{Hint, Ino, Known, Listed, Place, Question, Remembered, join};
use super::{name, records, spill};

/// S3's limit.
const PAGE: u16 = 1000;
/// An open comes no later than this after its lookup was begun.
const LOOKED_UP: Duration = Duration::from_secs(1);
/// How often a question is asked again because its directory was moved meanwhile, and is somewhere else now.
const MOVES: usize = 10;
/// Names of our own, wherever they are.
pub(crate) const RESERVED: [&str; 2] = [spill::DIRECTORY, records::DIRECTORY];
/// What Hadoop puts behind the name of an empty directory.
const FOLDER: &str = "_$folder$";

/// What S3 said of a name, not merged yet.
#[derive(Debug)]
pub(crate) struct Answer {
    question: Question,
    found: Option<Found>,
}

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
pub(crate) fn found(path: &str, seen: Seen) -> Found {
    let Seen { info, bytes } = seen;
    if attr::is_directory(&info) {
        Found::Dir { marker: Some(info) }
    } else {
        Found::File { path: path.to_owned(), info, bytes }
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
        // Perhaps S3 is being asked ahead of whoever looks it up now: what comes of that is trusted like any answer.
        if self.asking.has(parent, name) && matches!(self.tree().knows(parent, name)?, Known::Ask(_)) {
            self.asking.wait(parent, name).await;
        }
        let most = if self.is_contested(parent, name) { SMALL } else { 0 };
        self.resolve_now(parent, name, most).await
    }

    /// [`Volume::resolve`], whoever asks already; with the bytes of a file of at most so many.
    pub(crate) async fn resolve_now(&self, parent: Ino, name: &str, most: u64) -> Result<Ino> {
        for _ in 0..MOVES {
            let mut known = self.tree().knows(parent, name)?;
            if let Known::Ask(Question { hint: Hint::New, older, .. }) = &known
                && self.list_instead(parent, *older).await
            {
                known = self.tree().knows(parent, name)?;
            }
            let question = match known {
                Known::Node(ino) => return Ok(ino),
                Known::Absent => return Err(VolumeError::NotFound),
                Known::Ask(question) => question,
            };
            let found = match self.breaker.briefly(question.older, self.ask(&question, most)).await {
                Ok(found) => found,
                Err(error) => return self.unverified(parent, name, error),
            };
            if let Some(answer) = self.adopt(parent, name, &question, found).await {
                return answer;
            }
        }
        Err(VolumeError::TimedOut)
    }

    /// Asks S3 about a name that somebody will look up, if it must be asked and nobody does.
    pub(crate) async fn ask_early(&self, parent: Ino, name: &str) -> Result<Option<Answer>> {
        let Some(_asking) = self.asking.begin(parent, name) else { return Ok(None) };
        let Known::Ask(question) = self.tree().knows(parent, name)? else { return Ok(None) };
        let found = self.breaker.briefly(question.older, self.ask(&question, 0)).await?;
        Ok(Some(Answer { question, found }))
    }

    /// The inode that a name has, by what S3 said of it before.
    pub(crate) async fn resolve_by(&self, parent: Ino, name: &str, answer: Answer) -> Result<Ino> {
        if !self.tree().may_answer(answer.question.asked) {
            return self.resolve(parent, name).await;
        }
        match self.adopt(parent, name, &answer.question, answer.found).await {
            Some(ino) => ino,
            None => self.resolve(parent, name).await,
        }
    }

    /// Asks S3 about the version behind a name that is known, however lately it was asked.
    pub(crate) async fn look_again(&self, parent: Ino, name: String) -> Result<()> {
        let question = {
            let tree = self.tree();
            let paths = tree.places(parent).iter().map(|place| join(place, &name)).collect();
            Question { paths, asked: tree.ask(), hint: Hint::File, older: false }
        };
        let found = self.ask(&question, 0).await?;
        match self.adopt(parent, &name, &question, found).await {
            None | Some(Ok(_) | Err(VolumeError::NotFound)) => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    /// Merges an answer, and keeps the bytes that came along; none when it was not asked for where the name may be now.
    async fn adopt(&self, parent: Ino, name: &str, question: &Question, found: Option<Found>) -> Option<Result<Ino>> {
        let whole = found.as_ref().and_then(Found::whole);
        let adopted = {
            let mut tree = self.tree();
            let asked = |place: &String| question.paths.contains(&join(place, name));
            if !tree.places(parent).iter().all(asked) {
                return None;
            }
            tree.adopt(parent, name, question, found, self.options.owner)
        };
        if let (Ok(Some(ino)), Some((etag, bytes))) = (&adopted, whole) {
            self.keep_whole(*ino, &etag, &bytes).await;
        }
        Some(adopted.and_then(|ino| ino.ok_or(VolumeError::NotFound)))
    }

    /// When names are asked for one after another that S3 does not have: one listing, which answers for all such names as
    /// long as it is trusted. Whether there is one; callers take turns, so that one asks for all.
    async fn list_instead(&self, dir: Ino, older: bool) -> bool {
        let Some((_, turn)) = self.tree().listing_instead(dir) else { return false };
        let _turn = turn.lock().await;
        let pages = {
            let tree = self.tree();
            if tree.get(dir).and_then(|node| node.dir()).is_ok_and(|dir| tree.is_fresh(dir.listed)) {
                return true;
            }
            tree.listing_instead(dir).map(|(pages, _)| pages)
        };
        let Some(pages) = pages else { return false };
        match self.list_some(dir, pages, older).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::debug!(%dir, %error, "no listing, asking for a name");
                false
            }
        }
    }

    /// Brings the names of a directory of at most so many pages a place up to date; whether it had no more.
    async fn list_some(&self, dir: Ino, pages: usize, older: bool) -> Result<bool> {
        for _ in 0..MOVES {
            let (places, asked) = {
                let tree = self.tree();
                (tree.places(dir), tree.ask())
            };
            if places.is_empty() {
                // Nobody else has a part in this directory yet: the names that are known are all there are.
                return Ok(true);
            }
            let mut entries = BTreeMap::new();
            for place in &places {
                if !self.list_place(place, pages, older, &mut entries).await? {
                    self.tree().get_mut(dir)?.dir_mut()?.misses.note_larger(pages);
                    return Ok(false);
                }
            }
            let mut tree = self.tree();
            if tree.places(dir).iter().all(|place| places.contains(place)) {
                return tree.adopt_listing(dir, &entries, asked).map(|()| true);
            }
        }
        Err(VolumeError::TimedOut)
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
    /// With the bytes of a file of at most `most`.
    async fn ask(&self, question: &Question, most: u64) -> Result<Option<Found>> {
        let mut best = None;
        for path in &question.paths {
            if let Some(found) = self.ask_path(path, question.hint, most).await? {
                best = Some(found);
            }
        }
        Ok(best)
    }

    async fn ask_path(&self, path: &str, hint: Hint, most: u64) -> Result<Option<Found>> {
        if hint == Hint::File
            && let Some(seen) = self.look_at(path, most).await?
        {
            return Ok(Some(found(path, seen)));
        }
        // A marker says it all: the directory hides an object of the same name.
        if hint == Hint::Dir
            && let Some(marker) = self.head(&directory_key(path)).await?
        {
            return Ok(Some(Found::Dir { marker: Some(marker) }));
        }
        let (file, directory) = tokio::join!(self.look_at(path, most), self.ask_directory(path));
        match (directory?, file?) {
            // A marker of another form tells more than that there are keys below.
            (Some(Found::Dir { marker: None }), Some(seen)) if attr::is_directory(&seen.info) => {
                Ok(Some(found(path, seen)))
            }
            (Some(directory), _) => Ok(Some(directory)),
            (None, Some(seen)) => Ok(Some(found(path, seen))),
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
        if self.was_walked_again(ino) {
            return Ok(());
        }
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
        let (known, older) = {
            let tree = self.tree();
            let listed = tree.get(dir)?.dir()?.listed;
            if !force && tree.is_fresh(listed) {
                return Ok(());
            }
            (listed.is_some(), !force && tree.will_do(listed))
        };
        match self.list_some(dir, usize::MAX, older).await {
            Err(error) if error.is_away() && !force && known => {
                tracing::debug!(%dir, %error, "s3 is away, serving an unverified listing");
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Adds the names in at most so many pages; whether there are no more.
    async fn list_place(
        &self,
        place: &str,
        pages: usize,
        older: bool,
        entries: &mut BTreeMap<String, Listed>,
    ) -> Result<bool> {
        let prefix = directory_key(place);
        let mut token = None;
        for _ in 0..pages {
            let list = || self.store.list(&prefix, Some('/'), token.as_deref(), PAGE);
            let page = self.breaker.briefly(older, self.breaker.patiently(list)).await?;
            collect(&page, &prefix, self.options.compat_dir, entries);
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(true),
            }
        }
        Ok(false)
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
    legal && !text.starts_with(".fuse_hidden") && !RESERVED.contains(&text)
}
