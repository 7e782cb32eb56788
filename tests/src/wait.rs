//! Waiting for something to become true, never for time to pass.

use std::time::{Duration, Instant};

/// How long a look is apart from the next.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// What `look` finds, as soon as it finds something.
///
/// # Panics
/// After `limit`, saying what was waited for.
#[track_caller]
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain: {what}");
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

/// Whole seconds as a duration.
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
