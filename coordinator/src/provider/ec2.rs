//! The EC2 API through the AWS SDK: the one real provider, pointed at AWS or at the local cloud.

use async_trait::async_trait;
use ec2mpi_proto::id::{ClusterId, InstanceId};

use super::{Instance, LaunchRequest, Provider, ProviderError, TypeFacts};

/// Where the API is and who asks.
#[derive(Clone)]
pub struct Ec2Settings {
    pub region: String,
    /// URL; none: AWS's own for the region.
    pub endpoint: Option<String>,
    /// Access key and secret key; none: the SDK's default chain.
    pub credentials: Option<(String, String)>,
}

/// A client of the EC2 API.
#[derive(Debug, Clone)]
pub struct Ec2Provider {}

impl Ec2Provider {
    /// Makes the client; sends nothing yet.
    pub async fn connect(_settings: &Ec2Settings) -> Self {
        todo!()
    }
}

#[async_trait]
impl Provider for Ec2Provider {
    async fn launch(&self, _request: &LaunchRequest) -> Result<Vec<Instance>, ProviderError> {
        todo!()
    }

    async fn describe(&self, _cluster: &ClusterId) -> Result<Vec<Instance>, ProviderError> {
        todo!()
    }

    async fn terminate(&self, _instances: &[InstanceId]) -> Result<(), ProviderError> {
        todo!()
    }

    async fn instance_type(&self, _name: &str) -> Result<TypeFacts, ProviderError> {
        todo!()
    }
}
