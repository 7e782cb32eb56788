//! S3's checksums: what a client claims, what was received, and how parts add up.

mod combine;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{self, Checksum as _};
use s3s::dto::{self, ChecksumAlgorithm, ChecksumType};
use s3s::{S3Result, TrailingHeaders, s3_error};
use serde::{Deserialize, Serialize};

/// How the bytes are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// What is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// The bytes of the object.
    FullObject,
    /// The checksums of its parts.
    Composite,
}

/// A checksum as S3 keeps it with an object or part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checksum {
    pub(super) algorithm: Algorithm,
    pub(super) kind: Kind,
    /// Base64; a composite one ends in `-` and the number of parts.
    pub(super) value: String,
}

impl Algorithm {
    const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => ChecksumAlgorithm::CRC32,
            Self::Crc32c => ChecksumAlgorithm::CRC32C,
            Self::Crc64Nvme => ChecksumAlgorithm::CRC64NVME,
            Self::Sha1 => ChecksumAlgorithm::SHA1,
            Self::Sha256 => ChecksumAlgorithm::SHA256,
        }
    }

    fn trailer(self) -> String {
        format!("x-amz-checksum-{}", self.name().to_ascii_lowercase())
    }

    /// The algorithm that a request names.
    pub(super) fn parse(algorithm: &ChecksumAlgorithm) -> S3Result<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.name() == algorithm.as_str())
            .ok_or_else(|| s3_error!(InvalidRequest, "unknown checksum algorithm {}", algorithm.as_str()))
    }

    /// What S3 makes of parts unless told otherwise.
    pub(super) fn default_kind(self) -> Kind {
        match self {
            Self::Crc64Nvme => Kind::FullObject,
            Self::Crc32 | Self::Crc32c | Self::Sha1 | Self::Sha256 => Kind::Composite,
        }
    }

    fn of(self, sums: &dto::Checksum) -> Option<&String> {
        match self {
            Self::Crc32 => sums.checksum_crc32.as_ref(),
            Self::Crc32c => sums.checksum_crc32c.as_ref(),
            Self::Crc64Nvme => sums.checksum_crc64nvme.as_ref(),
            Self::Sha1 => sums.checksum_sha1.as_ref(),
            Self::Sha256 => sums.checksum_sha256.as_ref(),
        }
    }

    fn sum(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Crc32 => crypto::Crc32::checksum(bytes).to_vec(),
            Self::Crc32c => crypto::Crc32c::checksum(bytes).to_vec(),
            Self::Crc64Nvme => crypto::Crc64Nvme::checksum(bytes).to_vec(),
            Self::Sha1 => crypto::Sha1::checksum(bytes).to_vec(),
            Self::Sha256 => crypto::Sha256::checksum(bytes).to_vec(),
        }
    }
}

impl Kind {
    pub(super) fn parse(kind: &ChecksumType) -> S3Result<Self> {
        match kind.as_str() {
            ChecksumType::FULL_OBJECT => Ok(Self::FullObject),
            ChecksumType::COMPOSITE => Ok(Self::Composite),
            other => Err(s3_error!(InvalidRequest, "unknown checksum type {other}")),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FullObject => ChecksumType::FULL_OBJECT,
            Self::Composite => ChecksumType::COMPOSITE,
        }
    }
}

impl Checksum {
    pub(super) fn to_dto(&self) -> dto::Checksum {
        let value = Some(self.value.clone());
        let mut sums = dto::Checksum {
            checksum_type: Some(ChecksumType::from_static(self.kind.name())),
            ..dto::Checksum::default()
        };
        match self.algorithm {
            Algorithm::Crc32 => sums.checksum_crc32 = value,
            Algorithm::Crc32c => sums.checksum_crc32c = value,
            Algorithm::Crc64Nvme => sums.checksum_crc64nvme = value,
            Algorithm::Sha1 => sums.checksum_sha1 = value,
            Algorithm::Sha256 => sums.checksum_sha256 = value,
        }
        sums
    }

    /// Whether `claimed` contradicts this checksum: names another value of the same algorithm.
    pub(super) fn contradicts(&self, claimed: &dto::Checksum) -> bool {
        self.algorithm.of(claimed).is_some_and(|value| *value != self.value)
    }
}

/// The checksum of an object made of parts with these checksums and lengths; none if they do not fit together.
pub(super) fn of_parts(algorithm: Algorithm, kind: Kind, parts: &[(&Checksum, u64)]) -> Option<Checksum> {
    if parts.iter().any(|(part, _)| part.algorithm != algorithm) {
        return None;
    }
    let sums: Vec<Vec<u8>> = parts.iter().map(|(part, _)| BASE64.decode(&part.value).ok()).collect::<Option<_>>()?;
    let value = match kind {
        Kind::Composite => format!("{}-{}", BASE64.encode(algorithm.sum(&sums.concat())), parts.len()),
        Kind::FullObject => {
            let pieces = sums.iter().zip(parts).map(|(sum, (_, length))| (sum.as_slice(), *length));
            BASE64.encode(combine::concatenated(algorithm, pieces)?)
        }
    };
    Some(Checksum { algorithm, kind, value })
}

/// The sums of some bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Digests {
    pub(super) md5: [u8; 16],
    sums: dto::Checksum,
}

impl Digests {
    /// The entity tag of an object that is these bytes.
    pub(super) fn etag(&self) -> String {
        hex::encode(self.md5)
    }

    /// The checksum by `algorithm`, if it was asked for.
    pub(super) fn checksum(&self, algorithm: Algorithm) -> Option<Checksum> {
        let value = algorithm.of(&self.sums)?.clone();
        Some(Checksum { algorithm, kind: Kind::FullObject, value })
    }
}

/// Sums bytes up as they come: always MD5, and the algorithms asked for.
pub(super) struct Hasher {
    md5: crypto::Md5,
    sums: ChecksumHasher,
}

impl Hasher {
    pub(super) fn new(algorithms: &[Algorithm]) -> Self {
        let mut sums = ChecksumHasher::default();
        for algorithm in algorithms {
            match algorithm {
                Algorithm::Crc32 => sums.crc32 = Some(crypto::Crc32::new()),
                Algorithm::Crc32c => sums.crc32c = Some(crypto::Crc32c::new()),
                Algorithm::Crc64Nvme => sums.crc64nvme = Some(crypto::Crc64Nvme::new()),
                Algorithm::Sha1 => sums.sha1 = Some(crypto::Sha1::new()),
                Algorithm::Sha256 => sums.sha256 = Some(crypto::Sha256::new()),
            }
        }
        Self { md5: crypto::Md5::new(), sums }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sums.update(bytes);
    }

    pub(super) fn finish(self) -> Digests {
        Digests { md5: self.md5.finalize(), sums: self.sums.finalize() }
    }
}

/// What a client says about the body it sends.
#[derive(Debug)]
pub(super) struct Claims {
    md5: Option<[u8; 16]>,
    sums: dto::Checksum,
    trailer: Option<(Algorithm, Option<TrailingHeaders>)>,
    named: Option<Algorithm>,
}

impl Claims {
    /// Reads `Content-MD5`, the `x-amz-checksum-*` headers, the algorithm named and the trailer announced.
    pub(super) fn new(
        content_md5: Option<&str>,
        sums: dto::Checksum,
        named: Option<&ChecksumAlgorithm>,
        headers: &HeaderMap,
        trailers: Option<TrailingHeaders>,
    ) -> S3Result<Self> {
        let md5 = content_md5.map(decode_md5).transpose()?;
        let announced = headers.get("x-amz-trailer").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let trailer = Algorithm::ALL
            .into_iter()
            .find(|algorithm| announced.split(',').any(|name| name.trim().eq_ignore_ascii_case(&algorithm.trailer())));
        let named = named.map(Algorithm::parse).transpose()?;
        Ok(Self { md5, sums, trailer: trailer.map(|algorithm| (algorithm, trailers)), named })
    }

    /// The algorithm whose checksum is kept with the object.
    pub(super) fn algorithm(&self) -> Algorithm {
        let given = Algorithm::ALL.into_iter().find(|algorithm| algorithm.of(&self.sums).is_some());
        let announced = self.trailer.as_ref().map(|(algorithm, _)| *algorithm);
        given.or(announced).or(self.named).unwrap_or(Algorithm::Crc64Nvme)
    }

    /// Every algorithm needed to verify the claims.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let announced = self.trailer.as_ref().map(|(algorithm, _)| *algorithm);
        Algorithm::ALL
            .into_iter()
            .filter(|algorithm| {
                algorithm.of(&self.sums).is_some() || announced == Some(*algorithm) || self.algorithm() == *algorithm
            })
            .collect()
    }

    /// Whether what was received is what was claimed. To be called after the body was read to its end.
    pub(super) fn verify(&self, digests: &Digests) -> S3Result<()> {
        if self.md5.is_some_and(|claimed| claimed != digests.md5) {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
        }
        for algorithm in Algorithm::ALL {
            if let Some(claimed) = algorithm.of(&self.sums) {
                compare(algorithm, claimed, digests)?;
            }
        }
        let Some((algorithm, trailers)) = &self.trailer else { return Ok(()) };
        let claimed = trailers
            .as_ref()
            .and_then(|trailers| trailers.read(|map| map.get(algorithm.trailer())?.to_str().ok().map(str::to_owned)))
            .flatten();
        match claimed {
            Some(claimed) => compare(*algorithm, &claimed, digests),
            None => Err(s3_error!(InvalidRequest, "the trailer {} is missing", algorithm.trailer())),
        }
    }
}

fn compare(algorithm: Algorithm, claimed: &str, digests: &Digests) -> S3Result<()> {
    if algorithm.of(&digests.sums).is_some_and(|value| value == claimed) {
        return Ok(());
    }
    Err(s3_error!(BadDigest, "The {} you specified did not match the calculated checksum.", algorithm.name()))
}

fn decode_md5(text: &str) -> S3Result<[u8; 16]> {
    let bytes = BASE64.decode(text).ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    bytes.ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid."))
}

/// The `checksum_*` fields of a request.
macro_rules! checksums_of {
    ($input:expr) => {
        s3s::dto::Checksum {
            checksum_crc32: $input.checksum_crc32.clone(),
            checksum_crc32c: $input.checksum_crc32c.clone(),
            checksum_crc64nvme: $input.checksum_crc64nvme.clone(),
            checksum_sha1: $input.checksum_sha1.clone(),
            checksum_sha256: $input.checksum_sha256.clone(),
            checksum_type: None,
        }
    };
}

/// Sets the `checksum_*` fields of an answer.
macro_rules! set_checksums {
    ($output:expr, $checksum:expr) => {{
        let sums = $checksum.to_dto();
        $output.checksum_crc32 = sums.checksum_crc32;
        $output.checksum_crc32c = sums.checksum_crc32c;
        $output.checksum_crc64nvme = sums.checksum_crc64nvme;
        $output.checksum_sha1 = sums.checksum_sha1;
        $output.checksum_sha256 = sums.checksum_sha256;
        sums.checksum_type
    }};
}

pub(super) use {checksums_of, set_checksums};

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(algorithm: Algorithm, bytes: &[u8]) -> Checksum {
        let mut hasher = Hasher::new(&[algorithm]);
        hasher.update(bytes);
        hasher.finish().checksum(algorithm).unwrap()
    }

    #[test]
    fn parts_add_up_to_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let pieces = [&bytes[..1], &bytes[1..70_001], &bytes[70_001..70_001], &bytes[70_001..]];
            let sums: Vec<_> = pieces.iter().map(|piece| (sum(algorithm, piece), piece.len() as u64)).collect();
            let parts: Vec<_> = sums.iter().map(|(sum, length)| (sum, *length)).collect();
            assert_eq!(of_parts(algorithm, Kind::FullObject, &parts).unwrap(), sum(algorithm, &bytes));
        }
    }

    #[test]
    fn a_composite_sum_is_the_sum_of_sums() {
        let (a, b) = (sum(Algorithm::Sha256, b"a"), sum(Algorithm::Sha256, b"b"));
        let both = [BASE64.decode(&a.value).unwrap(), BASE64.decode(&b.value).unwrap()].concat();
        let whole = of_parts(Algorithm::Sha256, Kind::Composite, &[(&a, 1), (&b, 1)]).unwrap();
        assert_eq!(whole.value, format!("{}-2", sum(Algorithm::Sha256, &both).value));
        assert_eq!(of_parts(Algorithm::Sha256, Kind::FullObject, &[(&a, 1), (&b, 1)]), None);
        assert_eq!(of_parts(Algorithm::Crc32, Kind::Composite, &[(&a, 1)]), None);
    }

    #[test]
    fn known_values() {
        assert_eq!(sum(Algorithm::Crc32, b"123456789").value, BASE64.encode(0xcbf4_3926_u32.to_be_bytes()));
        assert_eq!(sum(Algorithm::Crc32c, b"123456789").value, BASE64.encode(0xe306_9283_u32.to_be_bytes()));
        let nvme = 0xae8b_1486_0a79_9888_u64.to_be_bytes();
        assert_eq!(sum(Algorithm::Crc64Nvme, b"123456789").value, BASE64.encode(nvme));
    }

    #[test]
    fn claims_are_checked() {
        let mut hasher = Hasher::new(&[Algorithm::Crc32]);
        hasher.update(b"body");
        let digests = hasher.finish();
        let claims = |sums, md5: Option<&str>, headers: &HeaderMap| Claims::new(md5, sums, None, headers, None);
        let none = HeaderMap::new();
        let right = digests.checksum(Algorithm::Crc32).unwrap().to_dto();
        assert!(claims(right, Some(&BASE64.encode(digests.md5)), &none).unwrap().verify(&digests).is_ok());
        let wrong = dto::Checksum { checksum_crc32: Some("AAAAAA==".into()), ..dto::Checksum::default() };
        let error = claims(wrong, None, &none).unwrap().verify(&digests).unwrap_err();
        assert_eq!(error.code(), &s3s::S3ErrorCode::BadDigest);
        assert!(claims(dto::Checksum::default(), Some("AAAA"), &none).is_err());
        let mut announced = HeaderMap::new();
        announced.insert("x-amz-trailer", "x-amz-checksum-crc32".parse().unwrap());
        let missing = claims(dto::Checksum::default(), None, &announced).unwrap().verify(&digests).unwrap_err();
        assert_eq!(missing.code(), &s3s::S3ErrorCode::InvalidRequest);
    }
}
