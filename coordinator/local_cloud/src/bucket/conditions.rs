//! When a request may happen: `If-Match`, `If-None-Match` and their companions, as pure decisions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

use super::index::Object;

/// What must hold for a PUT, COPY or COMPLETE to replace what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WriteCondition {
    Always,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: *`
    Present,
    /// `If-Match: "tag"`
    Matches(String),
}

impl WriteCondition {
    /// The condition of a request's headers. S3 knows no `If-None-Match` with a tag on writes, and not both at once.
    pub(super) fn new(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<Self> {
        match (if_match, if_none_match) {
            (None, None) => Ok(Self::Always),
            (None, Some(ETagCondition::Any)) => Ok(Self::Absent),
            (Some(ETagCondition::Any), None) => Ok(Self::Present),
            (Some(ETagCondition::ETag(tag)), None) => Ok(Self::Matches(tag.value().to_owned())),
            (_, Some(_)) => {
                Err(s3_error!(NotImplemented, "A header you provided implies functionality that is not implemented"))
            }
        }
    }

    /// Whether the write may replace `current`: 404 where a version was expected, 412 where another is.
    pub(super) fn check(&self, current: Option<&Object>) -> S3Result<()> {
        match (self, current) {
            (Self::Always, _) | (Self::Absent, None) | (Self::Present, Some(_)) => Ok(()),
            (Self::Matches(tag), Some(object)) if *tag == object.etag => Ok(()),
            (Self::Matches(_) | Self::Present, None) => Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
            (Self::Absent | Self::Matches(_), Some(_)) => Err(failed()),
        }
    }
}

/// What must hold for a version to be read, or copied from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReadCondition<'a> {
    pub(super) if_match: Option<&'a ETagCondition>,
    pub(super) if_none_match: Option<&'a ETagCondition>,
    pub(super) if_modified_since: Option<&'a Timestamp>,
    pub(super) if_unmodified_since: Option<&'a Timestamp>,
}

/// What a read condition says of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Proceed,
    /// 304 to a GET, 412 to a COPY.
    NotModified,
    /// 412
    Failed,
}

impl ReadCondition<'_> {
    /// By the precedence of RFC 9110 section 13.2.2, which is S3's too: tags before dates.
    pub(super) fn judge(&self, object: &Object) -> Reading {
        match (self.if_match, self.if_unmodified_since) {
            (Some(tag), _) if !matches(tag, object) => return Reading::Failed,
            (None, Some(date)) if modified_after(object, date) => return Reading::Failed,
            _ => {}
        }
        match (self.if_none_match, self.if_modified_since) {
            (Some(tag), _) if matches(tag, object) => Reading::NotModified,
            (None, Some(date)) if !modified_after(object, date) => Reading::NotModified,
            _ => Reading::Proceed,
        }
    }

    /// For the source of a COPY.
    pub(super) fn check_source(&self, object: &Object) -> S3Result<()> {
        match self.judge(object) {
            Reading::Proceed => Ok(()),
            Reading::NotModified | Reading::Failed => Err(failed()),
        }
    }
}

/// 412
pub(super) fn failed() -> s3s::S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

fn matches(condition: &ETagCondition, object: &Object) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(tag) => tag.value() == object.etag,
    }
}

fn modified_after(object: &Object, date: &Timestamp) -> bool {
    timestamp(object.modified) > *date
}

/// Seconds since 1970 as a protocol timestamp.
pub(super) fn timestamp(seconds: u64) -> Timestamp {
    (UNIX_EPOCH + Duration::from_secs(seconds)).into()
}

/// Now, in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::S3ErrorCode;
    use s3s::dto::ETag;

    fn object() -> Object {
        Object { etag: "aa".into(), modified: 1000, ..Object::default() }
    }

    fn tag(text: &str) -> ETagCondition {
        ETagCondition::ETag(ETag::Strong(text.into()))
    }

    #[test]
    fn writes() {
        use WriteCondition::{Absent, Always, Matches, Present};
        let object = object();
        let code = |condition: WriteCondition, current| condition.check(current).map_err(|e| e.code().clone());
        let (gone, failed) = (Err(S3ErrorCode::NoSuchKey), Err(S3ErrorCode::PreconditionFailed));
        assert_eq!(code(Always, None), Ok(()));
        assert_eq!(code(Always, Some(&object)), Ok(()));
        assert_eq!(code(Absent, None), Ok(()));
        assert_eq!(code(Absent, Some(&object)), failed);
        assert_eq!(code(Present, None), gone);
        assert_eq!(code(Present, Some(&object)), Ok(()));
        assert_eq!(code(Matches("aa".into()), Some(&object)), Ok(()));
        assert_eq!(code(Matches("bb".into()), Some(&object)), failed);
        assert_eq!(code(Matches("aa".into()), None), gone);
    }

    #[test]
    fn headers_of_writes() {
        let parse = |a: Option<ETagCondition>, b: Option<ETagCondition>| {
            WriteCondition::new(a.as_ref(), b.as_ref()).map_err(|e| e.code().clone())
        };
        assert_eq!(parse(None, None), Ok(WriteCondition::Always));
        assert_eq!(parse(None, Some(ETagCondition::Any)), Ok(WriteCondition::Absent));
        assert_eq!(parse(Some(ETagCondition::Any), None), Ok(WriteCondition::Present));
        assert_eq!(parse(Some(tag("x")), None), Ok(WriteCondition::Matches("x".into())));
        assert_eq!(parse(None, Some(tag("x"))), Err(S3ErrorCode::NotImplemented));
        assert_eq!(parse(Some(tag("x")), Some(ETagCondition::Any)), Err(S3ErrorCode::NotImplemented));
    }

    #[test]
    fn reads() {
        let object = object();
        let (same, other) = (tag("aa"), tag("bb"));
        let (before, at) = (timestamp(999), timestamp(1000));
        let judge = |if_match, if_none_match, if_modified_since, if_unmodified_since| {
            ReadCondition { if_match, if_none_match, if_modified_since, if_unmodified_since }.judge(&object)
        };
        let any = ETagCondition::Any;
        assert_eq!(judge(None, None, None, None), Reading::Proceed);
        assert_eq!(judge(Some(&same), None, None, None), Reading::Proceed);
        assert_eq!(judge(Some(&any), None, None, None), Reading::Proceed);
        assert_eq!(judge(Some(&other), None, None, None), Reading::Failed);
        assert_eq!(judge(None, Some(&same), None, None), Reading::NotModified);
        assert_eq!(judge(None, Some(&other), None, None), Reading::Proceed);
        assert_eq!(judge(None, None, Some(&before), None), Reading::Proceed);
        assert_eq!(judge(None, None, Some(&at), None), Reading::NotModified);
        assert_eq!(judge(None, None, None, Some(&before)), Reading::Failed);
        assert_eq!(judge(None, None, None, Some(&at)), Reading::Proceed);
        // A tag that matches overrides a date that does not.
        assert_eq!(judge(Some(&same), None, None, Some(&before)), Reading::Proceed);
        assert_eq!(judge(None, Some(&other), Some(&at), None), Reading::Proceed);
    }
}
