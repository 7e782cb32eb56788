//! From dirty to queued: the moment from which a file's bytes do not change any more until S3 has them.

use std::sync::Arc;

use uuid::Uuid;

use crate::volume::cache::DataFile;
use crate::volume::cache::usage::Hold;
use crate::volume::content::{Content, State};
use crate::volume::error::{Result, VolumeError};
use crate::volume::failpoint;
use crate::volume::journal::{Op, Position, Seq};
use crate::volume::spill::Spilled;
use crate::volume::tree::{Ino, Place, Tree};
use crate::volume::writeback::Tag;
use crate::volume::{Close, Volume};

impl Volume {
    /// The upload of an inode as it is now; none for one that was unlinked. The caller keeps the tree locked until the
    /// operation is in the journal: a rename in between would upload it to the old name.
    pub(crate) fn put_op(&self, tree: &Tree, ino: Ino, data: &DataFile, spilled: &Spilled) -> Result<Option<Op>> {
        let Some(path) = tree.upload_path(ino) else { return Ok(None) };
        let node = tree.get(ino)?;
        data.note_named();
        Ok(Some(Op::Put {
            path,
            data: data.id,
            spilled: spilled.runs(),
            attr: node.attr,
            extra: node.extra.clone(),
            base: node.base.clone(),
            write: Uuid::new_v4(),
        }))
    }

    /// Bytes and attributes of a dirty file survive this process when this returns; with [`Close::Disk`] they are on disk.
    pub(crate) async fn secure(&self, ino: Ino, content: &Content) -> Result<()> {
        self.note_stores(ino, content).await?;
        let to_disk = self.options.close == Close::Disk;
        let state = content.state.read().await;
        if let (true, Some(open), Some(data)) = (state.dirty, state.open, state.data.clone()) {
            let attr = self.tree().get(ino)?.attr;
            self.amend(open, attr, None)?;
            if to_disk {
                sync_data(data).await?;
                self.note_on_disk(vec![open])?;
            }
        }
        drop(state);
        if to_disk {
            self.journal.sync_all().await?;
        }
        Ok(())
    }

    /// Hands a dirty file to write-back. The operation that brings its present state to S3, if there is one.
    pub(crate) async fn seal(&self, ino: Ino) -> Result<Option<Seq>> {
        let Ok(content) = self.tree().get(ino)?.content() else { return Ok(self.pending_of(ino)) };
        self.note_stores(ino, &content).await?;
        let mut state = content.state.write().await;
        let (true, Some(data)) = (state.dirty, state.data.clone()) else { return Ok(self.pending_of(ino)) };
        let upload = self.upload_of(&content, data).await?;
        let on_disk = self.options.close == Close::Disk;
        if on_disk {
            sync_data(upload.clone()).await?;
        }
        failpoint::hit(failpoint::SEAL);
        let Some((seq, position)) = self.submit_put(ino, &mut state, upload, on_disk)? else { return Ok(None) };
        failpoint::hit(failpoint::SEAL_BEGUN);
        drop(state);
        if on_disk {
            self.journal.sync(position).await?;
        }
        Ok(Some(seq))
    }

    /// What an upload is to read. Others may read the inode's own cache file, and must see later writes: then it is a copy.
    async fn upload_of(&self, content: &Content, data: Arc<DataFile>) -> Result<Arc<DataFile>> {
        if self.is_ours_alone(content, &data) {
            return Ok(data);
        }
        if data.is_watched() {
            data.watch()?;
            // What is stored from now on is a change again only after this.
            sync_data(data.clone()).await?;
        }
        let (cache, source) = (self.cache.clone(), data.clone());
        let copy = tokio::task::spawn_blocking(move || cache.duplicate(&source));
        let copy = copy.await.map_err(std::io::Error::other)??;
        data.hold(Hold::Clean);
        Ok(copy)
    }

    fn submit_put(
        &self,
        ino: Ino,
        state: &mut State,
        data: Arc<DataFile>,
        on_disk: bool,
    ) -> Result<Option<(Seq, Position)>> {
        let mut tree = self.tree();
        let Some(op) = self.put_op(&tree, ino, &data, &state.spilled)? else { return Ok(None) };
        let touched = match &tree.get(ino)?.place {
            Place::At { parent, name } => vec![(*parent, name.clone())],
            Place::Root | Place::Gone | Place::Replaced { .. } => Vec::new(),
        };
        let (spilled, bytes) = (state.spilled.clone(), state.size);
        let (data, origin) = (Some(data), state.origin.clone());
        let tag = Tag { ino: Some(ino), data, spilled, origin, bytes, touched, on_disk, ..Tag::default() };
        let (seq, position) = self.submit(&mut tree, op, tag, state.open)?;
        let node = tree.get_mut(ino)?;
        node.dirty = false;
        node.pending = Some(seq);
        state.dirty = false;
        state.open = None;
        state.sealed = Some(seq);
        Ok(Some((seq, position)))
    }

    fn pending_of(&self, ino: Ino) -> Option<Seq> {
        let tree = self.tree();
        tree.get(ino).ok()?.pending.filter(|seq| tree.is_outstanding(Some(*seq)))
    }

    /// Seals every dirty file, open ones too: a snapshot of each as it is now.
    pub(crate) async fn seal_all(&self) -> Result<()> {
        self.note_all_stores().await;
        let dirty: Vec<Ino> = self
            .tree()
            .nodes()
            .filter(|(_, node)| node.dirty && node.place != Place::Gone)
            .map(|(ino, _)| ino)
            .collect();
        for ino in dirty {
            match self.seal(ino).await {
                Ok(_) | Err(VolumeError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

pub(super) async fn sync_data(data: Arc<DataFile>) -> Result<()> {
    tokio::task::spawn_blocking(move || data.file.sync_data()).await.map_err(std::io::Error::other)??;
    Ok(())
}
