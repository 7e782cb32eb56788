//! How often a fault strikes: after some, so many times, until then, by chance.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The limits of one fault; without any it strikes always, until it is cleared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bounds {
    /// So many are spared first.
    #[serde(default)]
    pub(crate) skip: u64,
    /// It is over after so many strikes.
    #[serde(default)]
    pub(crate) count: Option<u64>,
    /// It is over from then on.
    #[serde(default)]
    pub(crate) until: Option<Timestamp>,
    #[serde(default)]
    pub(crate) chance: Option<Chance>,
}

/// Strikes by chance, the same ones at every run with the same seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chance {
    /// From 0 to 1.
    pub(crate) probability: f64,
    pub(crate) seed: u64,
}

impl Bounds {
    pub(super) fn is_over(&self, struck: u64, now: Timestamp) -> bool {
        self.count.is_some_and(|count| struck >= count) || self.until.is_some_and(|until| now >= until)
    }

    /// Whether the `number`th occasion, counted from 1, is one to strike at.
    pub(super) fn admits(&self, number: u64) -> bool {
        number > self.skip && self.chance.is_none_or(|chance| chance.draw(number) < chance.probability)
    }

    /// Whether it matters for later how often it was asked or has struck.
    pub(super) fn is_counted(&self) -> bool {
        self.skip > 0 || self.count.is_some() || self.chance.is_some()
    }
}

impl Chance {
    /// From 0 up to but not including 1; SplitMix64 of seed and number.
    fn draw(self, number: u64) -> f64 {
        const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.seed.wrapping_add(number.wrapping_mul(GAMMA));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let high = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strikes(bounds: Bounds, occasions: u64) -> Vec<u64> {
        let mut struck = 0;
        let mut hit = |number: &u64| {
            let strikes = !bounds.is_over(struck, Timestamp::UNIX_EPOCH) && bounds.admits(*number);
            struck += u64::from(strikes);
            strikes
        };
        (1..=occasions).filter(|number| hit(number)).collect()
    }

    #[test]
    fn the_first_are_spared_and_the_last_too() {
        assert_eq!(strikes(Bounds::default(), 3), [1, 2, 3]);
        assert_eq!(strikes(Bounds { skip: 2, count: Some(3), ..Bounds::default() }, 10), [3, 4, 5]);
        let over = Bounds { until: Some(Timestamp::UNIX_EPOCH), ..Bounds::default() };
        assert!(strikes(over, 3).is_empty());
    }

    #[test]
    fn chance_is_fair_and_repeats_itself() {
        let by_chance = |probability, seed| {
            strikes(Bounds { chance: Some(Chance { probability, seed }), ..Bounds::default() }, 10_000)
        };
        assert_eq!(by_chance(0.3, 7), by_chance(0.3, 7));
        assert_ne!(by_chance(0.3, 7), by_chance(0.3, 8));
        let count = by_chance(0.3, 7).len();
        assert!((2850..3150).contains(&count), "{count} of 10,000 at 0.3");
        assert_eq!((by_chance(0.0, 1).len(), by_chance(1.0, 1).len()), (0, 10_000));
    }
}
