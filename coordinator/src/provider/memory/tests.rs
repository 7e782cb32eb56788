use super::*;

fn cluster() -> ClusterId {
    "c-0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn request(min: u32, max: u32) -> LaunchRequest {
    LaunchRequest {
        launch: LaunchId::random(),
        min,
        max,
        image: "ami-00000000000000001".to_owned(),
        instance_type: "local.machine".to_owned(),
        subnet: None,
        security_groups: Vec::new(),
        instance_profile: None,
        user_data: String::new(),
        tags: [(tag::CLUSTER_ID.to_owned(), cluster().to_string())].into(),
    }
}

async fn states(cloud: &MemoryProvider) -> Vec<InstanceState> {
    cloud.describe(&cluster()).await.unwrap().iter().map(|i| i.state).collect()
}

fn ids(instances: &[Instance]) -> Vec<InstanceId> {
    instances.iter().map(|i| i.id.clone()).collect()
}

#[tokio::test]
async fn a_repeated_launch_gives_the_same_machines() {
    let cloud = MemoryProvider::new();
    let request = request(2, 3);
    let first = cloud.launch(&request).await.unwrap();
    let again = cloud.launch(&request).await.unwrap();
    assert_eq!((first.len(), ids(&first)), (3, ids(&again)));
    assert_eq!(first.iter().map(|i| i.launch_index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((cloud.instances().len(), cloud.launches().len()), (3, 2));
    let other = LaunchRequest { max: 4, ..request.clone() };
    assert!(matches!(cloud.launch(&other).await, Err(ProviderError::Refused(_))));
    cloud.terminate(&ids(&first)).await.unwrap();
    states(&cloud).await;
    assert!(matches!(cloud.launch(&request).await, Err(ProviderError::Gone(_))));
}

#[tokio::test]
async fn a_lost_answer_is_found_by_repeating() {
    let cloud = MemoryProvider::new();
    let request = request(1, 2);
    cloud.lose_next_answer();
    assert!(matches!(cloud.launch(&request).await, Err(ProviderError::Unknown(_))));
    assert_eq!(ids(&cloud.launch(&request).await.unwrap()), ids(&cloud.instances()));
    assert_eq!(cloud.instances().len(), 2);
    cloud.fail_next_launch(ProviderError::Throttled("slow".to_owned()));
    let second = super::tests::request(1, 1);
    assert_eq!(cloud.launch(&second).await, Err(ProviderError::Throttled("slow".to_owned())));
    assert_eq!(cloud.instances().len(), 2);
    assert_eq!(cloud.launch(&second).await.unwrap().len(), 1);
}

#[tokio::test]
async fn states_take_their_time() {
    use InstanceState::{Pending, Running, ShuttingDown, Terminated};
    let cloud = MemoryProvider::new();
    cloud.pending_for(2);
    let made = cloud.launch(&request(1, 1)).await.unwrap();
    let mut seen = vec![made[0].state];
    for _ in 0..3 {
        seen.extend(states(&cloud).await);
    }
    cloud.terminate(&ids(&made)).await.unwrap();
    for _ in 0..3 {
        seen.extend(states(&cloud).await);
    }
    assert_eq!(seen, [Pending, Pending, Pending, Running, ShuttingDown, ShuttingDown, Terminated]);
    assert_eq!(cloud.instances()[0].address, None);
    let stranger: ClusterId = ClusterId::random();
    assert_eq!(cloud.describe(&stranger).await, Ok(Vec::new()));
}

#[tokio::test]
async fn capacity_counts_what_lives() {
    let cloud = MemoryProvider::new();
    cloud.capacity(3);
    assert!(matches!(cloud.launch(&request(4, 4)).await, Err(ProviderError::Capacity(_))));
    let made = cloud.launch(&request(2, 4)).await.unwrap();
    assert_eq!(made.len(), 3);
    assert!(matches!(cloud.launch(&request(1, 1)).await, Err(ProviderError::Capacity(_))));
    cloud.die(&made[1].id);
    assert_eq!(cloud.instances()[1].state, InstanceState::Terminated);
    assert_eq!(cloud.launch(&request(1, 1)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn bad_requests_are_refused_and_the_gone_may_be_terminated_again() {
    let cloud = MemoryProvider::new();
    for bad in [request(0, 1), request(2, 1), LaunchRequest { instance_type: "x1.none".to_owned(), ..request(1, 1) }] {
        assert!(matches!(cloud.launch(&bad).await, Err(ProviderError::Refused(_))), "{bad:?}");
    }
    let made = cloud.launch(&request(1, 1)).await.unwrap();
    for _ in 0..2 {
        cloud.terminate(&ids(&made)).await.unwrap();
        assert_eq!(states(&cloud).await, [InstanceState::Terminated]);
    }
    cloud.terminate(&["i-fffffffffffffffff".parse().unwrap()]).await.unwrap();
    assert_eq!(cloud.instance_type("c7g.xlarge").await.unwrap().architecture, "aarch64");
}
