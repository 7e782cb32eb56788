//! From BER to DER, as far as PKCS#7 needs it: AWS's signatures use indefinite lengths and strings in pieces
//! (X.690, 8.1.3.6 and 8.7.3), which the `der` crate does not read.

/// Why bytes are not what PKCS#7 in BER should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BerError {
    #[error("it ends too early")]
    Truncated,
    #[error("something follows it")]
    Trailing,
    #[error("it is nested too deeply")]
    Depth,
    #[error("a tag or length in it is not supported")]
    Unsupported,
}

const DEPTH_LIMIT: u32 = 32;

const CONSTRUCTED: u8 = 0x20;
const OCTET_STRING: u8 = 0x04;
const END_OF_CONTENTS: [u8; 2] = [0, 0];

/// The same value with definite, shortest lengths and every octet string in one piece.
pub(super) fn to_der(ber: &[u8]) -> Result<Vec<u8>, BerError> {
    let mut reader = Reader { rest: ber };
    let der = reader.value(0)?;
    if reader.rest.is_empty() { Ok(der) } else { Err(BerError::Trailing) }
}

enum Length {
    Definite(usize),
    Indefinite,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BerError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(BerError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, BerError> {
        Ok(self.take(1)?[0])
    }

    fn length(&mut self) -> Result<Length, BerError> {
        let first = self.byte()?;
        match first {
            0..0x80 => Ok(Length::Definite(usize::from(first))),
            0x80 => Ok(Length::Indefinite),
            0x81..=0x84 => {
                let bytes = self.take(usize::from(first & 0x7f))?;
                Ok(Length::Definite(bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte))))
            }
            _ => Err(BerError::Unsupported),
        }
    }

    /// One value, re-encoded.
    fn value(&mut self, depth: u32) -> Result<Vec<u8>, BerError> {
        if depth > DEPTH_LIMIT {
            return Err(BerError::Depth);
        }
        let tag = self.byte()?;
        if tag & 0x1f == 0x1f {
            return Err(BerError::Unsupported);
        }
        let length = self.length()?;
        if tag & CONSTRUCTED == 0 {
            let Length::Definite(length) = length else { return Err(BerError::Unsupported) };
            return Ok(encode(tag, self.take(length)?));
        }
        let children = self.children(length, depth)?;
        if tag == CONSTRUCTED | OCTET_STRING {
            return joined(&children);
        }
        Ok(encode(tag, &children.concat()))
    }

    fn children(&mut self, length: Length, depth: u32) -> Result<Vec<Vec<u8>>, BerError> {
        let mut children = Vec::new();
        match length {
            Length::Definite(length) => {
                let mut inner = Reader { rest: self.take(length)? };
                while !inner.rest.is_empty() {
                    children.push(inner.value(depth + 1)?);
                }
            }
            Length::Indefinite => {
                while !self.rest.starts_with(&END_OF_CONTENTS) {
                    children.push(self.value(depth + 1)?);
                }
                self.take(END_OF_CONTENTS.len())?;
            }
        }
        Ok(children)
    }
}

/// The pieces of an octet string as one; they have been re-encoded, so each is primitive.
fn joined(pieces: &[Vec<u8>]) -> Result<Vec<u8>, BerError> {
    let mut content = Vec::new();
    for piece in pieces {
        let mut reader = Reader { rest: piece };
        let (OCTET_STRING, Length::Definite(length)) = (reader.byte()?, reader.length()?) else {
            return Err(BerError::Unsupported);
        };
        content.extend_from_slice(reader.take(length)?);
    }
    Ok(encode(OCTET_STRING, &content))
}

fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if let Ok(short @ 0..0x80) = u8::try_from(length) {
        out.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let used: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
        out.push(0x80 | u8::try_from(used.len()).unwrap_or(8));
        out.extend_from_slice(&used);
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn indefinite_lengths_and_pieces_become_definite_and_whole() {
        let ber = [0x30, 0x80, 0x24, 0x80, 0x04, 2, b'a', b'b', 0x04, 1, b'c', 0, 0, 0x02, 1, 7, 0, 0];
        assert_eq!(to_der(&ber), Ok(vec![0x30, 8, 0x04, 3, b'a', b'b', b'c', 0x02, 1, 7]));
        let nested = [0x24, 8, 0x24, 3, 0x04, 1, b'x', 0x04, 1, b'y'];
        assert_eq!(to_der(&nested), Ok(vec![0x04, 2, b'x', b'y']));
    }

    #[test]
    fn lengths_are_the_shortest() {
        assert_eq!(to_der(&[0x04, 0x82, 0, 1, 9]), Ok(vec![0x04, 1, 9]));
        let long = [&[0x04, 0x83, 0, 1, 0][..], &[5; 256]].concat();
        assert_eq!(to_der(&long).unwrap()[..4], [0x04, 0x82, 1, 0]);
        let middle = [&[0x04, 0x81, 0x80][..], &[5; 128]].concat();
        assert_eq!(to_der(&middle), Ok(middle));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(to_der(&[]), Err(BerError::Truncated));
        assert_eq!(to_der(&[0x04, 2, 1]), Err(BerError::Truncated));
        assert_eq!(to_der(&[0x30, 0x80, 0x05, 0]), Err(BerError::Truncated));
        assert_eq!(to_der(&[0x05, 0, 0]), Err(BerError::Trailing));
        assert_eq!(to_der(&[0x04, 0x80, 0, 0]), Err(BerError::Unsupported));
        assert_eq!(to_der(&[0x1f, 1, 0]), Err(BerError::Unsupported));
        assert_eq!(to_der(&[0x04, 0x85, 0, 0, 0, 0, 0]), Err(BerError::Unsupported));
        assert_eq!(to_der(&[0x24, 2, 0x05, 0]), Err(BerError::Unsupported));
        assert_eq!(to_der(&[0x30, 0x80].repeat(40)), Err(BerError::Depth));
    }

    proptest! {
        /// No input makes it panic, and what it made it leaves as it is.
        #[test]
        fn it_is_idempotent(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(der) = to_der(&bytes) {
                prop_assert_eq!(to_der(&der), Ok(der));
            }
        }
    }
}
