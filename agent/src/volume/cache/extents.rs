//! Which bytes of a file are in its cache file: a set of disjoint, non-touching ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes, kept as maximal ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extents {
    /// Start to end; no two ranges touch.
    ranges: BTreeMap<u64, u64>,
}

impl Extents {
    /// The set of the bytes `0..length`.
    pub fn whole(length: u64) -> Self {
        let mut extents = Self::default();
        extents.insert(0..length);
        extents
    }

    /// Adds `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&other_start, &other_end)) = self.ranges.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.ranges.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.ranges.insert(start, end);
    }

    /// Takes `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<(u64, u64)> = self
            .ranges
            .range(..range.end)
            .rev()
            .take_while(|(_, end)| **end > range.start)
            .map(|(s, e)| (*s, *e))
            .collect();
        for (start, end) in touched {
            self.ranges.remove(&start);
            if start < range.start {
                self.ranges.insert(start, range.start);
            }
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
        }
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// The parts of `range` that are not in the set, in order.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let first = self.ranges.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        for (&start, &end) in self.ranges.range(first..) {
            if start >= range.end {
                break;
            }
            if start > at {
                gaps.push(at..start);
            }
            at = at.max(end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Whether all of `range` is in the set.
    pub fn contains(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.missing(range).is_empty()
    }

    /// Bytes in the set.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_merge_and_gaps_are_found() {
        let mut extents = Extents::default();
        extents.insert(10..20);
        extents.insert(30..40);
        assert_eq!(extents.missing(0..50), [0..10, 20..30, 40..50]);
        assert_eq!(extents.missing(12..18), []);
        extents.insert(20..30);
        assert_eq!(extents.ranges.len(), 1);
        assert!(extents.contains(10..40));
        assert!(!extents.contains(9..11));
        assert_eq!(extents.total(), 30);
        assert!(extents.contains(99..99));
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(
            changes in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..20), 0..20),
            ask in (0u64..64, 0u64..30),
        ) {
            let mut extents = Extents::default();
            let mut bitmap = [false; 128];
            for (add, start, length) in changes {
                match add {
                    true => extents.insert(start..start + length),
                    false => extents.remove(start..start + length),
                }
                (start..start + length).for_each(|byte| bitmap[byte as usize] = add);
            }
            let range = ask.0..ask.0 + ask.1;
            let gaps = extents.missing(range.clone());
            for byte in range {
                prop_assert_eq!(gaps.iter().any(|gap| gap.contains(&byte)), !bitmap[byte as usize]);
            }
            prop_assert_eq!(extents.total(), bitmap.iter().filter(|present| **present).count() as u64);
            let ends: Vec<_> = extents.ranges.iter().collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
