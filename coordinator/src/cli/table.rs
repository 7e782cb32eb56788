//! Columns of text, and numbers in them.

use std::time::{Duration, UNIX_EPOCH};

/// A table with a header, columns two spaces apart, without trailing blanks.
pub(super) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let head: Vec<String> = header.iter().map(|&title| title.to_owned()).collect();
    std::iter::once(&head).chain(rows).map(|row| line(row, &widths)).collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, &width)| format!("{cell:<width$}"));
    let text = cells.collect::<Vec<_>>().join("  ");
    format!("{}\n", text.trim_end())
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10;
    for unit in ["KiB", "MiB", "GiB", "TiB"] {
        tenths = (tenths + 512) / 1024;
        if tenths < 10 * 1024 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{} PiB", tenths.div_ceil(10 * 1024))
}

/// A time span in seconds for people; nothing sensible for one that is no time.
pub(super) fn span(seconds: f64) -> String {
    let Ok(span) = Duration::try_from_secs_f64(seconds) else { return "-".into() };
    let whole = span.as_secs();
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86400, whole % 86400 / 3600),
    }
}

/// A moment in seconds since the epoch, as local time.
pub(super) fn moment(seconds: f64) -> String {
    let since = Duration::try_from_secs_f64(seconds).ok().filter(|since| !since.is_zero());
    let time = since.and_then(|since| jiff::Timestamp::try_from(UNIX_EPOCH.checked_add(since)?).ok());
    time.map_or("-".into(), |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %T").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["demo".into(), "1".into()], vec!["a".into(), "long".into()]];
        assert_eq!(render(&["NAME", "N"], &rows), "NAME  N\ndemo  1\na     long\n");
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
        assert_eq!(span(6.13), "6.1 s");
        assert_eq!(span(61.0), "1 min 1 s");
        assert_eq!(span(90_000.0), "1 d 1 h");
        assert_eq!(span(-1.0), "-");
        assert_eq!(moment(0.0), "-");
        assert!(moment(1_795_395_707.9).starts_with("2026-11-2"), "{}", moment(1_795_395_707.9));
    }
}
