//! What the instance metadata service tells this machine of itself: IMDSv2 through the SDK's client, whose base URL is
//! `AWS_EC2_METADATA_SERVICE_ENDPOINT` where that is set.

use std::time::Duration;

use anyhow::Context;
use aws_config::imds;
use aws_config::provider_config::ProviderConfig;

/// Tries of one request; the SDK waits longer between each.
const ATTEMPTS: u32 = 5;
/// One request with all its tries.
const LIMIT: Duration = Duration::from_secs(30);

/// The path of the identity document as PKCS#7 with an RSA-2048 signature.
/// Source: AWS, "Verify instance identity documents for Amazon EC2".
const IDENTITY: &str = "/latest/dynamic/instance-identity/rsa2048";

/// The instance identity document as PKCS#7: base64 without PEM lines.
pub async fn identity_document() -> anyhow::Result<String> {
    // The service has no TLS, and reading the system's authorities takes longer than all the rest.
    let http = aws_smithy_http_client::Builder::new().build_http();
    let client = imds::Client::builder()
        .configure(&ProviderConfig::without_region().with_http_client(http))
        .max_attempts(ATTEMPTS)
        .build();
    let answer = tokio::time::timeout(LIMIT, client.get(IDENTITY)).await;
    let document = answer.context("the metadata service does not answer")?.context("the metadata service")?;
    Ok(document.as_ref().to_owned())
}
