//! Extended attributes in `x-amz-meta-xattr`, as s3fs keeps them: JSON of names and base64 values, percent-encoded.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{GeneralPurposeConfig, STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Extra;

/// Metadata key.
const KEY: &str = "xattr";
/// What s3fs leaves as it is.
const UNESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// S3 takes this much metadata in all; the attributes that every object has need a part of it.
const MAX_METADATA_BYTES: usize = 2048 - 320;
/// Other tools leave the padding out.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// Extended attributes by name.
pub type Xattrs = BTreeMap<String, Vec<u8>>;

impl Extra {
    /// The extended attributes; what cannot be read is not there.
    pub fn xattrs(&self) -> Xattrs {
        self.metadata.get(KEY).and_then(|text| parse(text)).unwrap_or_default()
    }

    /// The same headers with these extended attributes; none when S3 does not take that much.
    #[must_use]
    pub fn with_xattrs(&self, xattrs: &Xattrs) -> Option<Self> {
        let mut extra = self.clone();
        if xattrs.is_empty() {
            extra.metadata.remove(KEY);
        } else {
            extra.metadata.insert(KEY.to_owned(), format(xattrs));
        }
        let bytes: usize = extra.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        (bytes <= MAX_METADATA_BYTES).then_some(extra)
    }
}

fn parse(text: &str) -> Option<Xattrs> {
    let json = percent_decode_str(text).decode_utf8().ok()?;
    let coded: BTreeMap<String, String> = serde_json::from_str(&json).ok()?;
    coded.into_iter().map(|(name, value)| Some((name, TOLERANT.decode(value).ok()?))).collect()
}

fn format(xattrs: &Xattrs) -> String {
    let coded: BTreeMap<&str, String> =
        xattrs.iter().map(|(name, value)| (name.as_str(), STANDARD.encode(value))).collect();
    // A map of strings is always JSON.
    let json = serde_json::to_string(&coded).unwrap_or_default();
    utf8_percent_encode(&json, UNESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_s3fs_writes_them() {
        let xattrs: Xattrs = [("user.a".to_owned(), b"1".to_vec()), ("user.b c".to_owned(), vec![0, 255])].into();
        let extra = Extra::default().with_xattrs(&xattrs).unwrap();
        let expected = "%7B%22user.a%22%3A%22MQ%3D%3D%22%2C%22user.b%20c%22%3A%22AP8%3D%22%7D";
        assert_eq!(extra.metadata[KEY], expected);
        assert_eq!(extra.xattrs(), xattrs);
        assert!(extra.with_xattrs(&Xattrs::new()).unwrap().metadata.is_empty());
    }

    #[test]
    fn odd_headers_are_no_attributes_and_too_many_are_refused() {
        let with = |text: &str| Extra { metadata: [(KEY.to_owned(), text.to_owned())].into(), ..Extra::default() };
        assert!(with("{}").xattrs().is_empty() && with("%7B").xattrs().is_empty());
        assert_eq!(with("%7B%22user.x%22:%22MQ%22%7D").xattrs()["user.x"], b"1");
        let large: Xattrs = [("user.large".to_owned(), vec![7; 1300])].into();
        assert!(Extra::default().with_xattrs(&large).is_none());
    }
}
