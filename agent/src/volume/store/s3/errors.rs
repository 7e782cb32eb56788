//! What an error of the SDK or of S3 means to the volume: one table.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::volume::store::StoreError;

/// The kinds of [`StoreError`] that S3 can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    NotFound,
    Conflict,
    Denied,
    Refused,
    Transient,
}

/// By S3's error code, which says more than the status. Codes that are not here are judged by the status.
const CODES: &[(&str, Meaning)] = &[
    ("NoSuchKey", Meaning::NotFound),
    ("NoSuchBucket", Meaning::NotFound),
    ("NoSuchUpload", Meaning::NotFound),
    ("NotFound", Meaning::NotFound),
    ("PreconditionFailed", Meaning::Conflict),
    // Somebody else writes at this moment; who wins is not known yet.
    ("ConditionalRequestConflict", Meaning::Transient),
    ("OperationAborted", Meaning::Transient),
    ("AccessDenied", Meaning::Denied),
    ("AccountProblem", Meaning::Denied),
    ("AllAccessDisabled", Meaning::Denied),
    ("InvalidAccessKeyId", Meaning::Denied),
    ("InvalidToken", Meaning::Denied),
    ("SignatureDoesNotMatch", Meaning::Denied),
    // The SDK fetches new credentials for the next call.
    ("ExpiredToken", Meaning::Transient),
    ("TokenRefreshRequired", Meaning::Transient),
    ("RequestExpired", Meaning::Transient),
    // The SDK learns the difference of the clocks from the reply.
    ("RequestTimeTooSkewed", Meaning::Transient),
    // Damaged or cut on the way.
    ("BadDigest", Meaning::Transient),
    ("IncompleteBody", Meaning::Transient),
    ("XAmzContentSHA256Mismatch", Meaning::Transient),
    ("RequestTimeout", Meaning::Transient),
    ("SlowDown", Meaning::Transient),
    ("Throttling", Meaning::Transient),
    ("ThrottlingException", Meaning::Transient),
    ("RequestLimitExceeded", Meaning::Transient),
    ("InternalError", Meaning::Transient),
    ("ServiceUnavailable", Meaning::Transient),
    ("NotImplemented", Meaning::Refused),
];

/// By code where it is known, else by status.
fn meaning(status: u16, code: Option<&str>) -> Meaning {
    if let Some((_, meaning)) = CODES.iter().find(|(name, _)| Some(*name) == code) {
        return *meaning;
    }
    match status {
        404 => Meaning::NotFound,
        412 => Meaning::Conflict,
        401 | 403 => Meaning::Denied,
        501 | 505 => Meaning::Refused,
        // COPY and COMPLETE can fail after the 200 was sent.
        200..=299 | 408 | 409 | 429 | 500..=599 => Meaning::Transient,
        _ => Meaning::Refused,
    }
}

/// An error of a call about `what`.
pub(super) fn store_error<E>(what: &str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let meaning = match error {
        SdkError::ServiceError(context) => meaning(context.raw().status().as_u16(), context.err().code()),
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => Meaning::Transient,
        SdkError::ConstructionFailure(_) => credentials_meaning(error).unwrap_or(Meaning::Refused),
        _ => credentials_meaning(error).unwrap_or(Meaning::Transient),
    };
    let what = what.to_owned();
    match meaning {
        Meaning::NotFound => StoreError::NotFound(what),
        Meaning::Conflict => StoreError::Conflict(what),
        Meaning::Denied => StoreError::Denied(what, reason(error)),
        Meaning::Refused => StoreError::Refused(what, reason(error)),
        Meaning::Transient => StoreError::Transient(what, reason(error)),
    }
}

/// S3's own words, or the whole chain of causes.
fn reason<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(context) if context.err().code().is_some() => {
            let (code, message) = (context.err().code().unwrap_or_default(), context.err().message());
            message.map_or_else(|| code.to_owned(), |message| format!("{code}: {message}"))
        }
        SdkError::ServiceError(context) => format!("HTTP status {}", context.raw().status().as_u16()),
        other => DisplayErrorContext(other).to_string(),
    }
}

/// No credentials at all is final; a source of credentials that does not answer is not.
fn credentials_meaning<E>(error: &SdkError<E, HttpResponse>) -> Option<Meaning>
where
    E: StdError + Send + Sync + 'static,
{
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(current) = cause {
        if let Some(error) = current.downcast_ref::<CredentialsError>() {
            return Some(match error {
                CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
                    Meaning::Denied
                }
                _ => Meaning::Transient,
            });
        }
        cause = current.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_a_meaning() {
        for (status, code, wanted) in [
            (404, Some("NoSuchKey"), Meaning::NotFound),
            (404, None, Meaning::NotFound),
            (412, Some("PreconditionFailed"), Meaning::Conflict),
            (412, None, Meaning::Conflict),
            (409, Some("ConditionalRequestConflict"), Meaning::Transient),
            (403, Some("AccessDenied"), Meaning::Denied),
            (403, None, Meaning::Denied),
            (403, Some("RequestTimeTooSkewed"), Meaning::Transient),
            (400, Some("ExpiredToken"), Meaning::Transient),
            (400, Some("InvalidToken"), Meaning::Denied),
            (400, Some("KeyTooLongError"), Meaning::Refused),
            (400, Some("BadDigest"), Meaning::Transient),
            (400, None, Meaning::Refused),
            (301, Some("PermanentRedirect"), Meaning::Refused),
            (416, Some("InvalidRange"), Meaning::Refused),
            (501, Some("NotImplemented"), Meaning::Refused),
            (501, None, Meaning::Refused),
            (503, Some("SlowDown"), Meaning::Transient),
            (500, None, Meaning::Transient),
            (429, None, Meaning::Transient),
            (200, Some("InternalError"), Meaning::Transient),
        ] {
            assert_eq!(meaning(status, code), wanted, "{status} {code:?}");
        }
    }

    #[test]
    fn no_code_is_in_the_table_twice() {
        let mut names: Vec<_> = CODES.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CODES.len());
    }
}
