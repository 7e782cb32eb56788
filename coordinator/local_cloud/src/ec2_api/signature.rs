//! Signature Version 4 of a request, in its Authorization header. Source: AWS, "Create a signed AWS API request".

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::request::Parts;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::keys::Keys;
use crate::mac;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far the clocks of client and cloud may be apart.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// Everything but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What the Authorization header says.
#[derive(Debug, PartialEq, Eq)]
struct Authorization<'a> {
    access_key: &'a str,
    /// Date, region, service, terminator.
    scope: [&'a str; 4],
    signed_headers: &'a str,
    signature: &'a str,
}

/// Checks that the owner of the cloud signed this request, within the last minutes.
pub(super) fn verify(parts: &Parts, body: &[u8], keys: &Keys, now: Timestamp) -> Result<(), ApiError> {
    let header = header(&parts.headers, "authorization").ok_or_else(unauthenticated)?;
    let authorization = parse(header).ok_or_else(unauthenticated)?;
    let secret = keys
        .owner_secret(authorization.access_key)
        .ok_or_else(|| ApiError::new("AuthFailure", "AWS was not able to validate the provided access credentials"))?;
    let date = self::header(&parts.headers, "x-amz-date").ok_or_else(unauthenticated)?;
    check_date(date, &authorization, now)?;
    let request = canonical_request(parts, body, authorization.signed_headers).ok_or_else(mismatch)?;
    let scope = authorization.scope.join("/");
    let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(request)));
    let signature = hex::decode(authorization.signature).map_err(|_| mismatch())?;
    let key = signing_key(secret, &authorization.scope);
    if mac::verify(&key, &[to_sign.as_bytes()], &signature) { Ok(()) } else { Err(mismatch()) }
}

fn parse(header: &str) -> Option<Authorization<'_>> {
    let fields: BTreeMap<&str, &str> =
        header.strip_prefix(ALGORITHM)?.split(',').filter_map(|field| field.trim().split_once('=')).collect();
    let mut credential = fields.get("Credential")?.split('/');
    let access_key = credential.next()?;
    let scope: Vec<&str> = credential.collect();
    Some(Authorization {
        access_key,
        scope: scope.try_into().ok()?,
        signed_headers: fields.get("SignedHeaders")?,
        signature: fields.get("Signature")?,
    })
}

fn check_date(date: &str, authorization: &Authorization<'_>, now: Timestamp) -> Result<(), ApiError> {
    let parsed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok();
    let at = parsed.and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC).ok()).ok_or_else(unauthenticated)?.timestamp();
    if !date.starts_with(authorization.scope[0]) {
        return Err(mismatch());
    }
    if now.duration_since(at).abs() > SKEW {
        return Err(ApiError::new("RequestExpired", "Request has expired."));
    }
    Ok(())
}

/// None when a header that is said to be signed is missing.
fn canonical_request(parts: &Parts, body: &[u8], signed_headers: &str) -> Option<String> {
    let mut headers = String::new();
    for name in signed_headers.split(';') {
        let values: Vec<String> =
            parts.headers.get_all(name).iter().filter_map(|value| Some(squeezed(value.to_str().ok()?))).collect();
        if values.is_empty() {
            return None;
        }
        headers += &format!("{name}:{}\n", values.join(","));
    }
    let query = canonical_query(parts.uri.query().unwrap_or_default());
    let digest = hex::encode(Sha256::digest(body));
    Some(format!("{}\n{}\n{query}\n{headers}\n{signed_headers}\n{digest}", parts.method, parts.uri.path()))
}

fn canonical_query(query: &str) -> String {
    let encoded = |text: &str| {
        let plain = percent_decode_str(text).collect::<Vec<u8>>();
        utf8_percent_encode(&String::from_utf8_lossy(&plain), RESERVED).to_string()
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        format!("{}={}", encoded(name), encoded(value))
    };
    let mut pairs: Vec<String> = query.split('&').filter(|text| !text.is_empty()).map(pair).collect();
    pairs.sort();
    pairs.join("&")
}

/// Without spaces at the ends, runs of spaces as one.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The key that signs requests of one scope.
fn signing_key(secret: &str, scope: &[&str]) -> Vec<u8> {
    scope.iter().fold(format!("AWS4{secret}").into_bytes(), |key, part| mac::compute(&key, &[part.as_bytes()]))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn unauthenticated() -> ApiError {
    ApiError::new("AuthFailure", "Request must be signed with AWS Signature Version 4 in its Authorization header.")
}

fn mismatch() -> ApiError {
    ApiError::new(
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided.",
    )
}

#[cfg(test)]
pub(super) fn sign_for_test(request: &mut axum::http::Request<Vec<u8>>, access_key: &str, secret: &str, at: Timestamp) {
    let date = at.strftime("%Y%m%dT%H%M%SZ").to_string();
    request.headers_mut().insert("host", "127.0.0.1".parse().unwrap());
    request.headers_mut().insert("x-amz-date", date.parse().unwrap());
    let (parts, body) = request.clone().into_parts();
    let canonical = canonical_request(&parts, &body, "host;x-amz-date").unwrap();
    let scope = [&date[..8], "local-1", "ec2", "aws4_request"];
    let to_sign = format!("{ALGORITHM}\n{date}\n{}\n{}", scope.join("/"), hex::encode(Sha256::digest(canonical)));
    let signature = hex::encode(mac::compute(&signing_key(secret, &scope), &[to_sign.as_bytes()]));
    let header = format!(
        "{ALGORITHM} Credential={access_key}/{}, SignedHeaders=host;x-amz-date, Signature={signature}",
        scope.join("/")
    );
    request.headers_mut().insert("authorization", header.parse().unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "get-vanilla-query-order-key-case" of AWS's SigV4 test suite.
    #[test]
    fn agrees_with_the_published_example() {
        let request = axum::http::Request::get("/?Param2=value2&Param1=value1")
            .header("host", "example.amazonaws.com")
            .header("x-amz-date", "20150830T123600Z")
            .body(())
            .unwrap();
        let (parts, ()) = request.into_parts();
        let canonical = canonical_request(&parts, b"", "host;x-amz-date").unwrap();
        assert_eq!(
            hex::encode(Sha256::digest(&canonical)),
            "816cd5b414d056048ba4f7c5386d6e0533120fb1fcfa93762cf0fc39e2cf19e0"
        );
        let to_sign = format!(
            "{ALGORITHM}\n20150830T123600Z\n20150830/us-east-1/service/aws4_request\n{}",
            hex::encode(Sha256::digest(&canonical))
        );
        let scope = ["20150830", "us-east-1", "service", "aws4_request"];
        let key = signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", &scope);
        assert_eq!(
            hex::encode(mac::compute(&key, &[to_sign.as_bytes()])),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
        );
    }

    #[test]
    fn reads_the_header() {
        let header = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/r/ec2/aws4_request, SignedHeaders=host, Signature=ab";
        let parsed = parse(header).unwrap();
        assert_eq!((parsed.access_key, parsed.scope), ("AKIA", ["20260101", "r", "ec2", "aws4_request"]));
        assert_eq!((parsed.signed_headers, parsed.signature), ("host", "ab"));
        for wrong in ["", "Basic abc", "AWS4-HMAC-SHA256 Credential=AKIA/1, SignedHeaders=a, Signature=b"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
