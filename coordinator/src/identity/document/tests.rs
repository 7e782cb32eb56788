//! Documents signed by OpenSSL: fixtures/make.sh.

use super::*;

const CLOUD: &str = include_str!("fixtures/cloud.pem");
const STRANGER: &str = include_str!("fixtures/stranger.pem");
const ATTRIBUTES: &str = include_str!("fixtures/attributes.p7");
const ATTRIBUTES_BER: &str = include_str!("fixtures/attributes-ber.p7");
const BARE: &str = include_str!("fixtures/bare.p7");
const BARE_BER: &str = include_str!("fixtures/bare-ber.p7");

fn trusting(pem: &str) -> Vec<String> {
    vec![pem.to_owned()]
}

fn bytes(base64: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(base64.split_ascii_whitespace().collect::<String>()).unwrap()
}

fn expected() -> Document {
    Document {
        instance: "i-0123456789abcdef0".parse().unwrap(),
        region: "eu-west-1".to_owned(),
        account: "000000000000".to_owned(),
        private_ip: Ipv4Addr::new(10, 213, 0, 10),
        image: "ami-00000000000000001".to_owned(),
        instance_type: "c7i.large".to_owned(),
        pending_time: "2026-11-22T23:50:00Z".parse().unwrap(),
    }
}

#[test]
fn what_the_cloud_signed_is_read() {
    for signed in [ATTRIBUTES, ATTRIBUTES_BER, BARE, BARE_BER] {
        assert_eq!(verify(signed, &trusting(CLOUD)), Ok(expected()));
        assert_eq!(verify(signed, &[STRANGER.to_owned(), CLOUD.to_owned()]), Ok(expected()));
    }
}

#[test]
fn a_foreign_signature_is_refused_though_it_brings_its_certificate() {
    let stranger = include_str!("fixtures/stranger.p7");
    assert_eq!(verify(stranger, &trusting(STRANGER)), Ok(expected()));
    for signed in [stranger, ATTRIBUTES] {
        let trusted = if signed == stranger { CLOUD } else { STRANGER };
        let error = verify(signed, &trusting(trusted)).unwrap_err();
        assert_eq!(error, IdentityError::untrusted(DOCUMENT, "no trusted certificate signed it"));
        assert!(verify(signed, &[]).is_err());
    }
}

#[test]
fn changed_content_is_refused() {
    for (signed, why) in [
        (ATTRIBUTES, "its content is not the one that was signed"),
        (ATTRIBUTES_BER, "its content is not the one that was signed"),
        (BARE, "no trusted certificate signed it"),
        (BARE_BER, "no trusted certificate signed it"),
    ] {
        let mut changed = bytes(signed);
        let at = changed.windows(11).position(|w| w == b"10.213.0.10").unwrap();
        changed[at + 10] = b'1';
        let error = verify(&BASE64_STANDARD.encode(changed), &trusting(CLOUD)).unwrap_err();
        assert_eq!(error, IdentityError::untrusted(DOCUMENT, why));
    }
}

/// A byte of a certificate that came along, of the version or of a name of the signer may differ; what is read may not.
#[test]
fn no_changed_byte_changes_what_is_read() {
    for signed in [BARE_BER, ATTRIBUTES_BER] {
        let original = bytes(signed);
        for at in 0..original.len() {
            let mut changed = original.clone();
            changed[at] ^= 1;
            if let Ok(document) = verify(&BASE64_STANDARD.encode(changed), &trusting(CLOUD)) {
                assert_eq!(document, expected(), "byte {at}");
            }
        }
    }
}

#[test]
fn what_is_not_one_attached_sha256_signature_is_refused() {
    let sha1 = verify(include_str!("fixtures/sha1.p7"), &trusting(CLOUD)).unwrap_err();
    assert_eq!(sha1, IdentityError::untrusted(DOCUMENT, "its digest is not SHA-256"));
    let two = verify(include_str!("fixtures/two-signers.p7"), &trusting(CLOUD)).unwrap_err();
    assert_eq!(two, IdentityError::malformed(DOCUMENT, "it must have exactly one signature"));
    let detached = verify(include_str!("fixtures/detached.p7"), &trusting(CLOUD)).unwrap_err();
    assert_eq!(detached, IdentityError::malformed(DOCUMENT, "it holds no data"));
    let twice = verify(include_str!("fixtures/twice.p7"), &trusting(CLOUD)).unwrap_err();
    assert!(twice.to_string().contains("duplicate field `instanceId`"), "{twice}");
}

#[test]
fn what_is_no_signed_document_is_refused() {
    let cut = BASE64_STANDARD.encode(&bytes(BARE)[..500]);
    let long = "A".repeat(SIZE_LIMIT + 1);
    for bad in ["", "!", "AAAA", CLOUD, &cut, &long, include_str!("fixtures/document.json")] {
        let error = verify(bad, &trusting(CLOUD)).unwrap_err();
        assert!(matches!(error, IdentityError::Malformed { .. }), "{bad:.40}: {error}");
    }
    assert!(verify(BARE, &trusting("no certificate")).is_err());
}

#[test]
fn documents_must_be_whole() {
    let good = include_str!("fixtures/document.json");
    assert_eq!(parse(good.as_bytes()), Ok(expected()));
    for (from, to) in [
        ("\"region\"", "\"other\""),
        ("i-0123456789abcdef0", "i-x"),
        ("10.213.0.10", "10.213.0.256"),
        ("2026-11-22T23:50:00Z", "yesterday"),
        ("\n}", "\n} {}"),
    ] {
        assert!(good.contains(from));
        assert!(parse(good.replace(from, to).as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn stale_documents_and_those_of_the_future_are_refused() {
    let document = expected();
    let limit = Duration::from_secs(600);
    let after = |seconds: i64| document.pending_time + jiff::SignedDuration::from_secs(seconds);
    for fine in [0, 600, 900, -300] {
        assert_eq!(document.check_age(after(fine), limit), Ok(()), "{fine}");
    }
    for bad in [901, 86_400, -301] {
        assert!(document.check_age(after(bad), limit).is_err(), "{bad}");
    }
}

/// SHA-256 of the certificates' DER, as computed where they were compared with other public copies of AWS's page.
const AWS_FINGERPRINTS: [(&str, &str); 4] = [
    ("eu-central-1", "40e59f0c3924d32f53b9f66145fc18c4dfa1192dec7c74ad84d719826e9c7ba1"),
    ("eu-west-1", "7963eae83b58ab14bbd0715947015dd6866d7623df85eca742cabb8898281f30"),
    ("us-east-1", "70923c22dd074172d0e5d27ea1ca865412525fccd8bc2cd0ff40660e275f0b30"),
    ("us-west-2", "4e3569f2925a867a0c2f1b64efe101d4b4853d11c4f81c1e72aae201a92020b4"),
];

#[test]
fn the_certificates_of_aws_are_whole() {
    assert!(aws_regions().eq(AWS_FINGERPRINTS.map(|(region, _)| region)));
    for (region, fingerprint) in AWS_FINGERPRINTS {
        let pem = aws_certificate(region).unwrap();
        let certificate = Certificate::from_pem(pem).unwrap();
        assert_eq!(hex::encode(Sha256::digest(certificate.to_der().unwrap())), fingerprint, "{region}");
        // Each is signed by itself: a single wrong character would show.
        let signed = certificate.tbs_certificate.to_der().unwrap();
        let signature = Signature::try_from(certificate.signature.as_bytes().unwrap()).unwrap();
        public_key(pem).unwrap().verify(&signed, &signature).unwrap();
        assert!(certificate.tbs_certificate.subject.to_string().contains("Amazon Web Services"), "{region}");
        check_certificate(pem).unwrap();
    }
    assert_eq!(aws_certificate("mars-north-1"), None);
}
