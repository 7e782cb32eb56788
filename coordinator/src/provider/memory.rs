//! A provider in memory that works as EC2 does, with knobs for its faults. For tests.

use std::time::Duration;

use async_trait::async_trait;
use ec2mpi_proto::id::{ClusterId, InstanceId};

use super::{Instance, LaunchRequest, Provider, ProviderError, TypeFacts};

/// A fake cloud. Cheap to clone; clones share.
#[derive(Debug, Clone, Default)]
pub struct MemoryProvider {}

impl MemoryProvider {
    /// A cloud without limit, whose machines run at once.
    pub fn new() -> Self {
        todo!()
    }

    /// Machines stay pending for this many calls of `describe`.
    pub fn pending_for(&self, _describes: u32) {
        todo!()
    }

    /// At most so many machines alive at a time; a launch of fewer than `min` is refused whole.
    pub fn capacity(&self, _machines: u32) {
        todo!()
    }

    /// The next launch fails so and makes nothing.
    pub fn fail_next_launch(&self, _error: ProviderError) {
        todo!()
    }

    /// The next launch happens, but its answer is lost.
    pub fn lose_next_answer(&self) {
        todo!()
    }

    /// The next launch waits so long before it answers.
    pub fn delay_next_launch(&self, _delay: Duration) {
        todo!()
    }

    /// A machine ends by itself.
    pub fn die(&self, _instance: &InstanceId) {
        todo!()
    }

    /// Every machine ever made, in order.
    pub fn instances(&self) -> Vec<Instance> {
        todo!()
    }

    /// Every launch asked for, repeated ones included.
    pub fn launches(&self) -> Vec<LaunchRequest> {
        todo!()
    }
}

#[async_trait]
impl Provider for MemoryProvider {
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
