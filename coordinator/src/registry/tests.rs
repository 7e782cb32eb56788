//! Requests, sessions and events, without a wire.

use super::*;

const SOON: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_millis(50);

fn node() -> InstanceId {
    "i-0123456789abcdef0".parse().unwrap()
}

fn job() -> JobId {
    "j-0123456789ab".parse().unwrap()
}

async fn ask(registry: &Registry, deadline: Duration) -> Result<String, RequestError> {
    registry.request(&node(), Request::RaiseEpoch, deadline).await
}

fn ask_in_background(registry: &Registry) -> tokio::task::JoinHandle<Result<String, RequestError>> {
    let registry = registry.clone();
    tokio::spawn(async move { ask(&registry, SOON).await })
}

#[tokio::test]
async fn a_request_is_sent_and_answered() {
    let registry = Registry::default();
    let session = registry.attach(&node(), Facts::default()).unwrap();
    let asked = ask_in_background(&registry);
    let (id, request) = session.next().await.unwrap();
    assert_eq!(request, Request::RaiseEpoch);
    session.reply(&id, String::new(), "done".into());
    assert_eq!(asked.await.unwrap(), Ok("done".into()));
}

#[tokio::test]
async fn a_request_waits_for_the_node_and_survives_sessions_under_its_id() {
    let registry = Registry::default();
    let asked = ask_in_background(&registry);
    tokio::task::yield_now().await;
    let first = registry.attach(&node(), Facts::default()).unwrap();
    let (id, _) = first.next().await.unwrap();
    drop(first);
    let second = registry.attach(&node(), Facts::default()).unwrap();
    let (again, request) = second.next().await.unwrap();
    assert_eq!((again.as_str(), request), (id.as_str(), Request::RaiseEpoch));
    second.reply(&again, "disk full".into(), String::new());
    assert_eq!(asked.await.unwrap(), Err(RequestError::Failed(node(), "disk full".into())));
}

#[tokio::test]
async fn requests_are_sent_again_in_the_order_of_asking() {
    let registry = Registry::default();
    let mut asked = Vec::new();
    for signal in 0..20 {
        let registry = registry.clone();
        let request = Request::SignalProcess { job: job(), signal };
        asked.push(tokio::spawn(async move { registry.request(&node(), request, SOON).await }));
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        let session = registry.attach(&node(), Facts::default()).unwrap();
        for expected in 0..20 {
            let (_, request) = session.next().await.unwrap();
            assert_eq!(request, Request::SignalProcess { job: job(), signal: expected });
        }
    }
    asked.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_a_timeout_and_the_request_is_withdrawn() {
    let registry = Registry::default();
    assert_eq!(ask(&registry, MOMENT).await, Err(RequestError::Timeout(node(), MOMENT)));
    let session = registry.attach(&node(), Facts::default()).unwrap();
    assert!(tokio::time::timeout(MOMENT, session.next()).await.is_err(), "a withdrawn request was sent");
}

#[tokio::test]
async fn a_second_session_ends_the_first_and_its_words_no_longer_count() {
    let registry = Registry::default();
    let first = registry.attach(&node(), Facts::default()).unwrap();
    let second = registry.attach(&node(), Facts::default()).unwrap();
    first.replaced().await;
    assert!(first.next().await.is_none());
    first.heartbeat(VolumeState { dirty_files: 9, ..VolumeState::default() });
    drop(first);
    let liveness = registry.liveness(&node()).unwrap();
    assert!(liveness.connected);
    assert_eq!(liveness.volume.dirty_files, 0);
    drop(second);
    assert!(!registry.liveness(&node()).unwrap().connected);
}

#[tokio::test]
async fn silence_is_counted_from_the_end_of_the_session() {
    let registry = Registry::default();
    tokio::time::sleep(MOMENT).await;
    assert!(registry.silence(&node()) >= MOMENT);
    assert_eq!(registry.liveness(&node()), None);
    let session = registry.attach(&node(), Facts::default()).unwrap();
    assert_eq!(registry.silence(&node()), Duration::ZERO);
    let begun = Instant::now();
    drop(session);
    tokio::time::sleep(MOMENT).await;
    let silence = registry.silence(&node());
    assert!((MOMENT..=begun.elapsed()).contains(&silence), "{silence:?}");
}

#[tokio::test]
async fn changes_come_with_news_only() {
    let registry = Registry::default();
    let mut changes = registry.changes();
    let session = registry.attach(&node(), Facts::default()).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    session.heartbeat(VolumeState::default());
    assert!(!changes.has_changed().unwrap(), "a heartbeat without news woke everybody");
    session.heartbeat(VolumeState { condition: VolumeCondition::Mounted, ..VolumeState::default() });
    assert!(changes.has_changed().unwrap());
}

#[tokio::test]
async fn events_reach_the_newest_subscriber_and_reconnections_are_told() {
    let registry = Registry::default();
    let mut old = registry.subscribe(&node(), &job());
    let mut new = registry.subscribe(&node(), &job());
    let session = registry.attach(&node(), Facts::default()).unwrap();
    assert_eq!(new.recv().await, Some(ProcessEvent::Reconnected));
    assert_eq!(old.recv().await, None);
    let exit = ProcessEvent::Exit { code: 7, signal: 0, error: String::new() };
    session.event(&job(), exit.clone()).await;
    assert_eq!(new.recv().await, Some(exit));
}

#[tokio::test]
async fn the_last_word_of_a_node_is_kept_and_short() {
    let registry = Registry::default();
    assert_eq!(registry.last_word(&node()), None);
    registry.note(&node(), 1.0, "first");
    registry.note(&node(), 2.0, &"x".repeat(10_000));
    let word = registry.last_word(&node()).unwrap();
    assert!((word.at - 2.0).abs() < f64::EPSILON);
    assert_eq!(word.text.len(), WORD_LIMIT);
    assert!(registry.liveness(&node()).is_none(), "it has not connected");
}

#[tokio::test]
async fn a_retired_node_answers_everything_with_gone() {
    let registry = Registry::default();
    let session = registry.attach(&node(), Facts::default()).unwrap();
    let mut events = registry.subscribe(&node(), &job());
    let asked = ask_in_background(&registry);
    session.next().await.unwrap();
    registry.retire(&node(), "it ended");
    assert_eq!(asked.await.unwrap(), Err(RequestError::Gone(node())));
    assert_eq!(events.recv().await, Some(ProcessEvent::Gone));
    assert!(session.next().await.is_none());
    assert!(registry.attach(&node(), Facts::default()).is_none());
    assert_eq!(ask(&registry, SOON).await, Err(RequestError::Gone(node())));
    assert_eq!(registry.subscribe(&node(), &job()).recv().await, Some(ProcessEvent::Gone));
}

#[tokio::test]
async fn a_stuck_subscriber_is_let_go_and_does_not_hold_the_session() {
    let registry = Registry::default();
    let session = registry.attach(&node(), Facts::default()).unwrap();
    let mut stuck = registry.subscribe(&node(), &job());
    let output = || ProcessEvent::Output { stderr: false, offset: 0, data: Bytes::from_static(b"x") };
    for _ in 0..=EVENT_QUEUE {
        session.event(&job(), output()).await;
    }
    let mut received = 0;
    while stuck.recv().await.is_some() {
        received += 1;
    }
    assert_eq!(received, EVENT_QUEUE);
}

#[tokio::test]
async fn a_transfer_pairs_its_two_ends_once() {
    let registry = Registry::default();
    let mut end = registry.open_transfer("t", Direction::Out);
    let agent = registry.take_transfer("t").unwrap();
    assert!(registry.take_transfer("t").is_none());
    agent.from_node.send(Ok(Bytes::from_static(b"tar"))).await.unwrap();
    drop(agent);
    assert_eq!(end.from_node.recv().await, Some(Ok(Bytes::from_static(b"tar"))));
    assert_eq!(end.from_node.recv().await, None);
    drop(registry.open_transfer("abandoned", Direction::In));
    assert!(registry.take_transfer("abandoned").is_none());
}
