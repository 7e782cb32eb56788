//! The bucket service alone, for S3 clients run by hand: `bucket DIRECTORY ADDRESS ACCESS:SECRET`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use ec2mpi_local_cloud::bucket::{self, KeyGrant, KeySource};

struct OneKey {
    access_key: String,
    secret: String,
}

impl KeySource for OneKey {
    fn secret(&self, access_key: &str) -> Option<KeyGrant> {
        (access_key == self.access_key).then(|| KeyGrant {
            secret: self.secret.clone(),
            session_token: None,
            expires_at: None,
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, address, key] = arguments.as_slice() else {
        anyhow::bail!("usage: bucket DIRECTORY ADDRESS ACCESS:SECRET");
    };
    let (access_key, secret) = key.split_once(':').context("the key must be ACCESS:SECRET")?;
    let keys = OneKey { access_key: access_key.to_owned(), secret: secret.to_owned() };
    let service = bucket::open(Path::new(directory), Arc::new(keys))?;
    service.create_bucket_if_absent("ec2mpi")?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    bucket::serve(listener, service, async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            eprintln!("error: {error}");
        }
    })
    .await?;
    Ok(())
}
