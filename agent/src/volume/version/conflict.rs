//! After a conditional write was refused: was it ours, did somebody else win, or is it to be tried again?

use uuid::Uuid;

use crate::volume::attr::{self, Time};
use crate::volume::store::{Condition, Etag, ObjectInfo};

/// What a refused conditional write means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// Our own earlier attempt had succeeded, its answer was lost.
    Ours(Etag),
    /// The condition holds after all: S3 was busy with the key.
    Again,
    /// Somebody else changed or deleted the object first.
    Lost,
}

/// Decides by what the key has now.
pub(crate) fn resolve(condition: &Condition, write: Uuid, now: Option<&ObjectInfo>) -> Resolution {
    if let Some(info) = now.filter(|info| attr::write_id(&info.headers) == Some(write)) {
        return Resolution::Ours(info.etag.clone());
    }
    let holds = match (condition, now) {
        (Condition::Always, _) | (Condition::Absent, None) => true,
        (Condition::Matches(etag), Some(info)) => *etag == info.etag,
        (Condition::Absent, Some(_)) | (Condition::Matches(_), None) => false,
    };
    if holds { Resolution::Again } else { Resolution::Lost }
}

/// Where the loser of a race is kept: `NAME.conflict-<node>-<time>`. The same for every attempt of one write.
pub(crate) fn copy_name(path: &str, node: &str, time: Time) -> String {
    let stamp = jiff::Timestamp::from_second(time.seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let node: String = node.chars().map(|c| if c == '/' { '_' } else { c }).collect();
    format!("{path}.conflict-{node}-{}", stamp.strftime("%Y%m%dT%H%M%SZ"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::store::Headers;

    fn info(etag: &str, write: Option<Uuid>) -> ObjectInfo {
        let mut headers = Headers::default();
        if let Some(write) = write {
            headers.metadata.insert(attr::WRITE_ID.into(), write.to_string());
        }
        ObjectInfo { etag: Etag(etag.into()), size: 0, last_modified: std::time::UNIX_EPOCH, headers }
    }

    #[test]
    fn a_refused_write_is_ours_again_or_lost() {
        let (ours, theirs) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let based_on = |etag: &str| Condition::Matches(Etag(etag.into()));
        let table = [
            (Condition::Absent, Some(info("e", Some(ours))), Resolution::Ours(Etag("e".into()))),
            (Condition::Absent, Some(info("e", Some(theirs))), Resolution::Lost),
            (Condition::Absent, Some(info("e", None)), Resolution::Lost),
            (Condition::Absent, None, Resolution::Again),
            (based_on("a"), Some(info("a", Some(theirs))), Resolution::Again),
            (based_on("a"), Some(info("b", Some(theirs))), Resolution::Lost),
            (based_on("a"), Some(info("b", Some(ours))), Resolution::Ours(Etag("b".into()))),
            (based_on("a"), None, Resolution::Lost),
        ];
        for (condition, now, expected) in table {
            assert_eq!(resolve(&condition, ours, now.as_ref()), expected, "{condition:?} {now:?}");
        }
    }

    #[test]
    fn the_copy_tells_who_and_when() {
        let time = Time { seconds: 1_700_000_000, nanos: 5 };
        assert_eq!(copy_name("d/out.txt", "n/1", time), "d/out.txt.conflict-n_1-20231114T221320Z");
    }
}
