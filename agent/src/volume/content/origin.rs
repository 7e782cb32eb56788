//! The version that a file was when it was first written to: S3 makes the parts that nobody touched since of that one.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::volume::spill::Cut;
use crate::volume::store::Etag;

/// A version in S3, and how a file differs from it.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) etag: Etag,
    /// Bytes from here on are not that version's: the shortest that the file has been since.
    size: u64,
    /// Parts that were written to.
    touched: BTreeSet<u64>,
}

impl Origin {
    pub(crate) fn new(etag: Etag, size: u64) -> Self {
        Self { etag, size, touched: BTreeSet::new() }
    }

    pub(crate) fn touch(&mut self, cut: &Cut, range: &Range<u64>) {
        self.touched.extend(cut.indices(range));
    }

    pub(crate) fn resize(&mut self, size: u64) {
        self.size = self.size.min(size);
    }

    /// Whether that version has part `index` as the file has it, which is `range`.
    pub(crate) fn has(&self, index: u64, range: &Range<u64>) -> bool {
        range.end <= self.size && !self.touched.contains(&index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_cut_or_added_is_not_the_versions() {
        let cut = Cut { part: 10, ..Cut::default() };
        let mut origin = Origin::new(Etag("e".into()), 35);
        let has = |origin: &Origin, size: u64| -> Vec<u64> {
            let parts = cut.indices(&(0..size)).map(|index| (index, cut.range(index)));
            let parts = parts.map(|(index, range)| (index, range.start..range.end.min(size)));
            parts.filter(|(index, range)| origin.has(*index, range)).map(|(index, _)| index).collect()
        };
        assert_eq!(has(&origin, 35), [0, 1, 2, 3]);
        assert_eq!(has(&origin, 36), [0, 1, 2], "the last part is longer");
        origin.touch(&cut, &(9..11));
        assert_eq!(has(&origin, 35), [2, 3]);
        origin.resize(30);
        origin.resize(35);
        assert_eq!(has(&origin, 35), [2], "what was cut off does not come back");
    }
}
