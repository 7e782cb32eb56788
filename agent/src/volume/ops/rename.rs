//! Moves: acknowledged from the journal, done by copies on the server behind it.

use uuid::Uuid;

use super::{new_path, touch_parent};
use crate::volume::Volume;
use crate::volume::error::{Result, VolumeError};
use crate::volume::journal::{Op, Seq};
use crate::volume::tree::{Child, Ino, Node, Opaque, Place, Tree};
use crate::volume::writeback::Tag;

/// One end of a move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) parent: Ino,
    pub(crate) name: &'a str,
}

/// What becomes of what has the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replacing {
    Replace,
    /// `RENAME_NOREPLACE`.
    Refuse,
    /// `RENAME_EXCHANGE`: it gets the old name.
    Exchange,
}

/// What is to be moved, and what is in the way.
#[derive(Debug)]
struct Plan {
    source: Ino,
    target: Option<Ino>,
    from: String,
    to: String,
}

impl Volume {
    pub(crate) async fn rename(&self, from: End<'_>, to: End<'_>, replacing: Replacing) -> Result<()> {
        let source = self.resolve(from.parent, from.name).await?;
        let target = match self.resolve(to.parent, to.name).await {
            Ok(_) if replacing == Replacing::Refuse => return Err(VolumeError::Exists),
            Ok(target) if replacing == Replacing::Exchange => return self.exchange(source, target, from, to).await,
            Err(VolumeError::NotFound) if replacing == Replacing::Exchange => return Err(VolumeError::NotFound),
            Ok(target) => Some(target),
            Err(VolumeError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if target == Some(source) {
            return Ok(());
        }
        self.check_kinds(source, target).await?;
        let open = self.open_record(source).await?;
        let content = target.and_then(|target| self.tree().get(target).ok()?.content().ok());
        let mut state = match &content {
            Some(content) => Some(content.state.write().await),
            None => None,
        };
        let target_open = state.as_ref().and_then(|state| state.open);
        self.apply_move(&mut self.tree(), source, target, from, to, target_open)?;
        if let Some(state) = &mut state {
            state.open = None;
        }
        drop(state);
        self.reopen_record(source, open).await
    }

    /// Three moves in one step for everybody on this node. In S3 they are done one after the other.
    async fn exchange(&self, one: Ino, two: Ino, from: End<'_>, to: End<'_>) -> Result<()> {
        if one == two {
            return Ok(());
        }
        let aside = format!(".ec2mpi-exchange-{}", Uuid::new_v4().simple());
        let aside = End { parent: from.parent, name: &aside };
        let open = [self.open_record(one).await?, self.open_record(two).await?];
        {
            let mut tree = self.tree();
            if tree.child(from.parent, from.name) != Some(one) || tree.child(to.parent, to.name) != Some(two) {
                return Err(VolumeError::NotFound);
            }
            // What can be refused is refused before anything has moved.
            for end in [aside, from, to] {
                new_path(&tree, end.parent, end.name)?;
            }
            self.apply_move(&mut tree, one, None, from, aside, None)?;
            self.apply_move(&mut tree, two, None, to, from, None)?;
            self.apply_move(&mut tree, one, None, aside, to, None)?;
        }
        self.reopen_record(one, open[0]).await?;
        self.reopen_record(two, open[1]).await
    }

    /// Changes tree and journal in one step, if the names still are what was looked up.
    fn apply_move(
        &self,
        tree: &mut Tree,
        source: Ino,
        target: Option<Ino>,
        from: End<'_>,
        to: End<'_>,
        target_open: Option<Seq>,
    ) -> Result<()> {
        if tree.child(from.parent, from.name) != Some(source) || tree.child(to.parent, to.name) != target {
            return Err(VolumeError::NotFound);
        }
        let path = tree.path(source).ok_or(VolumeError::NotFound)?;
        let plan = Plan { source, target, from: path, to: new_path(tree, to.parent, to.name)? };
        self.keep_directory(tree, from.parent)?;
        if tree.get(source)?.is_dir() {
            self.move_directory(tree, &plan, from, to)?;
        } else {
            self.move_object(tree, &plan, from, to, target_open)?;
        }
        touch_parent(tree, from.parent);
        touch_parent(tree, to.parent);
        Ok(())
    }

    async fn check_kinds(&self, source: Ino, target: Option<Ino>) -> Result<()> {
        let Some(target) = target else { return Ok(()) };
        let (source_is_dir, target_is_dir) = {
            let tree = self.tree();
            (tree.get(source)?.is_dir(), tree.get(target)?.is_dir())
        };
        match (source_is_dir, target_is_dir) {
            (true, false) => Err(VolumeError::NotDirectory),
            (false, true) => Err(VolumeError::IsDirectory),
            (true, true) => self.expect_empty(target).await,
            (false, false) => Ok(()),
        }
    }

    async fn open_record(&self, ino: Ino) -> Result<Option<Seq>> {
        let content = self.tree().get(ino)?.content().ok();
        Ok(match content {
            Some(content) => content.state.read().await.open,
            None => None,
        })
    }

    /// An object that S3 has, or will have, is moved there. One that is only being written just goes up under the new
    /// name when it is closed.
    fn move_object(
        &self,
        tree: &mut Tree,
        plan: &Plan,
        from: End<'_>,
        to: End<'_>,
        target_open: Option<Seq>,
    ) -> Result<()> {
        let source = tree.get(plan.source)?;
        let in_s3 = source.remote.is_some() || tree.is_outstanding(source.pending);
        let there = plan.target.map(|target| tree.get(target)).transpose()?;
        let base = there.map_or(crate::volume::journal::Base::Absent, |node| node.base.clone());
        let preserve: Vec<Ino> = plan.target.filter(|_| there.is_some_and(|node| node.opens > 0)).into_iter().collect();
        let rest = if in_s3 {
            let op = move_op(plan, source, base);
            let touched = vec![(from.parent, from.name.to_owned()), (to.parent, to.name.to_owned())];
            let tag = Tag { ino: Some(plan.source), touched, preserve, ..Tag::default() };
            let (seq, _) = self.submit(tree, op, tag, None)?;
            tree.get_mut(plan.source)?.pending = Some(seq);
            Some(Child::Gone(seq))
        } else {
            let rest = self.leave(tree, plan, from)?;
            // What is on its way to the new name has its outcome still to tell, and nobody to tell it to.
            let busy = self.queue.has(&plan.to);
            tree.get_mut(plan.source)?.base = if busy { crate::volume::journal::Base::Unknown } else { base };
            tree.touch(from.parent, from.name);
            tree.touch(to.parent, to.name);
            rest
        };
        target_open.map_or(Ok(()), |open| self.drop_open(open))?;
        switch(tree, plan, to, rest)
    }

    /// A file that is only being written may still have replaced an object that S3 has under its old name.
    fn leave(&self, tree: &mut Tree, plan: &Plan, from: End<'_>) -> Result<Option<Child>> {
        let node = tree.get(plan.source)?;
        if !self.may_be_in_s3(tree, node, &plan.from) {
            return Ok(None);
        }
        let op = Op::Delete { path: plan.from.clone(), base: node.base.clone() };
        let touched = vec![(from.parent, from.name.to_owned())];
        let (seq, _) = self.submit(tree, op, Tag { touched, ..Tag::default() }, None)?;
        Ok(Some(Child::Gone(seq)))
    }

    fn move_directory(&self, tree: &mut Tree, plan: &Plan, from: End<'_>, to: End<'_>) -> Result<()> {
        let attr = Some(tree.get(plan.source)?.attr);
        let op = Op::RenameDir { from: plan.from.clone(), to: plan.to.clone(), attr };
        let mut sources = tree.sources(plan.source);
        let touched = vec![(from.parent, from.name.to_owned()), (to.parent, to.name.to_owned())];
        let (seq, _) = self.submit(tree, op, Tag { ino: Some(plan.source), touched, ..Tag::default() }, None)?;
        sources.push((seq, plan.from.clone()));
        switch(tree, plan, to, Some(Child::Gone(seq)))?;
        let node = tree.get_mut(plan.source)?;
        node.pending = Some(seq);
        let dir = node.dir_mut()?;
        // What it replaces may have one.
        dir.plain = false;
        dir.opaque = Some(Opaque::UntilStarted(seq));
        dir.moved_from = sources;
        Ok(())
    }

    /// The journal's `Open` of a file that is being written learns its new path.
    async fn reopen_record(&self, ino: Ino, open: Option<Seq>) -> Result<()> {
        if open.is_none() {
            return Ok(());
        }
        let content = self.tree().get(ino)?.content()?;
        let mut state = content.state.write().await;
        let (Some(open), Some(data)) = (state.open, state.data.clone()) else { return Ok(()) };
        let tree = self.tree();
        if let Some(op) = self.put_op(&tree, ino, &data, &state.spilled)? {
            state.open = Some(self.note_open(op, Some(open))?);
        }
        Ok(())
    }
}

fn move_op(plan: &Plan, source: &Node, base: crate::volume::journal::Base) -> Op {
    Op::Rename {
        from: plan.from.clone(),
        to: plan.to.clone(),
        source: source.base.clone(),
        base,
        size: source.size,
        attr: source.attr,
        extra: source.extra.clone(),
        write: Uuid::new_v4(),
    }
}

/// The names change: at once, for everybody on this node.
fn switch(tree: &mut Tree, plan: &Plan, to: End<'_>, rest: Option<Child>) -> Result<()> {
    if let Some(target) = plan.target {
        let node = tree.get_mut(target)?;
        node.dirty = false;
        node.error = None;
        tree.detach(target, Place::Gone, None);
    }
    let node = tree.get_mut(plan.source)?;
    node.attr.ctime = crate::volume::attr::Time::now();
    // Held by the reference below: detaching must not drop it.
    node.opens += 1;
    tree.detach(plan.source, Place::Gone, rest);
    tree.get_mut(plan.source)?.opens -= 1;
    tree.reattach(plan.source, to.parent, to.name)
}
