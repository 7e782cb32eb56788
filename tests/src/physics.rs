//! What `replica_exchange` prints, read back and judged.

/// One temperature of its table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub temperature: f64,
    pub exact: f64,
    pub measured: f64,
    pub error: f64,
    pub z: f64,
}

/// The rows of the table for a lattice small enough to be known exactly.
///
/// # Panics
/// When a row is not what the program prints.
#[track_caller]
pub fn table(output: &str) -> Vec<Row> {
    let lines = output.lines().skip_while(|line| !line.contains("exact <E>")).skip(1);
    lines.take_while(|line| !line.starts_with("exact:")).map(row).collect()
}

#[track_caller]
fn row(line: &str) -> Row {
    let number = |text: &str| text.parse::<f64>().unwrap_or_else(|_| panic!("not a row of the table: {line}"));
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert!(fields.len() >= 8, "not a row of the table: {line}");
    Row {
        temperature: number(fields[1]),
        exact: number(fields[2]),
        measured: number(fields[3]),
        error: number(fields[4]),
        z: number(fields[5]),
    }
}

/// The host names and the ranks on each, from the lines `host NAME: ranks 0 1`.
pub fn hosts(output: &str) -> Vec<(String, Vec<u32>)> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("host ")?.split_once(": ranks"));
    lines
        .map(|(name, ranks)| (name.to_owned(), ranks.split_whitespace().filter_map(|rank| rank.parse().ok()).collect()))
        .collect()
}

/// That the table of a 4x4 lattice has one good row a rank.
///
/// # Panics
/// When it has not.
#[track_caller]
pub fn check(output: &str, ranks: usize) {
    check_rows_within(output, ranks, 32.0);
}

/// That the table has one good row a rank, judged by this function's own arithmetic and not by the program's verdict;
/// the ground state has `-depth`, and at infinite temperature the mean is 0.
///
/// # Panics
/// When it has not.
#[track_caller]
pub fn check_rows_within(output: &str, ranks: usize, depth: f64) {
    let rows = table(output);
    assert_eq!(rows.len(), ranks, "one row a rank:\n{output}");
    for row in &rows {
        let z = (row.measured - row.exact) / row.error;
        assert!(row.error > 0.0 && row.error < 1.0, "{row:?}");
        // Both sides of the division are printed with five decimals.
        assert!((z - row.z).abs() < 0.02 * (1.0 + z.abs()), "{row:?}: z is {z}");
        assert!(z.abs() <= 5.0, "{row:?}");
        assert!(row.exact > -depth && row.exact < 0.0, "{row:?}");
    }
    assert!(rows.is_sorted_by(|a, b| a.temperature < b.temperature && a.exact < b.exact), "{rows:?}");
}
