//! Which bytes of an object a GET or HEAD is about.

use std::ops::Range;

use s3s::{S3Result, s3_error};

use crate::bucket::checksum::Checksum;
use crate::bucket::index::Object;

/// Bytes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) range: Range<u64>,
    /// Answered with 206.
    pub(super) partial: bool,
    /// Parts of the object, when one was asked for by number.
    pub(super) parts_count: Option<i32>,
    part: Option<usize>,
}

impl Selection {
    /// `Content-Range` of a partial answer.
    pub(super) fn content_range(&self, size: u64) -> Option<String> {
        self.partial.then(|| format!("bytes {}-{}/{size}", self.range.start, self.range.end - 1))
    }

    /// The checksum of these bytes, if it is known.
    pub(super) fn checksum<'o>(&self, object: &'o Object) -> Option<&'o Checksum> {
        match self.part {
            Some(at) if !object.parts.is_empty() => object.parts.get(at)?.checksum.as_ref(),
            _ if self.range == (0..object.size) => object.checksum.as_ref(),
            _ => None,
        }
    }
}

/// The bytes that `range` or `part` (1 and up) ask for; all of them without either.
pub(super) fn select(object: &Object, range: Option<s3s::dto::Range>, part: Option<i32>) -> S3Result<Selection> {
    match (range, part) {
        (None, None) => Ok(Selection { range: 0..object.size, partial: false, parts_count: None, part: None }),
        (Some(range), None) => {
            let range = range
                .check(object.size)
                .map_err(|error| s3_error!(error, InvalidRange, "The requested range is not satisfiable"))?;
            Ok(Selection { range, partial: true, parts_count: None, part: None })
        }
        (None, Some(number)) => numbered(object, number),
        (Some(_), Some(_)) => Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber")),
    }
}

/// Part `number` of an object; one that was not uploaded in parts has one.
fn numbered(object: &Object, number: i32) -> S3Result<Selection> {
    let not_there = || s3_error!(InvalidRange, "The requested partnumber is not satisfiable");
    let at = number.checked_sub(1).and_then(|at| usize::try_from(at).ok()).ok_or_else(not_there)?;
    if object.parts.is_empty() {
        let whole = Selection { range: 0..object.size, partial: object.size > 0, parts_count: None, part: Some(0) };
        return if at == 0 { Ok(whole) } else { Err(not_there()) };
    }
    let size = object.parts.get(at).ok_or_else(not_there)?.size;
    let start: u64 = object.parts[..at].iter().map(|part| part.size).sum();
    let parts_count = i32::try_from(object.parts.len()).ok();
    Ok(Selection { range: start..start + size, partial: size > 0, parts_count, part: Some(at) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::index::PartFacts;
    use s3s::dto::Range as Wanted;

    fn object(parts: &[u64]) -> Object {
        let facts = |(number, size): (i32, &u64)| PartFacts { number, size: *size, checksum: None };
        Object { size: parts.iter().sum(), parts: (1..).zip(parts).map(facts).collect(), ..Object::default() }
    }

    #[test]
    fn ranges() {
        let object = object(&[10]);
        let bytes = |range| select(&object, Some(range), None).map(|s| (s.range.clone(), s.content_range(10).unwrap()));
        let middle = Wanted::Int { first: 2, last: Some(4) };
        assert_eq!(bytes(middle).unwrap(), (2..5, "bytes 2-4/10".into()));
        assert_eq!(bytes(Wanted::Int { first: 2, last: Some(400) }).unwrap().0, 2..10);
        assert_eq!(bytes(Wanted::Int { first: 2, last: None }).unwrap().0, 2..10);
        assert_eq!(bytes(Wanted::Suffix { length: 3 }).unwrap().0, 7..10);
        assert_eq!(bytes(Wanted::Suffix { length: 30 }).unwrap().0, 0..10);
        assert_eq!(bytes(Wanted::Int { first: 10, last: None }).unwrap_err().code(), &s3s::S3ErrorCode::InvalidRange);
        assert!(select(&object, Some(middle), Some(1)).is_err());
        assert!(!select(&object, None, None).unwrap().partial);
    }

    #[test]
    fn parts() {
        let parts = object(&[5, 7, 1]);
        let second = select(&parts, None, Some(2)).unwrap();
        assert_eq!((second.range, second.parts_count), (5..12, Some(3)));
        for number in [0, -1, 4, i32::MIN] {
            assert!(select(&parts, None, Some(number)).is_err(), "{number}");
        }
        let whole = Object { size: 3, ..Object::default() };
        assert_eq!(select(&whole, None, Some(1)).unwrap().range, 0..3);
        assert!(select(&whole, None, Some(2)).is_err());
        assert!(!select(&Object::default(), None, Some(1)).unwrap().partial);
    }
}
