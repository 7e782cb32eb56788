//! When one listing of a directory is cheaper than further questions about single names that it does not have.
//!
//! Pure. A listing takes a round trip a page, a question takes one a name: so many questions must have been for nothing
//! within a second before so many pages are asked for. A directory that turns out to be larger is tried again only when
//! twice as many were; one of more than [`MOST_PAGES`] is asked about name by name.

use std::time::{Duration, Instant};

/// Questions longer ago than this say nothing about the next.
const WINDOW: Duration = Duration::from_secs(1);
/// Names in a page.
const PAGE: usize = 1000;
/// A listing of more is no gain: it is old when it is there.
const MOST_PAGES: usize = 16;

/// Questions about names that S3 did not have.
#[derive(Debug, Default)]
pub(crate) struct Misses {
    /// When the first of them was asked, and how many there were since.
    lately: Option<(Instant, usize)>,
    /// A listing had more pages than this.
    larger: usize,
}

impl Misses {
    /// S3 did not have a name.
    pub(crate) fn note(&mut self) {
        let count = self.count();
        self.lately = match self.lately {
            Some((since, _)) if count > 0 => Some((since, count + 1)),
            _ => Some((Instant::now(), 1)),
        };
    }

    /// The directory has more than `pages` pages.
    pub(crate) fn note_larger(&mut self, pages: usize) {
        self.larger = self.larger.max(pages);
    }

    /// A listing has come to its end.
    pub(crate) fn note_listed(&mut self) {
        self.larger = 0;
    }

    /// At most how many pages to ask for, before a question about one more name. `known`: names that it has, as far as
    /// known; `made_here`: nobody else is likely to have put names into it.
    pub(crate) fn pages(&self, known: usize, made_here: bool) -> Option<usize> {
        let expected = (known / PAGE + 1).max(2 * self.larger);
        let asked = self.count() + usize::from(made_here);
        (asked >= expected && expected <= MOST_PAGES).then_some((2 * expected).min(MOST_PAGES))
    }

    fn count(&self) -> usize {
        self.lately.filter(|(since, _)| since.elapsed() < WINDOW).map_or(0, |(_, count)| count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_miss_lists_a_small_directory() {
        let mut misses = Misses::default();
        assert_eq!(misses.pages(10, false), None);
        assert_eq!(misses.pages(10, true), Some(2));
        misses.note();
        assert_eq!(misses.pages(10, false), Some(2));
        assert_eq!(misses.pages(2500, false), None);
        misses.note();
        misses.note();
        assert_eq!(misses.pages(2500, false), Some(6));
    }

    #[test]
    fn what_is_large_is_tried_ever_more_seldom() {
        let mut misses = Misses::default();
        let mut pages = 0;
        for _ in 0..1000 {
            misses.note();
            if let Some(tried) = misses.pages(10, true) {
                pages += tried;
                misses.note_larger(tried);
            }
        }
        assert!((16..40).contains(&pages), "{pages}");
        misses.note_listed();
        assert!(misses.pages(10, true).is_some());
        assert_eq!(misses.pages(20_000, true), None);
    }
}
