//! Pure: what a few measurements say together.

/// The middle one, and the ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// None where there is nothing.
pub(crate) fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let upper = sorted[sorted.len() / 2];
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(Spread { median: f64::midpoint(lower, upper), min, max })
}

/// A ratio with its interval of 95% where there are pairs enough to tell one.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) low: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) high: Option<f64>,
    pub(crate) pairs: usize,
}

/// The geometric mean of the quotients of pairs measured side by side; Student's interval on their logarithms.
pub(crate) fn paired(pairs: &[(f64, f64)]) -> Option<Ratio> {
    let sound = pairs.iter().filter(|(one, other)| *one > 0.0 && *other > 0.0);
    let logs: Vec<f64> = sound.map(|(one, other)| (one / other).ln()).collect();
    let count = logs.len();
    if count == 0 {
        return None;
    }
    let mean = logs.iter().sum::<f64>() / count as f64;
    let value = mean.exp();
    let Some(student) = student(count - 1) else {
        return Some(Ratio { value, low: None, high: None, pairs: count });
    };
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
    let half = student * (variance / count as f64).sqrt();
    Some(Ratio { value, low: Some((mean - half).exp()), high: Some((mean + half).exp()), pairs: count })
}

/// Two-sided 95% quantile of Student's distribution.
fn student(freedom: usize) -> Option<f64> {
    const TABLE: [f64; 12] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179];
    match freedom {
        0 => None,
        1..=12 => Some(TABLE[freedom - 1]),
        13..=30 => Some(2.1),
        _ => Some(2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn ratios_of_pairs() {
        assert_eq!(paired(&[]), None);
        assert_eq!(paired(&[(1.0, 0.0)]), None, "nothing can be said of a speed of zero");
        let one = paired(&[(4.0, 2.0)]).expect("one pair");
        assert_eq!((one.value, one.low, one.pairs), (2.0, None, 1));
        // A machine that is twice as fast in the second round changes nothing.
        let same = paired(&[(2.0, 1.0), (4.0, 2.0), (2.0, 1.0)]).expect("three pairs");
        assert!((same.value - 2.0).abs() < 1e-9 && (same.low.expect("an interval") - 2.0).abs() < 1e-9);
        let wide = paired(&[(1.0, 1.0), (2.0, 1.0), (4.0, 1.0)]).expect("three pairs");
        assert!((wide.value - 2.0).abs() < 1e-9);
        assert!(wide.low.expect("an interval") < 0.5 && wide.high.expect("an interval") > 8.0);
    }
}
