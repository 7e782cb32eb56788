//! What a file system is, in a hundred lines: names, bytes, modes.

use std::collections::{BTreeMap, HashMap};

/// A name for the bytes of a file: they live on while somebody has them open.
pub(super) type FileId = u64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    File { id: FileId, mode: u32 },
    Dir { mode: u32 },
    Link { target: String },
}

/// Why an operation is refused, or is not asked for at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum No {
    Errno(i32),
    /// The kernel would follow a link, or refuse by itself.
    Skip,
}

pub(super) type Answer<T> = Result<T, No>;

#[derive(Debug, Default)]
pub(super) struct Reference {
    items: BTreeMap<String, Item>,
    bytes: HashMap<FileId, Vec<u8>>,
    next: FileId,
    /// Open files by slot.
    pub(super) slots: BTreeMap<usize, FileId>,
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Reference {
    pub(super) fn items(&self) -> &BTreeMap<String, Item> {
        &self.items
    }

    pub(super) fn bytes(&self, id: FileId) -> &[u8] {
        &self.bytes[&id]
    }

    /// Whether the way to `path` is there.
    pub(super) fn walk(&self, path: &str) -> Answer<()> {
        let above = parent(path);
        if above.is_empty() {
            return Ok(());
        }
        self.walk(above)?;
        match self.items.get(above) {
            None => Err(No::Errno(libc::ENOENT)),
            Some(Item::Dir { .. }) => Ok(()),
            Some(Item::File { .. }) => Err(No::Errno(libc::ENOTDIR)),
            Some(Item::Link { .. }) => Err(No::Skip),
        }
    }

    pub(super) fn get(&self, path: &str) -> Answer<&Item> {
        self.walk(path)?;
        self.items.get(path).ok_or(No::Errno(libc::ENOENT))
    }

    /// The file at `path`, made when there is none.
    pub(super) fn open(&mut self, path: &str, mode: u32) -> Answer<FileId> {
        match self.get(path) {
            Ok(Item::File { id, .. }) => Ok(*id),
            Ok(Item::Dir { .. }) => Err(No::Errno(libc::EISDIR)),
            Ok(Item::Link { .. }) => Err(No::Skip),
            Err(No::Errno(libc::ENOENT)) if self.walk(path).is_ok() => {
                self.next += 1;
                self.items.insert(path.to_owned(), Item::File { id: self.next, mode });
                self.bytes.insert(self.next, Vec::new());
                Ok(self.next)
            }
            Err(no) => Err(no),
        }
    }

    pub(super) fn write(&mut self, id: FileId, offset: usize, bytes: &[u8]) {
        let file = self.bytes.entry(id).or_default();
        let end = offset + bytes.len();
        if !bytes.is_empty() && file.len() < end {
            file.resize(end, 0);
        }
        if !bytes.is_empty() {
            file[offset..end].copy_from_slice(bytes);
        }
    }

    pub(super) fn truncate(&mut self, path: &str, size: usize) -> Answer<()> {
        match self.get(path)? {
            Item::File { id, .. } => {
                let id = *id;
                self.bytes.entry(id).or_default().resize(size, 0);
                Ok(())
            }
            Item::Dir { .. } => Err(No::Errno(libc::EISDIR)),
            Item::Link { .. } => Err(No::Skip),
        }
    }

    pub(super) fn unlink(&mut self, path: &str) -> Answer<()> {
        match self.get(path)? {
            Item::Dir { .. } => Err(No::Errno(libc::EISDIR)),
            Item::File { .. } | Item::Link { .. } => {
                self.items.remove(path);
                Ok(())
            }
        }
    }

    fn make(&mut self, path: &str, item: Item) -> Answer<()> {
        match self.get(path) {
            Ok(_) => Err(No::Errno(libc::EEXIST)),
            Err(No::Errno(libc::ENOENT)) => {
                self.walk(path)?;
                self.items.insert(path.to_owned(), item);
                Ok(())
            }
            Err(no) => Err(no),
        }
    }

    pub(super) fn mkdir(&mut self, path: &str, mode: u32) -> Answer<()> {
        self.make(path, Item::Dir { mode })
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) -> Answer<()> {
        self.make(path, Item::Link { target: target.to_owned() })
    }

    pub(super) fn rmdir(&mut self, path: &str) -> Answer<()> {
        match self.get(path)? {
            Item::Dir { .. } if self.names(path).is_empty() => {
                self.items.remove(path);
                Ok(())
            }
            Item::Dir { .. } => Err(No::Errno(libc::ENOTEMPTY)),
            Item::File { .. } | Item::Link { .. } => Err(No::Errno(libc::ENOTDIR)),
        }
    }

    /// The kernel refuses to move a directory into itself, and knows when both names are one.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Answer<()> {
        self.walk(from)?;
        self.walk(to)?;
        if format!("{to}/").starts_with(&format!("{from}/")) || format!("{from}/").starts_with(&format!("{to}/")) {
            return Err(No::Skip);
        }
        let source = self.get(from)?.clone();
        match (&source, self.items.get(to)) {
            (_, None) => {}
            (Item::Dir { .. }, Some(Item::Dir { .. })) if self.names(to).is_empty() => {}
            (Item::Dir { .. }, Some(Item::Dir { .. })) => return Err(No::Errno(libc::ENOTEMPTY)),
            (Item::Dir { .. }, Some(_)) => return Err(No::Errno(libc::ENOTDIR)),
            (_, Some(Item::Dir { .. })) => return Err(No::Errno(libc::EISDIR)),
            (_, Some(_)) => {}
        }
        self.items.remove(from);
        self.items.insert(to.to_owned(), source);
        let below = format!("{from}/");
        let moved: Vec<String> = self.items.keys().filter(|path| path.starts_with(&below)).cloned().collect();
        for old in moved {
            if let Some(item) = self.items.remove(&old) {
                self.items.insert(format!("{to}/{}", &old[below.len()..]), item);
            }
        }
        Ok(())
    }

    pub(super) fn chmod(&mut self, path: &str, new: u32) -> Answer<()> {
        self.walk(path)?;
        match self.items.get_mut(path) {
            None => Err(No::Errno(libc::ENOENT)),
            Some(Item::Link { .. }) => Err(No::Skip),
            Some(Item::File { mode, .. } | Item::Dir { mode }) => {
                *mode = new;
                Ok(())
            }
        }
    }

    /// The names in a directory, the root's too.
    pub(super) fn names(&self, dir: &str) -> Vec<String> {
        let inside = self.items.keys().filter(|path| !path.is_empty() && parent(path) == dir);
        inside.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect()
    }

    /// The process ends: nothing is open any more.
    pub(super) fn reboot(&mut self) {
        self.slots.clear();
    }
}
