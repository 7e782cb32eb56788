//! Who is to be measured once more.

use std::collections::BTreeMap;

use super::Sample;
use super::rows::Group;
use crate::systems::Promise;
use crate::works::{Name, Phase};

/// More pairs than these do not make anything clearer.
const MOST: usize = 12;
/// A median needs so many.
const FEW: usize = 3;

/// Ours and those it is compared with, where a target is held or missed by what may be chance. Nobody whose work failed.
pub(crate) fn undecided(
    samples: &[&Sample],
    phase: &Phase,
    here: &[Name],
    promises: &BTreeMap<Name, Promise>,
) -> Vec<Name> {
    let mut needed = Vec::new();
    for row in phase.rows {
        let group = Group::new(row, samples);
        for name in Name::ALL {
            for target in row.targets_of(name) {
                let verdict = group.verdict(name, *target, promises);
                let open = verdict.held.is_some() && !verdict.sure && group.of(name).count() < MOST;
                needed.extend([Some(name), group.rival(*target, promises)].into_iter().flatten().filter(|_| open));
            }
        }
    }
    here.iter().copied().filter(|name| needed.contains(name)).collect()
}

/// Everybody who has not even failed, and ours to be compared with.
pub(crate) fn missing(samples: &[&Sample], phase: &Phase, here: &[Name], _: &BTreeMap<Name, Promise>) -> Vec<Name> {
    let group = Group::new(&phase.rows[0], samples);
    with_ours(here.iter().copied().filter(|name| group.of(*name).next().is_none()).collect())
}

/// Everybody who was measured, and not three times.
pub(crate) fn thin(samples: &[&Sample], phase: &Phase, here: &[Name], _: &BTreeMap<Name, Promise>) -> Vec<Name> {
    let group = Group::new(&phase.rows[0], samples);
    let is_thin = |name: &Name| (1..FEW).contains(&group.values(*name).len());
    with_ours(here.iter().copied().filter(is_thin).collect())
}

/// A ratio is of measurements taken side by side.
fn with_ours(others: Vec<Name>) -> Vec<Name> {
    if others.is_empty() || others.contains(&Name::Ours) { others } else { [vec![Name::Ours], others].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::rows::tests::{phase, promises, sample};

    #[test]
    fn what_is_near_its_target_is_measured_again() {
        let phase = phase();
        let pair = |number: usize, ours: f64, limit: f64, peer: f64| {
            let values = [(Name::Ours, ours), (Name::Bare, limit), (Name::Juicefs, peer)];
            values.map(|(name, value)| sample("cold-read", name, number, value))
        };
        let wants = |samples: &[Sample]| undecided(&samples.iter().collect::<Vec<_>>(), &phase, phase.who, &promises());
        // 0.9 of the limit is asked for, and as much as the best peer.
        assert_eq!(wants(&pair(0, 95.0, 100.0, 10.0)), [Name::Ours, Name::Bare]);
        assert_eq!(wants(&pair(0, 300.0, 100.0, 290.0)), [Name::Ours, Name::Juicefs]);
        assert!(wants(&pair(0, 30.0, 100.0, 100.0)).is_empty(), "missed by far");
        let clear: Vec<Sample> = (0..4).flat_map(|number| pair(number, 120.0, 100.0, 10.0)).collect();
        assert!(wants(&clear).is_empty());
        let open: Vec<Sample> = [80.0, 100.0, 85.0]
            .iter()
            .enumerate()
            .flat_map(|(number, ours)| pair(number, *ours, 100.0, 10.0))
            .collect();
        assert_eq!(wants(&open), [Name::Ours, Name::Bare]);
    }

    #[test]
    fn what_was_measured_once_is_thin() {
        let phase = phase();
        let mut all = vec![sample("cold-read", Name::Ours, 0, 1.0), sample("cold-read", Name::S3fs, 0, 1.0)];
        let wants = |samples: &[Sample]| thin(&samples.iter().collect::<Vec<_>>(), &phase, phase.who, &promises());
        let absent = missing(&all.iter().collect::<Vec<_>>(), &phase, phase.who, &promises());
        assert_eq!(absent, [Name::Ours, Name::Juicefs, Name::Bare], "and who was measured is measured beside them");
        let absent = missing(&all.iter().collect::<Vec<_>>(), &phase, &[Name::Ours, Name::S3fs], &promises());
        assert!(absent.is_empty(), "who takes no part is not waited for");
        assert_eq!(wants(&all), [Name::Ours, Name::S3fs]);
        all.extend((1..3).map(|pair| sample("cold-read", Name::Ours, pair, 1.0)));
        assert_eq!(wants(&all), [Name::Ours, Name::S3fs]);
        all.extend((1..3).map(|pair| sample("cold-read", Name::S3fs, pair, 1.0)));
        assert!(wants(&all).is_empty());
    }
}
