//! Names: any bytes on the node, UTF-8 in S3.
//!
//! Bytes that are not UTF-8 become characters of a private range, each byte `b` the character U+E000+b: what s3fs does
//! with `use_wtf8`. A name that has such characters itself is taken byte by byte, so that no two names share a key.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

const BASE: u32 = 0xE000;
/// The characters that stand for a byte: one below 0x80 is always UTF-8.
const ESCAPES: std::ops::RangeInclusive<u32> = 0xE080..=0xE0FF;

/// The text of a key for these bytes.
pub(crate) fn to_key(bytes: &[u8]) -> String {
    let mut key = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if ESCAPES.contains(&u32::from(character)) {
                character.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| key.push(escape(byte)));
            } else {
                key.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| key.push(escape(*byte)));
    }
    key
}

/// The bytes that a key's text stands for.
pub(crate) fn from_key(key: &str) -> OsString {
    if key.is_ascii() {
        return key.into();
    }
    let mut bytes = Vec::with_capacity(key.len());
    for character in key.chars() {
        match u8::try_from(u32::from(character).wrapping_sub(BASE)) {
            Ok(byte) if byte >= 0x80 => bytes.push(byte),
            _ => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    OsString::from_vec(bytes)
}

/// How many bytes a key's text stands for.
pub(crate) fn length(key: &str) -> usize {
    if key.is_ascii() { key.len() } else { from_key(key).len() }
}

/// [`to_key`] of a name.
pub(crate) fn of(name: &OsStr) -> String {
    to_key(name.as_bytes())
}

fn escape(byte: u8) -> char {
    // Every value from U+E000 to U+E0FF is a character.
    char::from_u32(BASE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn utf8_is_itself_and_the_rest_is_s3fs() {
        assert_eq!(to_key("a b+%é/ü€😀".as_bytes()), "a b+%é/ü€😀");
        assert_eq!(to_key(b"caf\xe9"), "caf\u{e0e9}");
        assert_eq!(to_key(b"\xff\xfe"), "\u{e0ff}\u{e0fe}");
        assert_eq!(from_key("caf\u{e0e9}").as_bytes(), b"caf\xe9");
        assert_eq!(to_key("\u{e0e9}".as_bytes()), "\u{e0ee}\u{e083}\u{e0a9}");
        assert_eq!((length("caf\u{e0e9}"), length("é")), (4, 2));
    }

    proptest! {
        #[test]
        fn every_name_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let key = to_key(&bytes);
            let back = from_key(&key);
            prop_assert_eq!(back.as_bytes(), &bytes[..]);
            prop_assert_eq!(to_key(back.as_bytes()), key);
        }

        #[test]
        fn every_text_comes_back(text in "[\u{e070}-\u{e10f}a\u{e9}]{0,12}") {
            let back = from_key(&to_key(text.as_bytes()));
            prop_assert_eq!(back.as_bytes(), text.as_bytes());
        }
    }
}
