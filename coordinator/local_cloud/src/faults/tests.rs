//! The table as the edges ask it.

use std::time::Duration;

use jiff::SignedDuration;

use super::*;
use crate::fleet::InstanceId;

const ZONE: &str = "local-1a";

struct Lab {
    dir: tempfile::TempDir,
    faults: Faults,
    now: Timestamp,
}

impl Lab {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    fn on(dir: tempfile::TempDir) -> Self {
        let faults = Faults::open(dir.path().join("faults.json"), Settle::default()).unwrap();
        Self { dir, faults, now: Timestamp::UNIX_EPOCH }
    }

    /// A new process on the same directory.
    fn restarted(self) -> Self {
        Self { now: self.now, ..Self::on(self.dir) }
    }

    fn add(&self, kind: Kind, bounds: Bounds) -> FaultId {
        self.faults.add(kind, bounds).unwrap().id
    }

    fn machine(&self, target: Target, mishap: Mishap, after_ms: u32) -> FaultId {
        self.add(Kind::Machine(MachineFault::new(target, mishap, after_ms, self.now)), Bounds::default())
    }

    fn later(&self, ms: i64) -> Timestamp {
        self.now + SignedDuration::from_millis(ms)
    }
}

fn ids(count: usize) -> Vec<InstanceId> {
    (0..count).map(|_| InstanceId::random()).collect()
}

fn times(count: u64) -> Bounds {
    Bounds { count: Some(count), ..Bounds::default() }
}

#[test]
fn faults_outlive_the_process_with_their_counts() {
    let lab = Lab::new();
    let failure = Ec2Failure::Refused { code: "InternalError".to_owned() };
    let first = lab.add(Kind::Ec2(Ec2Fault { action: Some("RunInstances".to_owned()), failure }), times(2));
    let effect = lab.faults.of_request("RunInstances", lab.now);
    assert!(matches!(effect, Some(Effect::Fails(Ec2Failure::Refused { .. }))));
    assert_eq!(lab.faults.of_request("DescribeInstances", lab.now), None);
    let lab = lab.restarted();
    assert_eq!(lab.faults.list()[0].struck, 1);
    assert!(lab.faults.of_request("RunInstances", lab.now).is_some());
    assert_eq!(lab.faults.of_request("RunInstances", lab.now), None, "twice and no more");
    assert_eq!(lab.faults.clear(&[first]).unwrap().len(), 1);
    let lab = lab.restarted();
    let second = lab.add(Kind::Settle(Settle::default()), Bounds::default());
    assert_ne!(first, second, "names are not used again");
}

#[test]
fn requests_beyond_the_bucket_are_refused() {
    let lab = Lab::new();
    let rate = Some(Rate { burst: 2.0, refill: 1.0 });
    lab.add(Kind::Throttle(Throttle { action: Some("RunInstances".to_owned()), rate }), Bounds::default());
    let effects: Vec<_> = (0..3).map(|_| lab.faults.of_request("RunInstances", lab.now)).collect();
    assert_eq!(effects, [None, None, Some(Effect::Throttled)]);
    assert_eq!(lab.faults.of_request("DescribeInstances", lab.now), None);
    assert_eq!(lab.faults.of_request("RunInstances", lab.later(1000)), None);
    assert_eq!(lab.faults.list()[0].struck, 1);
}

#[test]
fn capacity_is_of_a_zone_and_a_type_and_is_used_up() {
    let lab = Lab::new();
    let small = Some("c7i.large".to_owned());
    lab.add(Kind::Capacity(Capacity { left: 3, zone: None, instance_type: small }), Bounds::default());
    let left = |kind: &str| lab.faults.capacity(ZONE, kind, 8, lab.now);
    assert_eq!((left("c7i.large"), left("local.machine")), (3, 8));
    lab.faults.launched(ZONE, "c7i.large", &ids(2));
    lab.faults.launched(ZONE, "local.machine", &ids(5));
    assert_eq!((left("c7i.large"), left("local.machine")), (1, 8));
    let elsewhere = Capacity { left: 0, zone: Some("local-1b".to_owned()), instance_type: None };
    lab.add(Kind::Capacity(elsewhere), times(1));
    assert_eq!(left("local.machine"), 8);
    assert_eq!(lab.faults.capacity("local-1b", "local.machine", 8, lab.now), 0);
    lab.faults.note_shortage("local-1b", "local.machine");
    assert_eq!(lab.faults.capacity("local-1b", "local.machine", 8, lab.now), 8, "a shortage that happens once is over");
}

#[test]
fn the_nth_machine_launched_gets_the_fault() {
    let lab = Lab::new();
    lab.machine(Target::Launch { nth: 3 }, Mishap::NeverBoots { pending: false }, 0);
    lab.machine(Target::Launch { nth: 4 }, Mishap::NeverJoins, 0);
    let (first, second) = (ids(2), ids(3));
    lab.faults.launched(ZONE, "t", &first);
    let lab = lab.restarted();
    lab.faults.launched(ZONE, "t", &second);
    let boots = |ids: &[InstanceId]| ids.iter().map(|id| lab.faults.boot(id)).collect::<Vec<_>>();
    assert_eq!(boots(&first), [Boot::Whole, Boot::Whole]);
    assert_eq!(boots(&second), [Boot::Never { pending: false }, Boot::Deaf, Boot::Whole]);
    assert_eq!(boots(&second)[0], Boot::Never { pending: false }, "asked again after a restart it is the same");
}

#[test]
fn the_time_of_a_machine_runs_from_its_boot() {
    let lab = Lab::new();
    lab.machine(Target::Launch { nth: 1 }, Mishap::Dies, 500);
    let id = InstanceId::random();
    lab.faults.launched(ZONE, "t", std::slice::from_ref(&id));
    assert_eq!((lab.faults.due(&id, lab.later(1000)), lab.faults.next_moment(&id)), (None, None));
    lab.faults.booted(&id, lab.later(1000));
    assert_eq!((lab.faults.due(&id, lab.later(1400)), lab.faults.next_moment(&id)), (None, Some(lab.later(1500))));
    assert_eq!(lab.faults.due(&id, lab.later(1500)).map(|due| due.deed), Some(Deed::Die));
    assert_eq!(lab.faults.due(&id, lab.later(9999)), None, "once");
}

#[test]
fn a_cut_heals_by_time_or_when_cleared() {
    let lab = Lab::new();
    let id = InstanceId::random();
    let target = || Target::Instance { id: id.clone() };
    lab.machine(target(), Mishap::Cut { from: Cut::Nodes, for_ms: Some(100) }, 0);
    assert_eq!(lab.faults.cut(&id), None);
    lab.faults.due(&id, lab.now);
    assert_eq!(lab.faults.cut(&id), Some(Cut::Nodes));
    let open_ended = lab.machine(target(), Mishap::Cut { from: Cut::All, for_ms: None }, 0);
    lab.faults.due(&id, lab.now);
    assert_eq!(lab.faults.cut(&id), Some(Cut::All));
    let lab = lab.restarted();
    lab.faults.due(&id, lab.later(100));
    assert_eq!(lab.faults.cut(&id), Some(Cut::All));
    lab.faults.clear(&[open_ended]).unwrap();
    assert_eq!(lab.faults.cut(&id), None);
}

#[test]
fn a_spot_machine_has_notice_before_its_end() {
    let lab = Lab::new();
    let id = InstanceId::random();
    lab.machine(Target::Instance { id: id.clone() }, Mishap::Spot { notice_ms: 2000 }, 100);
    assert_eq!((lab.faults.due(&id, lab.now), lab.faults.spot_notice(&id)), (None, None));
    assert_eq!(lab.faults.due(&id, lab.later(100)), None);
    assert_eq!(lab.faults.spot_notice(&id), Some(lab.later(2100)));
    assert_eq!(lab.faults.due(&id, lab.later(2100)).map(|due| due.deed), Some(Deed::Reclaim));
    assert_eq!(lab.faults.spot_notice(&id), None);
}

#[test]
fn s3_waits_add_up_and_the_first_failure_counts() {
    let lab = Lab::new();
    let add = |method: Option<&str>, key: Option<&str>, failure| {
        let fault = S3Fault { method: method.map(str::to_owned), key: key.map(str::to_owned), failure };
        lab.add(Kind::S3(fault), Bounds::default())
    };
    add(None, None, S3Failure::Slow { ms: 100 });
    add(Some("PUT"), None, S3Failure::Slow { ms: 20 });
    add(Some("PUT"), Some("demo/a b"), S3Failure::Refused { code: "SlowDown".to_owned() });
    add(Some("PUT"), None, S3Failure::Unanswered);
    let effect = |method, path| {
        let S3Effect { wait, failure } = lab.faults.of_s3(method, path, lab.now);
        (wait, failure)
    };
    assert_eq!(effect("GET", "/ec2mpi/demo/a%20b"), (Duration::from_millis(100), None));
    let slow = Some(S3Failure::Refused { code: "SlowDown".to_owned() });
    assert_eq!(effect("PUT", "/ec2mpi/demo/a%20bc"), (Duration::from_millis(120), slow));
    assert_eq!(effect("PUT", "/ec2mpi/other"), (Duration::from_millis(120), Some(S3Failure::Unanswered)));
    assert!(!lab.faults.is_s3_away(lab.now));
    add(None, None, S3Failure::Outage);
    assert!(lab.faults.is_s3_away(lab.now));
}
