//! Who walks through a tree goes into one directory after the other: the next ones are listed before he is there, and what
//! is in them is foreseen as he would need it.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::Step;
use super::asked::PARALLEL;
use crate::volume::Volume;
use crate::volume::error::Result;
use crate::volume::tree::Ino;

/// Directories below each other that are listed ahead.
pub(super) const DEPTH: usize = 4;
/// Names of each that are foreseen.
const NAMES: usize = 64;

impl Volume {
    /// Lists a directory and asks about what is in it. `reads`: and fetches the small files.
    pub(super) fn foresee_below<'a>(
        &'a self,
        parent: Ino,
        name: &'a str,
        reads: bool,
        depth: usize,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            let Some(dir) = self.list_ahead(parent, name).await? else { return Ok(()) };
            let below = (depth > 1).then_some(reads);
            let names = self.next_names(dir, "", Step { names: NAMES, reads, below });
            let work = futures::stream::iter(names).map(|next| async move {
                if next.directory {
                    return self.foresee_below(dir, &next.name, reads, depth - 1).await;
                }
                self.foresee(dir, next).await
            });
            let log = |result: Result<()>| async move {
                if let Err(error) = result {
                    tracing::debug!(%dir, %error, "a name is not known ahead");
                }
            };
            work.buffer_unordered(PARALLEL).for_each(log).await;
            Ok(())
        }
        .boxed()
    }

    /// The directory, unless it was listed lately. Whoever lists it now waits for this listing.
    async fn list_ahead(&self, parent: Ino, name: &str) -> Result<Option<Ino>> {
        let _turn = self.asking.turn().await?;
        if self.breaker.is_open() {
            return Ok(None);
        }
        let dir = self.resolve(parent, name).await?;
        let (listed, listing) = {
            let tree = self.tree();
            let known = tree.get(dir)?.dir()?;
            (tree.is_fresh(known.listed), known.listing.clone())
        };
        let Some(_listing) = listing.try_lock().ok().filter(|_| !listed) else { return Ok(None) };
        self.list(dir, false).await.map(|()| Some(dir))
    }
}
