//! What the instance metadata service says of the machine that this process runs on.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use aws_config::imds;
use aws_config::provider_config::ProviderConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

/// Beyond EC2 nobody answers.
const LIMIT: Duration = Duration::from_secs(3);

const LOCAL_ADDRESS: &str = "/latest/meta-data/local-ipv4";

/// The private address of this machine, if it is on EC2. `AWS_EC2_METADATA_DISABLED` is respected.
pub async fn own_address() -> anyhow::Result<Ipv4Addr> {
    if std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true")) {
        bail!("AWS_EC2_METADATA_DISABLED is set");
    }
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let client = imds::Client::builder()
        .configure(&ProviderConfig::without_region().with_http_client(http))
        .connect_timeout(LIMIT)
        .max_attempts(1)
        .build();
    let answer = tokio::time::timeout(LIMIT, client.get(LOCAL_ADDRESS)).await;
    let text = answer.context("the metadata service does not answer")?.context("the metadata service")?;
    text.as_ref().trim().parse().context("the metadata service gave no address")
}
