//! The EC2 API through the AWS SDK: the one real provider, pointed at AWS or at the local cloud.

mod convert;
mod errors;
mod here;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::Credentials;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::describe_instances::DescribeInstancesOutput;
use aws_sdk_ec2::types::{Filter, InstanceType};
use aws_smithy_http_client::tls;
use aws_types::region::Region;
use ec2mpi_proto::id::{ClusterId, InstanceId};

pub use self::here::own_address;
use super::{Instance, LaunchRequest, Provider, ProviderError, TypeFacts, tag};

/// One attempt of one call. A launch of 1,000 machines takes EC2 some ten seconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// One call with its retries.
const CALL_TIMEOUT: Duration = Duration::from_secs(150);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 4;
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// Machines a page; EC2's greatest.
const PAGE: i32 = 1000;
/// Ten times the machines of the greatest cluster, should every page hold ten.
const PAGES_LIMIT: usize = 1000;
/// EC2 takes 1,000 ids a call and advises fewer.
const TERMINATE_BATCH: usize = 500;

/// Where the API is and who asks.
#[derive(Clone)]
pub struct Ec2Settings {
    pub region: String,
    /// URL; none: AWS's own for the region.
    pub endpoint: Option<String>,
    /// Access key and secret key; none: the SDK's default chain.
    pub credentials: Option<(String, String)>,
}

impl fmt::Debug for Ec2Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2Settings")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// A client of the EC2 API.
#[derive(Debug, Clone)]
pub struct Ec2Provider {
    client: Client,
    /// Machines a page.
    page: i32,
}

impl Ec2Provider {
    /// Makes the client; sends nothing to EC2 yet.
    pub async fn connect(settings: &Ec2Settings) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS).with_max_backoff(LONGEST_BACKOFF);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(settings.region.clone()))
            .timeout_config(timeouts)
            .retry_config(retries);
        if let Some((access_key, secret_key)) = &settings.credentials {
            loader = loader.credentials_provider(Credentials::new(access_key, secret_key, None, None, "ec2mpi"));
        }
        let shared = loader.load().await;
        let mut config = aws_sdk_ec2::config::Builder::from(&shared);
        config.set_endpoint_url(settings.endpoint.clone());
        Self { client: Client::from_conf(config.build()), page: PAGE }
    }

    /// The same with other pages than EC2's greatest; 5 is its smallest.
    pub fn with_page_size(self, page: i32) -> Self {
        Self { page, ..self }
    }

    /// The address block of a subnet, CIDR.
    pub async fn subnet_block(&self, subnet: &str) -> Result<String, ProviderError> {
        let answer = self.client.describe_subnets().subnet_ids(subnet).send().await;
        let answer = answer.map_err(|error| errors::of_call(&error))?;
        let block = answer.subnets().first().and_then(|found| found.cidr_block());
        block.map(str::to_owned).ok_or_else(|| ProviderError::Refused(format!("{subnet} has no IPv4 addresses")))
    }

    async fn terminate_batch(&self, batch: &[InstanceId]) -> Result<(), ProviderError> {
        let ids = batch.iter().map(ToString::to_string).collect();
        match self.client.terminate_instances().set_instance_ids(Some(ids)).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(errors::of_call(&error)),
        }
    }
}

#[async_trait]
impl Provider for Ec2Provider {
    async fn launch(&self, request: &LaunchRequest) -> Result<Vec<Instance>, ProviderError> {
        let call = convert::launch_call(self.client.run_instances(), request)?;
        let answer = call.send().await.map_err(|error| errors::of_call(&error))?;
        answer.instances().iter().map(convert::instance).collect()
    }

    async fn describe(&self, cluster: &ClusterId) -> Result<Vec<Instance>, ProviderError> {
        let filter = Filter::builder().name(format!("tag:{}", tag::CLUSTER_ID)).values(cluster.as_str()).build();
        let mut pages = self.client.describe_instances().filters(filter).into_paginator().page_size(self.page).send();
        let mut found = Vec::new();
        for _ in 0..PAGES_LIMIT {
            let Some(page) = pages.next().await else { return Ok(found) };
            found.extend(instances_of(&page.map_err(|error| errors::of_call(&error))?)?);
        }
        Err(ProviderError::Unknown(format!("the list of machines did not end after {PAGES_LIMIT} pages")))
    }

    /// One id that EC2 does not know makes it refuse the whole call: such a batch is halved until it stands alone.
    async fn terminate(&self, instances: &[InstanceId]) -> Result<(), ProviderError> {
        let mut batches: Vec<&[InstanceId]> = instances.chunks(TERMINATE_BATCH).collect();
        while let Some(batch) = batches.pop() {
            match self.terminate_batch(batch).await {
                Ok(()) => {}
                Err(ProviderError::Gone(_)) if batch.len() == 1 => {}
                Err(ProviderError::Gone(_)) => batches.extend(batch.chunks(batch.len().div_ceil(2))),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The latest output is kept for some types only; for the others EC2 has that of the boot.
    async fn console_output(&self, instance: &InstanceId) -> Result<String, ProviderError> {
        let ask = |latest| self.client.get_console_output().instance_id(instance.as_str()).set_latest(latest).send();
        let answer = match ask(Some(true)).await.map_err(|error| errors::of_call(&error)) {
            Err(ProviderError::Refused(_)) => ask(None).await.map_err(|error| errors::of_call(&error)),
            answer => answer,
        };
        convert::console(answer?.output().unwrap_or_default())
    }

    async fn instance_type(&self, name: &str) -> Result<TypeFacts, ProviderError> {
        let call = self.client.describe_instance_types().instance_types(InstanceType::from(name));
        let answer = call.send().await.map_err(|error| errors::of_call(&error))?;
        let [facts] = answer.instance_types() else {
            return Err(ProviderError::Refused(format!("there is no instance type {name:?}")));
        };
        convert::type_facts(facts)
    }
}

fn instances_of(page: &DescribeInstancesOutput) -> Result<Vec<Instance>, ProviderError> {
    page.reservations().iter().flat_map(|reservation| reservation.instances()).map(convert::instance).collect()
}

#[cfg(test)]
mod tests;
