//! The CRC of a concatenation from the CRCs of its pieces, without the bytes.
//!
//! A CRC is linear over GF(2): appending zero bytes multiplies the register by a matrix, so the CRC of `AB` is the CRC
//! of `A` moved by the length of `B`, plus the CRC of `B` (as in zlib's `crc32_combine`). It holds for CRCs that start
//! from and are finished with all ones, as all three of S3's do.

use super::Algorithm;

/// Column `i` is what the register with only bit `i` set becomes.
type Matrix = [u64; 64];

/// A reflected generator polynomial and its width in bytes.
fn polynomial(algorithm: Algorithm) -> Option<(u64, usize)> {
    match algorithm {
        Algorithm::Crc32 => Some((0xedb8_8320, 4)),
        Algorithm::Crc32c => Some((0x82f6_3b78, 4)),
        Algorithm::Crc64Nvme => Some((0x9a6c_9329_ac4b_c9b5, 8)),
        Algorithm::Sha1 | Algorithm::Sha256 => None,
    }
}

/// The big-endian CRC of pieces given as (big-endian CRC, length) put together; none where there is no such thing.
pub(super) fn concatenated<'a>(algorithm: Algorithm, pieces: impl Iterator<Item = (&'a [u8], u64)>) -> Option<Vec<u8>> {
    let (polynomial, width) = polynomial(algorithm)?;
    let mut whole = 0;
    for (sum, length) in pieces {
        whole = append_zeros(polynomial, whole, length) ^ read(sum, width)?;
    }
    Some(whole.to_be_bytes()[8 - width..].to_vec())
}

fn read(sum: &[u8], width: usize) -> Option<u64> {
    if sum.len() != width {
        return None;
    }
    Some(sum.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The register after `length` zero bytes, by repeated squaring.
fn append_zeros(polynomial: u64, mut register: u64, mut length: u64) -> u64 {
    let mut step = one_zero_bit(polynomial);
    for _ in 0..3 {
        step = square(&step);
    }
    while length > 0 {
        if length & 1 == 1 {
            register = apply(&step, register);
        }
        step = square(&step);
        length >>= 1;
    }
    register
}

fn one_zero_bit(polynomial: u64) -> Matrix {
    std::array::from_fn(|bit| if bit == 0 { polynomial } else { 1 << (bit - 1) })
}

fn apply(matrix: &Matrix, register: u64) -> u64 {
    matrix.iter().enumerate().filter(|(bit, _)| register >> bit & 1 == 1).fold(0, |sum, (_, column)| sum ^ column)
}

fn square(matrix: &Matrix) -> Matrix {
    std::array::from_fn(|bit| apply(matrix, matrix[bit]))
}
