//! Contents that can be told at any place without being stored: every word of eight bytes is a function of a seed and
//! of where it stands. They do not compress, and no two pages are alike.

use anyhow::bail;

/// The unit of random reads and writes.
pub(crate) const PAGE: usize = 4096;
const WORD: usize = 8;

/// What a file holds: one seed everywhere, others in the pages that were written over later (the last one counts).
#[derive(Debug, Clone)]
pub(crate) struct Content {
    seed: u64,
    pub(crate) bytes: u64,
    layers: Vec<(u64, Vec<u64>)>,
}

impl Content {
    pub(crate) fn new(seed: u64, bytes: u64) -> Self {
        Self { seed, bytes, layers: Vec::new() }
    }

    /// The same after `pages` were written with another seed.
    pub(crate) fn overwritten(mut self, seed: u64, mut pages: Vec<u64>) -> Self {
        pages.sort_unstable();
        self.layers.push((seed, pages));
        self
    }

    /// The same, longer: the new bytes have the file's own seed.
    pub(crate) fn appended(mut self, bytes: u64) -> Self {
        self.bytes += bytes;
        self
    }

    /// The bytes at `offset`, which is at the beginning of a page.
    pub(crate) fn fill(&self, offset: u64, buffer: &mut [u8]) {
        for (page, chunk) in (offset / PAGE as u64..).zip(buffer.chunks_mut(PAGE)) {
            fill(self.seed_of(page), page * PAGE as u64, chunk);
        }
    }

    /// All of it.
    pub(crate) fn whole(&self) -> anyhow::Result<Vec<u8>> {
        let mut buffer = vec![0; usize::try_from(self.bytes)?];
        self.fill(0, &mut buffer);
        Ok(buffer)
    }

    /// Every byte of `buffer`, found at `offset`, a page's beginning.
    pub(crate) fn check(&self, offset: u64, buffer: &[u8]) -> anyhow::Result<()> {
        let mut expected = [0; PAGE];
        for (page, chunk) in (offset / PAGE as u64..).zip(buffer.chunks(PAGE)) {
            let expected = &mut expected[..chunk.len()];
            fill(self.seed_of(page), page * PAGE as u64, expected);
            if expected != chunk {
                bail!("wrong content in the page at {}", page * PAGE as u64);
            }
        }
        Ok(())
    }

    /// One word of every page of `buffer`: cheap enough to be done while the clock runs.
    pub(crate) fn glance(&self, offset: u64, buffer: &[u8]) -> anyhow::Result<()> {
        for (page, chunk) in (offset / PAGE as u64..).zip(buffer.chunks(PAGE)) {
            let Some(first) = chunk.first_chunk::<WORD>() else { continue };
            if *first != word(self.seed_of(page), page * (PAGE / WORD) as u64) {
                bail!("wrong content at {}", page * PAGE as u64);
            }
        }
        Ok(())
    }

    fn seed_of(&self, page: u64) -> u64 {
        let last = self.layers.iter().rev().find(|(_, pages)| pages.binary_search(&page).is_ok());
        last.map_or(self.seed, |(seed, _)| *seed)
    }
}

fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    for (index, chunk) in (offset / WORD as u64..).zip(buffer.chunks_mut(WORD)) {
        chunk.copy_from_slice(&word(seed, index)[..chunk.len()]);
    }
}

fn word(seed: u64, index: u64) -> [u8; WORD] {
    mix(seed.wrapping_mul(0xA24B_AED4_963E_E407).wrapping_add(index)).to_le_bytes()
}

/// The finalizer of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Numbers below `bound` that look random and are the same for the same seed.
pub(crate) fn numbers(seed: u64, bound: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |index| mix(seed.rotate_left(32) ^ index) % bound.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_checked() {
        let content = Content::new(7, 3 * PAGE as u64 + 100).overwritten(8, vec![1]).overwritten(9, vec![1, 2]);
        let whole = content.whole().expect("it is small");
        content.check(0, &whole).expect("what was filled is right");
        content.glance(0, &whole).expect("what was filled is right");
        content.check(PAGE as u64, &whole[PAGE..]).expect("also from the second page on");
        assert!(content.check(0, &whole[PAGE..]).is_err() && content.glance(0, &whole[PAGE..]).is_err());
        for place in [0, PAGE - 1, PAGE, whole.len() - 1] {
            let mut spoilt = whole.clone();
            spoilt[place] ^= 1;
            assert!(content.check(0, &spoilt).is_err(), "{place}");
        }
        let before = Content::new(7, whole.len() as u64).whole().expect("it is small");
        assert_eq!((&before[..PAGE], &before[3 * PAGE..]), (&whole[..PAGE], &whole[3 * PAGE..]));
        assert_ne!(before[PAGE..2 * PAGE], whole[PAGE..2 * PAGE]);
    }

    #[test]
    fn numbers_repeat_and_spread() {
        let some: Vec<u64> = numbers(3, 1000).take(100).collect();
        assert_eq!(some, numbers(3, 1000).take(100).collect::<Vec<_>>());
        assert_ne!(some, numbers(4, 1000).take(100).collect::<Vec<_>>());
        assert!(some.iter().all(|number| *number < 1000));
        assert!(some.iter().filter(|number| **number < 500).count().abs_diff(50) < 25);
    }
}
