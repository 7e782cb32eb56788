//! The headers that S3 keeps with an object and gives back with it.

use std::collections::BTreeMap;

use s3s::dto::{Metadata, ServerSideEncryption, Timestamp};
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};

use super::conditions::timestamp;

/// S3's limit for the names and values of user metadata together, in bytes.
const MAX_USER_METADATA: usize = 2048;

/// What S3 calls an object without a type.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Headers of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Headers {
    pub(super) content_type: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) content_disposition: Option<String>,
    /// Without `aws-chunked`, which belongs to the transfer.
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    /// Seconds since 1970.
    pub(super) expires: Option<u64>,
    /// `x-amz-meta-*` without that prefix.
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) storage_class: Option<String>,
    pub(super) encryption: Option<String>,
    pub(super) encryption_key: Option<String>,
    pub(super) bucket_key: Option<bool>,
    pub(super) website_redirect: Option<String>,
}

impl Headers {
    /// The type to tell.
    pub(super) fn content_type(&self) -> String {
        self.content_type.clone().unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned())
    }

    /// The user metadata to tell.
    pub(super) fn metadata(&self) -> Option<Metadata> {
        Some(self.metadata.clone().into_iter().collect())
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        self.expires.map(timestamp)
    }

    /// S3 encrypts everything, by a key of its own unless told otherwise. Here it is said, not done.
    pub(super) fn encryption(&self) -> ServerSideEncryption {
        let default = || ServerSideEncryption::AES256.to_owned();
        self.encryption.clone().unwrap_or_else(default).into()
    }

    /// Refuses more user metadata than S3 takes.
    pub(super) fn checked(self) -> S3Result<Self> {
        let size: usize = self.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > MAX_USER_METADATA {
            return Err(s3_error!(MetadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size"));
        }
        Ok(self)
    }
}

/// `Content-Encoding` without `aws-chunked`; none if nothing is left.
pub(super) fn stored_encoding(encoding: Option<&str>) -> Option<String> {
    let kept: Vec<&str> = encoding?
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// A protocol timestamp in seconds since 1970; earlier ones are 0.
pub(super) fn seconds(timestamp: &Timestamp) -> u64 {
    let mut text = Vec::new();
    if timestamp.format(s3s::dto::TimestampFormat::EpochSeconds, &mut text).is_err() {
        return 0;
    }
    let text = String::from_utf8_lossy(&text);
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

/// The headers in a PUT, COPY or CREATE request.
macro_rules! headers_of {
    ($input:expr) => {
        $crate::bucket::headers::Headers {
            content_type: $input.content_type.clone(),
            cache_control: $input.cache_control.clone(),
            content_disposition: $input.content_disposition.clone(),
            content_encoding: $crate::bucket::headers::stored_encoding($input.content_encoding.as_deref()),
            content_language: $input.content_language.clone(),
            expires: $input.expires.as_ref().map($crate::bucket::headers::seconds),
            metadata: $input.metadata.clone().unwrap_or_default().into_iter().collect(),
            storage_class: $input.storage_class.as_ref().map(|class| class.as_str().to_owned()),
            encryption: $input.server_side_encryption.as_ref().map(|name| name.as_str().to_owned()),
            encryption_key: $input.ssekms_key_id.clone(),
            bucket_key: $input.bucket_key_enabled,
            website_redirect: $input.website_redirect_location.clone(),
        }
        .checked()
    };
}

/// Sets the encryption fields of an answer.
macro_rules! set_encryption {
    ($output:expr, $headers:expr) => {
        $output.server_side_encryption = Some($headers.encryption());
        $output.ssekms_key_id = $headers.encryption_key.clone();
        $output.bucket_key_enabled = $headers.bucket_key;
    };
}

/// Refuses a request that wants bytes encrypted by a key it brings along, rather than keep them in the clear.
macro_rules! refuse_customer_key {
    ($input:expr) => {
        if $input.sse_customer_algorithm.is_some() || $input.sse_customer_key.is_some() {
            return Err(s3s::s3_error!(NotImplemented, "SSE-C is not implemented"));
        }
    };
}

pub(super) use {headers_of, refuse_customer_key, set_encryption};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_codings_are_not_kept() {
        assert_eq!(stored_encoding(None), None);
        assert_eq!(stored_encoding(Some("aws-chunked")), None);
        assert_eq!(stored_encoding(Some("gzip, aws-chunked")), Some("gzip".into()));
        assert_eq!(stored_encoding(Some("AWS-Chunked,gzip,br")), Some("gzip,br".into()));
        assert_eq!(stored_encoding(Some("")), None);
    }

    #[test]
    fn too_much_metadata_is_refused() {
        let with = |bytes| Headers { metadata: [("k".into(), "v".repeat(bytes))].into(), ..Headers::default() };
        assert!(with(2047).checked().is_ok());
        assert_eq!(with(2048).checked().unwrap_err().code(), &s3s::S3ErrorCode::MetadataTooLarge);
    }

    #[test]
    fn timestamps_keep_their_seconds() {
        assert_eq!(seconds(&timestamp(1_700_000_000)), 1_700_000_000);
    }
}
