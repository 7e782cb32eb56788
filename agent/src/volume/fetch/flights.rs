//! Which bytes of a file are on their way from S3, so that nobody fetches them twice.

use std::collections::BTreeMap;
use std::ops::Range;

use tokio::sync::watch;

use super::pattern::Pattern;

/// Bytes on their way, and what is to be fetched after them.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    /// By their start: the end, and how far they have come. They do not overlap.
    under_way: BTreeMap<u64, (u64, watch::Receiver<u64>)>,
    pub(super) pattern: Pattern,
    /// What is to be fetched ahead, and in pieces of which size.
    pub(super) plan: Vec<Range<u64>>,
    pub(super) piece: u64,
    /// Somebody does it.
    pub(super) driven: bool,
}

/// Waits for bytes that somebody else fetches.
#[derive(Debug)]
pub(super) struct Waiter {
    until: u64,
    reached: watch::Receiver<u64>,
}

impl Waiter {
    /// Returns when they are there, or do not come any more.
    pub(super) async fn wait(mut self) {
        // The sender is dropped when the flight has landed.
        let _ = self.reached.wait_for(|reached| *reached >= self.until).await;
    }
}

impl Flights {
    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// What of `range` nobody fetches yet, in order.
    pub(super) fn free(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut free = Vec::new();
        let mut at = range.start;
        for taken in self.over(range) {
            if taken.start > at {
                free.push(at..taken.start);
            }
            at = at.max(taken.end);
        }
        if at < range.end {
            free.push(at..range.end);
        }
        free
    }

    /// Nothing is fetched ahead until somebody reads on.
    pub(super) fn give_up(&mut self) {
        self.plan.clear();
        self.pattern.give_up();
    }

    fn over(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.under_way.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let (start, end) = (range.start, range.end);
        let near = self.under_way.range(first..end.max(first)).map(|(start, (end, _))| *start..*end);
        near.filter(move |taken| taken.end > start)
    }

    /// `range` is being fetched until [`Flights::land`]; those who wait are woken when the answer says that their bytes
    /// are there, or is dropped.
    pub(super) fn begin(&mut self, range: &Range<u64>) -> watch::Sender<u64> {
        let (reached, waiting) = watch::channel(range.start);
        self.under_way.insert(range.start, (range.end, waiting));
        reached
    }

    pub(super) fn land(&mut self, range: &Range<u64>) {
        self.under_way.remove(&range.start);
    }

    /// What to wait for of the flights that have bytes of `range`.
    pub(super) fn waiters(&self, range: &Range<u64>) -> Vec<Waiter> {
        let waiter = |taken: Range<u64>| {
            let (end, reached) = self.under_way.get(&taken.start)?;
            Some(Waiter { until: range.end.min(*end), reached: reached.clone() })
        };
        self.over(range).filter_map(waiter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_not_free() {
        let mut flights = Flights::default();
        let one = flights.begin(&(10..20));
        let _two = flights.begin(&(30..40));
        assert_eq!(flights.free(&(0..50)), [0..10, 20..30, 40..50]);
        assert_eq!(flights.free(&(12..18)), []);
        assert_eq!(flights.free(&(15..45)), [20..30, 40..45]);
        assert_eq!((flights.waiters(&(0..10)).len(), flights.waiters(&(19..31)).len()), (0, 2));
        assert_eq!(flights.waiters(&(5..15)).pop().unwrap().until, 15);
        drop(one);
        flights.land(&(10..20));
        assert_eq!(flights.free(&(0..45)), [0..30, 40..45]);
    }

    #[tokio::test]
    async fn who_waits_goes_on_as_soon_as_his_bytes_are_there() {
        let mut flights = Flights::default();
        let reached = flights.begin(&(10..20));
        let (early, late) = (flights.waiters(&(0..15)).remove(0), flights.waiters(&(0..50)).remove(0));
        reached.send_replace(15);
        early.wait().await;
        let late = late.wait();
        tokio::pin!(late);
        assert!(futures::poll!(late.as_mut()).is_pending());
        drop(reached);
        late.await;
    }
}
