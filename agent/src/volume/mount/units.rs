//! Sizes and times as people write them.

use std::time::Duration;

const SIZE_UNITS: [(&str, u32); 5] = [("k", 10), ("m", 20), ("g", 30), ("t", 40), ("p", 50)];
const TIME_UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
/// A longer time is a slip of the pen.
const LONGEST: Duration = Duration::from_secs(86_400);

/// `512M`, `1.5G`, `64KiB`, `4096`: bytes, by powers of 1,024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size such as 512M or 4G");
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let unit = SIZE_UNITS.iter().find_map(|(unit, shift)| Some((bare.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((bare, 0));
    if let Ok(whole) = number.trim().parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(wrong);
    }
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let bytes = number * (1_u64 << shift) as f64;
    // A number this large would lose digits, and none is negative.
    if !(0.0..9e15).contains(&bytes) {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(bytes as u64)
}

/// `1`, `0.5`, `250ms`, `2m`: seconds where there is no unit.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 1s or 250ms, at most a day");
    let bare = text.trim();
    let unit = TIME_UNITS.iter().find_map(|(unit, seconds)| Some((bare.strip_suffix(unit)?, *seconds)));
    let (number, seconds) = unit.unwrap_or((bare, 1.0));
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let time = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    if time > LONGEST { Err(wrong()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let table = [
            ("0", 0),
            ("4096", 4096),
            ("64k", 65_536),
            ("512M", 512 << 20),
            ("1.5G", 3 << 29),
            ("2 GiB", 2 << 30),
            ("1TB", 1 << 40),
            ("10b", 10),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1", "1x", "nan", "99999999999999T", "1e300"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, millis) in [("0", 0), ("1", 1000), ("0.25", 250), ("250ms", 250), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "x", "25h", "inf", "nan"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
