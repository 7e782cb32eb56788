//! The reconcile loop against a cloud in memory, with agents that speak to the registry without a wire.

use std::collections::BTreeSet;

use super::launch::Pace;
use super::*;
use crate::provider::memory::MemoryProvider;
use crate::provider::{Instance, InstanceState, LaunchRequest, ProviderError};
use crate::registry::{Facts, Request, VolumeCondition};
use crate::state::{Issued, JoinRecord, NodeRecord};
use crate::user_data::AgentBinary;

const SOON: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(10);
const DRAIN: Duration = Duration::from_secs(1);

/// Facts of a cloud that answers at once.
pub(crate) fn place() -> Place {
    Place {
        cloud: "local".into(),
        region: "local-1".into(),
        image: "ami-00000000000000001".into(),
        default_instance_type: "local.machine".into(),
        default_ttl: None,
        subnet: None,
        security_groups: vec![],
        instance_profile: None,
        cidr: "10.213.0.0/16".into(),
        dedicated_cores: false,
        bucket: "ec2mpi".into(),
        prefix: String::new(),
        node_s3_endpoint: "http://10.213.0.1:9000".into(),
        pace: Pace { busy: TICK, worried: TICK * 5, idle: Duration::from_secs(1), settle: Duration::from_millis(200) },
    }
}

/// What nodes are told, with the authority's certificate `ca_pem`.
pub(crate) fn coordinates(ca_pem: &str) -> Coordinates {
    let binary = AgentBinary { url: "http://10.213.0.1:80/agent".into(), sha256: "0".repeat(64) };
    Coordinates {
        url: "https://10.213.0.1:443".into(),
        server_name: "coordinator.ec2mpi".into(),
        ca_pem: ca_pem.into(),
        agents: [("x86_64".to_owned(), binary)].into(),
    }
}

/// A cluster of `local.machine`s.
pub(crate) fn spec(name: &str, nodes: u32, min_nodes: u32) -> ClusterSpec {
    ClusterSpec {
        name: name.parse().unwrap(),
        nodes,
        min_nodes,
        timeout: Duration::from_secs(600),
        instance_type: String::new(),
        slots_per_node: 0,
        ttl: None,
    }
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

/// How the agents of a world behave.
#[derive(Debug, Clone, Default)]
struct Manners {
    /// Nodes whose agent never comes up.
    silent: BTreeSet<u32>,
    /// What draining fails with.
    dirty: Option<String>,
}

struct World {
    state: State,
    provider: MemoryProvider,
    registry: Registry,
    clusters: Clusters,
    told: Arc<Mutex<BTreeMap<InstanceId, Vec<u32>>>>,
    manners: Arc<Mutex<Manners>>,
    agents: tokio::task::JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        Self::with(State::in_memory().unwrap(), MemoryProvider::new())
    }

    fn with(state: State, provider: MemoryProvider) -> Self {
        let registry = Registry::default();
        let ca = crate::identity::authority::Authority::generate(jiff::Timestamp::now()).unwrap();
        let clusters = Clusters::start(
            state.clone(),
            Arc::new(provider.clone()),
            registry.clone(),
            place(),
            coordinates(ca.certificate_pem()),
        );
        let (told, manners) = <(Arc<Mutex<_>>, Arc<Mutex<Manners>>)>::default();
        let agents = tokio::spawn(play_agents(state.clone(), registry.clone(), told.clone(), manners.clone()));
        Self { state, provider, registry, clusters: clusters.unwrap(), told, manners, agents }
    }

    /// The same records and machines, seen by a new process.
    async fn restarted(self) -> Self {
        self.agents.abort();
        self.clusters.shut_down(SOON).await;
        Self::with(self.state.clone(), self.provider.clone())
    }

    async fn create(&self, spec: ClusterSpec) -> ClusterView {
        self.clusters.create(spec).await.unwrap()
    }

    async fn wait(&self, cluster: &str, what: impl Fn(&ClusterView) -> bool) -> ClusterView {
        let mut views = self.clusters.watch(&name(cluster)).unwrap();
        let view = tokio::time::timeout(SOON, views.wait_for(what)).await;
        match view {
            Ok(view) => view.unwrap().clone(),
            Err(_) => panic!("it did not come to that: {:#?}", self.clusters.get(&name(cluster))),
        }
    }

    async fn wait_ready(&self, cluster: &str) -> ClusterView {
        self.wait(cluster, |view| view.phase == ClusterPhase::Ready).await
    }

    async fn wait_destroyed(&self, cluster: &str) -> Proof {
        let view = self.wait(cluster, |view| matches!(view.phase, ClusterPhase::Destroyed { .. })).await;
        let ClusterPhase::Destroyed { proof } = view.phase else { panic!("not destroyed") };
        proof
    }

    fn alive(&self) -> Vec<Instance> {
        self.provider.instances().into_iter().filter(|instance| instance.state.is_alive()).collect()
    }

    fn written_down(&self, cluster: &str, nodes: u32) -> (ClusterId, LaunchRequest) {
        let id = crate::state::sample_cluster(&self.state, cluster, nodes);
        let request = self.state.launches(&id).unwrap().remove(0).request;
        (id, request)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agents.abort();
    }
}

/// Joins every machine that gets known, and answers for it.
async fn play_agents(
    state: State,
    registry: Registry,
    told: Arc<Mutex<BTreeMap<InstanceId, Vec<u32>>>>,
    manners: Arc<Mutex<Manners>>,
) {
    let mut up = BTreeSet::new();
    loop {
        for cluster in state.clusters().unwrap() {
            for node in state.nodes(&cluster.id).unwrap() {
                let Some(instance) = node.instance.clone() else { continue };
                if !manners.lock().silent.contains(&node.index) && node.given_up.is_none() && up.insert(instance) {
                    tokio::spawn(play_agent(state.clone(), registry.clone(), node, told.clone(), manners.clone()));
                }
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn play_agent(
    state: State,
    registry: Registry,
    node: NodeRecord,
    told: Arc<Mutex<BTreeMap<InstanceId, Vec<u32>>>>,
    manners: Arc<Mutex<Manners>>,
) {
    let instance = node.instance.unwrap();
    let answer =
        Issued { certificate_pem: String::new(), host_certificate: String::new(), user_certificate: String::new() };
    state.bind(&instance, &JoinRecord { public_key: vec![1], answer, issued_at: now() }).unwrap();
    let at = now();
    let phases = [("agent", at), ("join", at + 0.1), ("mount", at + 0.2)];
    let phases = phases.map(|(phase, at)| (phase.to_owned(), at)).into();
    let Some(session) = registry.attach(&instance, Facts { phases, ..Facts::default() }) else { return };
    session.heartbeat(VolumeState { condition: VolumeCondition::Mounted, ..VolumeState::default() });
    while let Some((id, request)) = session.next().await {
        let dirty = manners.lock().dirty.clone();
        let error = match request {
            Request::SetPeers(peers) => {
                told.lock().insert(instance.clone(), peers.iter().map(|peer| peer.index).collect());
                None
            }
            Request::Drain { .. } => dirty,
            _ => None,
        };
        session.reply(&id, error.unwrap_or_default(), String::new());
    }
}

#[tokio::test]
async fn a_cluster_is_created_told_and_destroyed_with_a_proof() {
    let world = World::new();
    let view = world.create(spec("demo", 3, 0)).await;
    assert_eq!(view.phase, ClusterPhase::Creating);
    let view = world.wait_ready("demo").await;
    assert_eq!((view.spec.slots_per_node, view.volume.as_str()), (2, "s3://ec2mpi/demo/"));
    assert!(view.nodes.iter().all(|node| node.phase == NodePhase::Ready), "{:#?}", view.nodes);
    assert_eq!(view.timings.keys().collect::<Vec<_>>(), ["boot", "join", "launch", "mount", "total"]);
    assert_eq!(world.told.lock().values().cloned().collect::<Vec<_>>(), vec![vec![0, 1, 2]; 3]);
    let request = world.provider.launches().remove(0);
    assert_eq!(request.tags["ec2mpi:launch-id"], request.launch.to_string());
    assert!(request.user_data.contains(request.launch.as_str()));

    let leaving = world.clusters.destroy(&name("demo"), false, DRAIN).await.unwrap();
    assert!(matches!(leaving.phase, ClusterPhase::Destroying { .. }));
    let proof = world.wait_destroyed("demo").await;
    assert_eq!((proof.terminated, proof.remaining), (3, 0));
    assert!(proof.query.contains(view.id.as_str()));
    assert_eq!(world.alive(), []);
    assert!(world.clusters.is_empty() && world.state.clusters().unwrap().is_empty());
    assert!(matches!(world.clusters.get(&name("demo")), Err(Error::NotFound(_))));
    world.create(spec("demo", 1, 0)).await;
    world.wait_ready("demo").await;
}

#[tokio::test]
async fn a_launch_that_was_only_written_down_is_made_once() {
    let world = World::new();
    let (_, request) = world.written_down("demo", 2);
    let world = world.restarted().await;
    world.wait_ready("demo").await;
    assert_eq!(world.provider.launches(), [request]);
    assert_eq!(world.provider.instances().len(), 2);
}

#[tokio::test]
async fn a_launch_whose_answer_was_not_stored_is_found_again() {
    let world = World::new();
    let (_, request) = world.written_down("demo", 2);
    world.provider.launch(&request).await.unwrap();
    let world = world.restarted().await;
    world.wait_ready("demo").await;
    assert!(world.provider.launches().iter().all(|repeated| *repeated == request), "the words were changed");
    assert_eq!(world.provider.instances().len(), 2);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_in_the_same_words() {
    let world = World::new();
    world.provider.lose_next_answer();
    world.create(spec("demo", 2, 0)).await;
    world.wait_ready("demo").await;
    let launches = world.provider.launches();
    assert!(launches.iter().all(|launch| *launch == launches[0]));
    assert_eq!(world.provider.instances().len(), 2);
}

#[tokio::test]
async fn a_restart_finds_a_ready_cluster_ready() {
    let world = World::new();
    world.create(spec("demo", 2, 0)).await;
    let before = world.wait_ready("demo").await;
    let world = world.restarted().await;
    let after = world.wait("demo", |view| view.nodes.iter().all(|node| node.phase == NodePhase::Ready)).await;
    assert_eq!((after.phase, after.timings, after.id), (before.phase, before.timings, before.id));
    assert_eq!(world.provider.launches().len(), 1);
}

#[tokio::test]
async fn too_few_machines_fail_the_cluster_and_enough_are_taken() {
    let world = World::new();
    world.provider.capacity(2);
    world.create(spec("enough", 4, 2)).await;
    let view = world.wait_ready("enough").await;
    assert_eq!(view.nodes[3].phase, NodePhase::Failed { why: "the cloud had only 2 of 4 machines".into() });
    assert_eq!(view.message, "2 of 4 nodes are missing");

    let hasty = ClusterSpec { timeout: Duration::from_millis(300), ..spec("toofew", 1, 0) };
    world.create(hasty).await;
    let view = world.wait("toofew", |view| matches!(view.phase, ClusterPhase::Failed { .. })).await;
    assert!(view.message.contains("InsufficientInstanceCapacity"), "{}", view.message);
    world.clusters.destroy(&name("toofew"), false, DRAIN).await.unwrap();
    assert_eq!(world.wait_destroyed("toofew").await.terminated, 0);
}

#[tokio::test]
async fn a_refused_launch_fails_at_once_with_the_clouds_words() {
    let world = World::new();
    world.provider.fail_next_launch(ProviderError::Refused("InvalidSubnet: none".into()));
    world.create(spec("demo", 1, 0)).await;
    let view = world.wait("demo", |view| matches!(view.phase, ClusterPhase::Failed { .. })).await;
    assert!(view.message.contains("InvalidSubnet: none"), "{}", view.message);
}

#[tokio::test]
async fn a_node_that_never_comes_up_is_ended_and_the_rest_is_enough() {
    let world = World::new();
    world.manners.lock().silent.insert(1);
    world.create(ClusterSpec { timeout: Duration::from_secs(1), ..spec("demo", 3, 2) }).await;
    let view = world.wait_ready("demo").await;
    assert!(matches!(&view.nodes[1].phase, NodePhase::Failed { why } if why.contains("has not joined")), "{view:#?}");
    let silent = view.nodes[1].instance.clone().unwrap();
    world.wait("demo", |_| !world.alive().iter().any(|instance| instance.id == silent)).await;
    assert_eq!(world.told.lock().values().cloned().collect::<Vec<_>>(), vec![vec![0, 2]; 2]);
}

#[tokio::test]
async fn a_cluster_that_fails_costs_nothing() {
    let world = World::new();
    world.manners.lock().silent.insert(1);
    world.create(ClusterSpec { timeout: Duration::from_secs(1), ..spec("demo", 2, 0) }).await;
    let view = world.wait("demo", |view| matches!(view.phase, ClusterPhase::Failed { .. })).await;
    assert!(view.message.contains("at least 2 are needed: node 1: not ready within 1 s"), "{}", view.message);
    let begun = std::time::Instant::now();
    while !world.alive().is_empty() {
        assert!(begun.elapsed() < SOON, "machines of a failed cluster live on");
        tokio::time::sleep(TICK).await;
    }
}

#[tokio::test]
async fn a_destroy_that_would_lose_files_is_refused_and_discard_is_not() {
    let world = World::new();
    world.manners.lock().dirty = Some("results.dat: access denied".into());
    world.create(spec("demo", 2, 0)).await;
    world.wait_ready("demo").await;
    world.clusters.destroy(&name("demo"), false, DRAIN).await.unwrap();
    let view = world.wait_ready("demo").await;
    assert!(view.message.contains("demo-1: ") && view.message.contains("results.dat: access denied"), "{view:#?}");
    assert_eq!(world.alive().len(), 2);
    world.clusters.destroy(&name("demo"), true, DRAIN).await.unwrap();
    assert_eq!(world.wait_destroyed("demo").await.terminated, 2);
}

#[tokio::test]
async fn a_refused_destroy_can_be_repeated_when_the_files_are_saved() {
    let world = World::new();
    world.manners.lock().dirty = Some("results.dat: access denied".into());
    world.create(spec("demo", 1, 0)).await;
    world.wait_ready("demo").await;
    world.clusters.destroy(&name("demo"), false, DRAIN).await.unwrap();
    world.wait_ready("demo").await;
    world.manners.lock().dirty = None;
    world.clusters.destroy(&name("demo"), false, DRAIN).await.unwrap();
    assert_eq!(world.wait_destroyed("demo").await.terminated, 1);
}

#[tokio::test]
async fn a_machine_that_dies_is_gone_and_the_others_are_told() {
    let world = World::new();
    world.create(spec("demo", 3, 0)).await;
    let view = world.wait_ready("demo").await;
    let lost = view.nodes[1].instance.clone().unwrap();
    world.provider.die(&lost);
    let view = world.wait("demo", |view| matches!(view.nodes[1].phase, NodePhase::Gone { .. })).await;
    assert_eq!(view.phase, ClusterPhase::Ready);
    let answer = world.registry.request(&lost, Request::RaiseEpoch, DRAIN).await;
    assert_eq!(answer, Err(crate::registry::RequestError::Gone(lost.clone())));
    world.told.lock().remove(&lost);
    world.wait("demo", |_| world.told.lock().values().all(|peers| *peers == [0, 2])).await;
}

#[tokio::test]
async fn one_cluster_in_trouble_does_not_hold_another() {
    let world = World::new();
    world.provider.delay_next_launch(Duration::from_secs(3));
    world.create(spec("slow", 1, 0)).await;
    tokio::time::sleep(TICK * 5).await;
    let begun = std::time::Instant::now();
    world.create(spec("quick", 1, 0)).await;
    world.wait_ready("quick").await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(world.clusters.get(&name("slow")).unwrap().phase, ClusterPhase::Creating);
}

#[tokio::test]
async fn a_destroy_during_the_launch_ends_what_it_made() {
    let world = World::new();
    world.provider.delay_next_launch(Duration::from_millis(300));
    world.create(spec("demo", 2, 0)).await;
    world.clusters.destroy(&name("demo"), false, DRAIN).await.unwrap();
    assert_eq!(world.wait_destroyed("demo").await.remaining, 0);
    assert_eq!(world.alive(), []);
}

#[tokio::test]
async fn a_destroy_goes_on_after_a_restart() {
    let world = World::new();
    world.provider.pending_for(20);
    world.create(spec("demo", 2, 0)).await;
    world.wait_ready("demo").await;
    world.clusters.destroy(&name("demo"), true, DRAIN).await.unwrap();
    world.wait("demo", |_| world.provider.instances().iter().any(|i| i.state == InstanceState::ShuttingDown)).await;
    let world = world.restarted().await;
    assert_eq!(world.wait_destroyed("demo").await.terminated, 2);
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let world = World::new();
    for (nodes, min_nodes) in [(0, 0), (1001, 0), (2, 3)] {
        let refused = world.clusters.create(spec("demo", nodes, min_nodes)).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{nodes} {min_nodes}");
    }
    for kind in ["x9.huge", "c7g.xlarge"] {
        let refused = world.clusters.create(ClusterSpec { instance_type: kind.into(), ..spec("demo", 1, 0) }).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{kind}");
    }
    world.create(spec("demo", 1, 0)).await;
    assert!(matches!(world.clusters.create(spec("demo", 1, 0)).await, Err(Error::Exists(_))));
    assert!(matches!(world.clusters.destroy(&name("other"), true, DRAIN).await, Err(Error::NotFound(_))));
    assert!(matches!(world.clusters.watch(&name("other")), Err(Error::NotFound(_))));
}
