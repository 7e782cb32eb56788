//! Jobs against nodes that answer by script, through the real registry, records and spool.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use ec2mpi_proto::id::InstanceId;
use tokio::time::timeout;

use super::fixtures::view;
use super::*;
use crate::output::{JobEvent, Stream};
use crate::registry::{Facts, ProcessEvent, Request};

/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(30);

/// One cluster.
#[derive(Debug)]
struct One(Mutex<ClusterView>);

impl ClusterViews for One {
    fn get(&self, name: &ClusterName) -> Result<ClusterView, Error> {
        let view = self.0.lock().clone();
        if *name == view.spec.name { Ok(view) } else { Err(Error::NotFound(format!("no cluster {name}"))) }
    }
}

/// A coordinator's jobs, with a cluster of two nodes.
struct Lab {
    directory: tempfile::TempDir,
    state: State,
    view: ClusterView,
}

/// What was asked of which node, in order.
type Log = Arc<Mutex<Vec<(u32, Request)>>>;

impl Lab {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), state: State::in_memory().unwrap(), view: view(2) }
    }

    /// The jobs of a coordinator that has just started.
    fn jobs(&self) -> (Jobs, Registry) {
        self.jobs_of(Arc::new(One(Mutex::new(self.view.clone()))))
    }

    fn jobs_of(&self, clusters: Arc<One>) -> (Jobs, Registry) {
        let registry = Registry::default();
        let directory = self.directory.path().join("jobs");
        (Jobs::with_views(self.state.clone(), clusters, registry.clone(), directory), registry)
    }

    fn instance(&self, index: usize) -> InstanceId {
        self.view.nodes[index].instance.clone().unwrap()
    }

    fn name(&self) -> ClusterName {
        self.view.spec.name.clone()
    }

    /// Both nodes answer everything; the first answers a Follow with what `play` makes of the offsets.
    fn nodes<P>(&self, registry: &Registry, play: P) -> Log
    where
        P: Fn(usize, Offsets) -> Vec<ProcessEvent> + Send + Sync + Clone + 'static,
    {
        let log = Log::default();
        for index in 0..2 {
            let session = registry.attach(&self.instance(index), Facts::default()).unwrap();
            let (log, play) = (log.clone(), play.clone());
            tokio::spawn(async move {
                let mut follows = HashMap::<JobId, usize>::new();
                while let Some((id, request)) = session.next().await {
                    log.lock().push((u32::try_from(index).unwrap(), request.clone()));
                    let value = match &request {
                        Request::WriteHostfile { job, .. } => resolve::hostfile_path(job),
                        _ => String::new(),
                    };
                    session.reply(&id, String::new(), value);
                    let events = match &request {
                        Request::FollowProcess { job, stdout_offset, stderr_offset } => {
                            let count = follows.entry(job.clone()).or_default();
                            *count += 1;
                            let offsets = Offsets { stdout: *stdout_offset, stderr: *stderr_offset };
                            play(*count, offsets).into_iter().map(|event| (job.clone(), event)).collect()
                        }
                        Request::SignalProcess { job, signal: 2 } => vec![(job.clone(), exit(0))],
                        _ => Vec::new(),
                    };
                    for (job, event) in events {
                        session.event(&job, event).await;
                    }
                }
            });
        }
        log
    }
}

fn out(offset: u64, text: &'static str) -> ProcessEvent {
    ProcessEvent::Output { stderr: false, offset, data: Bytes::from_static(text.as_bytes()) }
}

fn err(offset: u64, text: &'static str) -> ProcessEvent {
    ProcessEvent::Output { stderr: true, offset, data: Bytes::from_static(text.as_bytes()) }
}

fn exit(code: i32) -> ProcessEvent {
    ProcessEvent::Exit { code, signal: 0, error: String::new() }
}

fn spec() -> RunSpec {
    RunSpec {
        ranks: 4,
        working_directory: "/shared".into(),
        environment: Default::default(),
        program: "./prog".into(),
        arguments: vec![],
        barrier: true,
        mpi_arguments: vec![],
        node_timeout: DEFAULT_NODE_TIMEOUT,
    }
}

/// All that a listener hears: stdout, stderr, and how the job ended.
async fn hear(mut listener: Listener) -> (String, String, JobRecord) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let whole = async {
        loop {
            match listener.next().await.expect("the end was not told").unwrap() {
                JobEvent::Started(_) => {}
                JobEvent::Output { stream: Stream::Stdout, data, .. } => stdout.extend_from_slice(&data),
                JobEvent::Output { stream: Stream::Stderr, data, .. } => stderr.extend_from_slice(&data),
                JobEvent::Ended(record) => return Arc::unwrap_or_clone(record),
            }
        }
    };
    let record = timeout(LIMIT, whole).await.unwrap();
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), record)
}

async fn follow(jobs: &Jobs, record: &JobRecord) -> (String, String, JobRecord) {
    hear(jobs.listen(&record.cluster_name, Some(&record.id), Offsets::default(), true).await.unwrap()).await
}

fn kinds(log: &Log) -> Vec<(u32, &'static str)> {
    let kind = |request: &Request| match request {
        Request::Drain { .. } => "drain",
        Request::RaiseEpoch => "epoch",
        Request::WriteHostfile { .. } => "hostfile",
        Request::StartProcess { .. } => "start",
        Request::FollowProcess { .. } => "follow",
        Request::SignalProcess { .. } => "signal",
        Request::KillJob { .. } => "kill",
        Request::ForgetProcess { .. } => "forget",
        Request::SetPeers(_) | Request::Transfer { .. } => "other",
    };
    log.lock().iter().map(|(node, request)| (*node, kind(request))).collect()
}

/// Returns when the last request of a job was made.
async fn forgotten(log: &Log) {
    let wait = async {
        while !kinds(log).contains(&(0, "forget")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap();
}

#[tokio::test]
async fn a_run_goes_through_barrier_hostfile_start_output_and_barrier_again() {
    let lab = Lab::new();
    let (jobs, registry) = lab.jobs();
    let log = lab.nodes(&registry, |_, _| vec![out(0, "one\n"), err(0, "warn\n"), out(4, "two\n"), exit(0)]);
    let record = jobs.run(&lab.name(), spec()).await.unwrap();
    let (stdout, stderr, ended) = follow(&jobs, &record).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("one\ntwo\n", "warn\n"));
    assert_eq!(ended.state, JobState::Ended { ending: Ending::Exited { code: 0 }, not_in_s3: None });
    assert!(ended.ended_at.is_some());
    forgotten(&log).await;
    let seen = kinds(&log);
    let (mut first, mut last) = (seen[..4].to_vec(), seen[7..11].to_vec());
    first[..2].sort_unstable();
    first[2..].sort_unstable();
    last[..2].sort_unstable();
    last[2..].sort_unstable();
    let barrier = [(0, "drain"), (1, "drain"), (0, "epoch"), (1, "epoch")];
    assert_eq!(first, barrier, "{seen:?}");
    assert_eq!(seen[4..7], [(0, "hostfile"), (0, "start"), (0, "follow")], "{seen:?}");
    assert_eq!(last, barrier, "{seen:?}");
    assert_eq!(seen[11..], [(0, "forget")], "a clean end leaves nothing to kill: {seen:?}");
    let listed = jobs.list(&lab.name()).unwrap();
    assert_eq!(listed.iter().map(|job| (&job.id, &job.state)).collect::<Vec<_>>(), [(&ended.id, &ended.state)]);
}

#[tokio::test]
async fn a_bad_exit_code_is_kept_and_leftovers_are_ended_on_every_node() {
    let lab = Lab::new();
    let (jobs, registry) = lab.jobs();
    let log = lab.nodes(&registry, |_, _| vec![exit(7)]);
    let record = jobs.run(&lab.name(), RunSpec { barrier: false, ..spec() }).await.unwrap();
    let (_, _, ended) = follow(&jobs, &record).await;
    assert_eq!(ended.exit_code(), 7);
    let seen = kinds(&log);
    assert!(seen.contains(&(0, "kill")) && seen.contains(&(1, "kill")), "{seen:?}");
    assert!(!seen.iter().any(|(_, kind)| *kind == "drain"), "no barrier was wanted: {seen:?}");
}

#[tokio::test]
async fn every_listener_hears_everything_whenever_it_comes() {
    let lab = Lab::new();
    let (jobs, registry) = lab.jobs();
    lab.nodes(&registry, |_, _| vec![out(0, "abc"), exit(0)]);
    let record = jobs.run(&lab.name(), spec()).await.unwrap();
    let (a, b) = tokio::join!(follow(&jobs, &record), follow(&jobs, &record));
    assert_eq!((a.0.as_str(), b.0.as_str()), ("abc", "abc"));
    assert_eq!(follow(&jobs, &record).await.0, "abc", "after the end");
    let from = Offsets { stdout: 2, stderr: 0 };
    let late = jobs.listen(&lab.name(), None, from, false).await.unwrap();
    assert_eq!(hear(late).await.0, "c", "the newest job, from an offset");
}

#[tokio::test]
async fn repeated_output_is_stored_once_and_a_gap_is_asked_for_again() {
    let lab = Lab::new();
    let (jobs, registry) = lab.jobs();
    let log = lab.nodes(&registry, |follows, from| match follows {
        1 => vec![out(0, "abc"), out(1, "bcd"), out(9, "lost")],
        _ => {
            assert_eq!(from.stdout, 4);
            vec![out(4, "e"), exit(0)]
        }
    });
    let record = jobs.run(&lab.name(), spec()).await.unwrap();
    assert_eq!(follow(&jobs, &record).await.0, "abcde");
    assert_eq!(kinds(&log).iter().filter(|(_, kind)| *kind == "follow").count(), 2);
}

#[tokio::test]
async fn a_cancelled_job_is_signalled_and_ended_everywhere() {
    let lab = Lab::new();
    let (jobs, registry) = lab.jobs();
    let log = lab.nodes(&registry, |_, _| vec![]);
    let record = jobs.run(&lab.name(), spec()).await.unwrap();
    let running = async {
        while !kinds(&log).contains(&(0, "follow")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, running).await.unwrap();
    let ended = timeout(LIMIT, jobs.cancel(&lab.name(), &record.id)).await.unwrap().unwrap();
    assert_eq!(ended.state, JobState::Ended { ending: Ending::Cancelled, not_in_s3: None });
    let signals: Vec<_> = log
        .lock()
        .iter()
        .filter_map(
            |(_, request)| if let Request::SignalProcess { signal, .. } = request { Some(*signal) } else { None },
        )
        .collect();
    assert_eq!(signals, [2, 9], "it ended at the first signal; the last one is for leftovers");
    assert!(kinds(&log).contains(&(1, "kill")));
    let again = jobs.cancel(&lab.name(), &record.id).await.unwrap();
    assert_eq!(again.state, ended.state, "cancelling what has ended is no error");
}

#[tokio::test]
async fn a_job_whose_node_goes_is_lost_and_names_it() {
    let lab = Lab::new();
    let (jobs, registry) = lab.jobs();
    lab.nodes(&registry, |_, _| vec![out(0, "partial")]);
    let spec = ExecSpec {
        node: 1,
        working_directory: "/shared".into(),
        environment: Default::default(),
        program: "sleep".into(),
        arguments: vec!["1000".into()],
        node_timeout: DEFAULT_NODE_TIMEOUT,
    };
    let record = jobs.exec(&lab.name(), spec).await.unwrap();
    let mut listener = jobs.listen(&lab.name(), Some(&record.id), Offsets::default(), true).await.unwrap();
    while !matches!(timeout(LIMIT, listener.next()).await.unwrap().unwrap().unwrap(), JobEvent::Output { .. }) {}
    registry.retire(&lab.instance(1), "its machine ended");
    let (stdout, _, ended) = follow(&jobs, &record).await;
    assert_eq!(stdout, "partial");
    let told = ended.message();
    assert!(told.contains("node demo-1 is lost") && told.contains("its machine ended"), "{told}");
    assert!(told.contains("ec2mpi why demo demo-1"), "{told}");
    assert_eq!(ended.exit_code(), 75);
}

#[tokio::test]
async fn an_opening_barrier_that_fails_starts_nothing() {
    let lab = Lab::new();
    let (jobs, registry) = lab.jobs();
    let log = lab.nodes(&registry, |_, _| vec![exit(0)]);
    registry.retire(&lab.instance(1), "its machine ended");
    let record = jobs.run(&lab.name(), spec()).await.unwrap();
    let (_, _, ended) = follow(&jobs, &record).await;
    assert!(ended.message().contains("opening barrier failed: demo-1: gone"), "{}", ended.message());
    assert!(!kinds(&log).contains(&(0, "start")), "{:?}", kinds(&log));
    assert_ne!(ended.exit_code(), 0);
}

#[tokio::test]
async fn a_closing_barrier_that_fails_is_told_beside_the_exit_code() {
    let lab = Lab::new();
    let (jobs, registry) = lab.jobs();
    let (lost, instance) = (registry.clone(), lab.instance(1));
    lab.nodes(&registry, move |_, _| {
        lost.retire(&instance, "its machine ended");
        vec![exit(0)]
    });
    let record = jobs.run(&lab.name(), spec()).await.unwrap();
    let (_, _, ended) = follow(&jobs, &record).await;
    assert_eq!(ended.exit_code(), 0);
    assert!(ended.message().contains("may not be in S3: demo-1: gone"), "{}", ended.message());
}

#[test]
fn a_restarted_coordinator_goes_on_where_the_spool_ends() {
    let lab = Lab::new();
    let before = tokio::runtime::Runtime::new().unwrap();
    let record = before.block_on(async {
        let (jobs, registry) = lab.jobs();
        lab.nodes(&registry, |_, _| vec![out(0, "before "), err(0, "e1 ")]);
        let record = jobs.run(&lab.name(), spec()).await.unwrap();
        let mut listener = jobs.listen(&lab.name(), Some(&record.id), Offsets::default(), true).await.unwrap();
        let mut outputs = 0;
        while outputs < 2 {
            let event = timeout(LIMIT, listener.next()).await.unwrap().unwrap().unwrap();
            outputs += u32::from(matches!(event, JobEvent::Output { .. }));
        }
        record
    });
    // As sudden as a kill: no task of it runs any more.
    before.shutdown_background();
    let after = tokio::runtime::Runtime::new().unwrap();
    after.block_on(async {
        let (jobs, registry) = lab.jobs();
        jobs.resume().unwrap();
        let log = lab.nodes(&registry, |_, from| {
            assert_eq!(from, Offsets { stdout: 7, stderr: 3 });
            vec![out(7, "after"), err(3, "e2"), exit(3)]
        });
        let (stdout, stderr, ended) = follow(&jobs, &record).await;
        assert_eq!((stdout.as_str(), stderr.as_str()), ("before after", "e1 e2"));
        assert_eq!(ended.exit_code(), 3);
        assert!(!kinds(&log).contains(&(0, "start")), "it was running: {:?}", kinds(&log));
    });
}

#[test]
fn a_job_that_was_being_prepared_is_prepared_again() {
    let lab = Lab::new();
    let record = resolve::run(&lab.view, JobId::random(), spec(), 1.0).unwrap();
    lab.state.put_job(&record).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (jobs, registry) = lab.jobs();
        jobs.resume().unwrap();
        let log = lab.nodes(&registry, |_, _| vec![out(0, "x"), exit(0)]);
        assert_eq!(follow(&jobs, &record).await.0, "x");
        assert_eq!(kinds(&log).iter().filter(|(_, kind)| *kind == "start").count(), 1);
    });
}

#[tokio::test]
async fn a_run_right_after_a_restart_waits_for_the_nodes_facts() {
    let lab = Lab::new();
    let mut unknown = lab.view.clone();
    unknown.nodes.iter_mut().for_each(|node| node.mpi.clear());
    let clusters = Arc::new(One(Mutex::new(unknown)));
    let (jobs, registry) = lab.jobs_of(clusters.clone());
    let asked = tokio::spawn({
        let (jobs, name) = (jobs.clone(), lab.name());
        async move { jobs.run(&name, spec()).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!asked.is_finished(), "refused, or started, without knowing what the nodes have");
    *clusters.0.lock() = lab.view.clone();
    lab.nodes(&registry, |_, _| vec![exit(0)]);
    let record = timeout(LIMIT, asked).await.unwrap().unwrap().unwrap();
    assert_eq!(follow(&jobs, &record).await.2.exit_code(), 0);
}

#[tokio::test]
async fn a_run_waits_for_a_node_that_mounts_its_volume_again() {
    let lab = Lab::new();
    let mut mounting = lab.view.clone();
    mounting.nodes[0].phase = NodePhase::Joined;
    let clusters = Arc::new(One(Mutex::new(mounting)));
    let (jobs, registry) = lab.jobs_of(clusters.clone());
    lab.nodes(&registry, |_, _| vec![exit(0)]);
    let asked = tokio::spawn({
        let (jobs, name) = (jobs.clone(), lab.name());
        async move { jobs.run(&name, spec()).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!asked.is_finished(), "refused, or started, though the head is on its way back");
    *clusters.0.lock() = lab.view.clone();
    let record = timeout(LIMIT, asked).await.unwrap().unwrap().unwrap();
    assert_eq!(follow(&jobs, &record).await.2.exit_code(), 0);
}

#[tokio::test]
async fn a_node_that_does_not_mount_its_volume_is_not_waited_for_for_ever() {
    let mut lab = Lab::new();
    lab.view.nodes[0].phase = NodePhase::Joined;
    let (jobs, registry) = lab.jobs();
    lab.nodes(&registry, |_, _| vec![]);
    let refused = jobs.run(&lab.name(), spec()).await.unwrap_err();
    assert!(refused.to_string().contains("node demo-0 is joined, not ready"), "{refused}");
}

#[tokio::test]
async fn a_connected_node_without_mpi_is_refused_at_once() {
    let mut lab = Lab::new();
    lab.view.nodes[1].mpi.clear();
    let (jobs, registry) = lab.jobs();
    lab.nodes(&registry, |_, _| vec![]);
    let refused = timeout(LIMIT / 10, jobs.run(&lab.name(), spec())).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("Open MPI is not installed on demo-1"), "{refused}");
}

#[tokio::test]
async fn output_without_a_record_is_swept_after_a_restart() {
    let lab = Lab::new();
    let orphan = lab.directory.path().join("jobs/j-0123456789ab");
    std::fs::create_dir_all(&orphan).unwrap();
    let (jobs, _) = lab.jobs();
    jobs.prune_and_sweep().await;
    assert!(!orphan.exists());
}
