//! A provider in memory that works as EC2 does, with knobs for its faults. For tests.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ec2mpi_proto::id::{ClusterId, InstanceId, LaunchId};
use parking_lot::Mutex;

use super::{Instance, InstanceState, LaunchRequest, Provider, ProviderError, TypeFacts, tag};

/// A fake cloud. Cheap to clone; clones share.
#[derive(Debug, Clone, Default)]
pub struct MemoryProvider {
    cloud: Arc<Mutex<Cloud>>,
}

#[derive(Debug, Default)]
struct Cloud {
    machines: Vec<Machine>,
    /// First request by launch id: what EC2 remembers of a ClientToken.
    tokens: BTreeMap<LaunchId, LaunchRequest>,
    calls: Vec<LaunchRequest>,
    /// Describes that a change of state takes.
    pending_for: u32,
    first_address: Option<Ipv4Addr>,
    capacity: Option<u32>,
    fail_next: Option<ProviderError>,
    lose_next: bool,
    delay_next: Option<Duration>,
}

#[derive(Debug)]
struct Machine {
    instance: Instance,
    cluster: Option<String>,
    /// Describes until its state changes by itself.
    steps_left: u32,
    printed: String,
}

impl MemoryProvider {
    /// A cloud without limit, whose machines are running when they are first described.
    pub fn new() -> Self {
        Self::default()
    }

    /// Machines stay pending, and shutting down, for this many calls of `describe`.
    pub fn pending_for(&self, describes: u32) {
        self.cloud.lock().pending_for = describes;
    }

    /// The first machine has this address, the others those after it.
    pub fn addresses_from(&self, first: Ipv4Addr) {
        self.cloud.lock().first_address = Some(first);
    }

    /// At most so many machines alive at a time; a launch of fewer than `min` is refused whole.
    pub fn capacity(&self, machines: u32) {
        self.cloud.lock().capacity = Some(machines);
    }

    /// The next launch fails so and makes nothing.
    pub fn fail_next_launch(&self, error: ProviderError) {
        self.cloud.lock().fail_next = Some(error);
    }

    /// The next launch happens, but its answer is lost.
    pub fn lose_next_answer(&self) {
        self.cloud.lock().lose_next = true;
    }

    /// The next launch waits so long before it happens.
    pub fn delay_next_launch(&self, delay: Duration) {
        self.cloud.lock().delay_next = Some(delay);
    }

    /// A machine ends by itself.
    pub fn die(&self, instance: &InstanceId) {
        let mut cloud = self.cloud.lock();
        if let Some(machine) = cloud.machines.iter_mut().find(|m| m.instance.id == *instance) {
            machine.become_terminated("Server.SpotInstanceTermination: the machine died");
        }
    }

    /// A machine prints on its console.
    pub fn print(&self, instance: &InstanceId, text: &str) {
        let mut cloud = self.cloud.lock();
        if let Some(machine) = cloud.machines.iter_mut().find(|m| m.instance.id == *instance) {
            machine.printed.push_str(text);
        }
    }

    /// Every machine ever made, in order.
    pub fn instances(&self) -> Vec<Instance> {
        self.cloud.lock().machines.iter().map(|m| m.instance.clone()).collect()
    }

    /// Every launch asked for, repeated ones included.
    pub fn launches(&self) -> Vec<LaunchRequest> {
        self.cloud.lock().calls.clone()
    }
}

impl Machine {
    fn become_terminated(&mut self, reason: &str) {
        self.instance.state = InstanceState::Terminated;
        self.instance.address = None;
        self.instance.reason = reason.to_owned();
    }

    /// What a describe sees; then the machine is one step further.
    fn observe(&mut self) -> Instance {
        if self.steps_left == 0 {
            match self.instance.state {
                InstanceState::Pending => self.instance.state = InstanceState::Running,
                InstanceState::ShuttingDown => self.become_terminated("Client.UserInitiatedShutdown"),
                _ => {}
            }
        }
        self.steps_left = self.steps_left.saturating_sub(1);
        self.instance.clone()
    }
}

impl Cloud {
    fn launch(&mut self, request: &LaunchRequest) -> Result<Vec<Instance>, ProviderError> {
        self.calls.push(request.clone());
        if let Some(error) = self.fail_next.take() {
            return Err(error);
        }
        let made = match self.tokens.get(&request.launch) {
            Some(first) => self.repeated(first, request)?,
            None => self.make(request)?,
        };
        if std::mem::take(&mut self.lose_next) {
            return Err(ProviderError::Unknown("the answer was lost".to_owned()));
        }
        Ok(made)
    }

    fn repeated(&self, first: &LaunchRequest, request: &LaunchRequest) -> Result<Vec<Instance>, ProviderError> {
        if first != request {
            return Err(ProviderError::Refused(
                "IdempotentParameterMismatch: the same launch with other arguments".to_owned(),
            ));
        }
        let of_launch = |m: &&Machine| m.instance.launch.as_ref() == Some(&request.launch);
        let made: Vec<Instance> = self.machines.iter().filter(of_launch).map(|m| m.instance.clone()).collect();
        if made.iter().all(|i| i.state == InstanceState::Terminated) {
            return Err(ProviderError::Gone("IdempotentInstanceTerminated: the machines of this launch".to_owned()));
        }
        Ok(made)
    }

    fn make(&mut self, request: &LaunchRequest) -> Result<Vec<Instance>, ProviderError> {
        type_facts(&request.instance_type)?;
        if request.min == 0 || request.min > request.max {
            return Err(ProviderError::Refused(format!(
                "InvalidParameterValue: at least {}, at most {} machines",
                request.min, request.max
            )));
        }
        let count = self.room().min(request.max);
        if count < request.min {
            return Err(ProviderError::Capacity(format!("InsufficientInstanceCapacity: only {count} machines")));
        }
        self.tokens.insert(request.launch.clone(), request.clone());
        (0..count).map(|index| self.add(request, index)).collect()
    }

    fn room(&self) -> u32 {
        let alive = self.machines.iter().filter(|m| m.instance.state.is_alive()).count();
        self.capacity.map_or(u32::MAX, |capacity| capacity.saturating_sub(u32::try_from(alive).unwrap_or(u32::MAX)))
    }

    fn add(&mut self, request: &LaunchRequest, index: u32) -> Result<Instance, ProviderError> {
        let number = u32::try_from(self.machines.len()).unwrap_or(u32::MAX);
        let id = format!("i-{number:017x}").parse().map_err(|e| ProviderError::Refused(format!("{e}")))?;
        let first_address = u32::from(self.first_address.unwrap_or(Ipv4Addr::new(10, 213, 0, 10)));
        let instance = Instance {
            id,
            launch: Some(request.launch.clone()),
            launch_index: index,
            state: InstanceState::Pending,
            address: Some(Ipv4Addr::from(first_address.wrapping_add(number))),
            reason: String::new(),
        };
        let cluster = request.tags.get(tag::CLUSTER_ID).cloned();
        self.machines.push(Machine {
            instance: instance.clone(),
            cluster,
            steps_left: self.pending_for,
            printed: String::new(),
        });
        Ok(instance)
    }

    fn terminate(&mut self, instances: &[InstanceId]) {
        let steps = self.pending_for;
        for machine in self.machines.iter_mut().filter(|m| instances.contains(&m.instance.id)) {
            if machine.instance.state.is_alive() {
                machine.instance.state = InstanceState::ShuttingDown;
                machine.steps_left = steps;
            }
        }
    }
}

#[async_trait]
impl Provider for MemoryProvider {
    async fn launch(&self, request: &LaunchRequest) -> Result<Vec<Instance>, ProviderError> {
        let delay = self.cloud.lock().delay_next.take();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        self.cloud.lock().launch(request)
    }

    async fn describe(&self, cluster: &ClusterId) -> Result<Vec<Instance>, ProviderError> {
        let mut cloud = self.cloud.lock();
        let of_cluster = |m: &&mut Machine| m.cluster.as_deref() == Some(cluster.as_str());
        Ok(cloud.machines.iter_mut().filter(of_cluster).map(Machine::observe).collect())
    }

    async fn terminate(&self, instances: &[InstanceId]) -> Result<(), ProviderError> {
        self.cloud.lock().terminate(instances);
        Ok(())
    }

    async fn console_output(&self, instance: &InstanceId) -> Result<String, ProviderError> {
        let cloud = self.cloud.lock();
        let found = cloud.machines.iter().find(|machine| machine.instance.id == *instance);
        let found = found.ok_or_else(|| ProviderError::Gone(format!("InvalidInstanceID.NotFound: {instance}")))?;
        Ok(format!("{instance} boots\n{}", found.printed))
    }

    async fn instance_type(&self, name: &str) -> Result<TypeFacts, ProviderError> {
        type_facts(name)
    }
}

fn type_facts(name: &str) -> Result<TypeFacts, ProviderError> {
    let (cores, architecture) = match name {
        "local.machine" | "c7i.xlarge" => (2, "x86_64"),
        "c7i.large" => (1, "x86_64"),
        "c7i.2xlarge" => (4, "x86_64"),
        "c7g.xlarge" => (4, "aarch64"),
        _ => return Err(ProviderError::Refused(format!("InvalidInstanceType: there is no instance type {name:?}"))),
    };
    Ok(TypeFacts { cores, architecture: architecture.to_owned() })
}

#[cfg(test)]
mod tests;
