//! RunInstances and what ends instances.

use super::*;
use crate::faults::{Bounds, Capacity, Kind, Settle};
use crate::fleet::State;
use crate::layout::Layout;

#[tokio::test]
async fn bad_requests_get_the_codes_of_ec2() {
    let lab = Lab::new();
    let other_type = if cfg!(target_arch = "aarch64") { "c7i.large" } else { "c7g.xlarge" };
    let long = "IyEvYmlu".repeat(16 * 1024 / 6 + 1);
    let token = "t".repeat(65);
    let cases: &[(&str, &str, &str)] = &[
        ("ImageId", "", "MissingParameter"),
        ("ImageId", "ami-12345678", "InvalidAMIID.NotFound"),
        ("ImageId", "image", "InvalidAMIID.Malformed"),
        ("InstanceType", "c99.huge", "InvalidParameterValue"),
        ("InstanceType", other_type, "InvalidParameterValue"),
        ("MinCount", "2", "InvalidParameterValue"),
        ("MinCount", "0", "InvalidParameterValue"),
        ("MaxCount", "-1", "InvalidParameterValue"),
        ("MaxCount", "", "MissingParameter"),
        ("SubnetId", "subnet-12345678", "InvalidSubnetID.NotFound"),
        ("SecurityGroupId.1", "sg-12345678", "InvalidGroup.NotFound"),
        ("KeyName", "mine", "InvalidKeyPair.NotFound"),
        ("UserData", "???", "InvalidUserData.Malformed"),
        ("UserData", &long, "InvalidParameterValue"),
        ("ClientToken", &token, "InvalidParameterValue"),
        ("InstanceInitiatedShutdownBehavior", "hibernate", "InvalidParameterValue"),
        ("MetadataOptions.HttpTokens", "maybe", "InvalidParameterValue"),
        ("MetadataOptions.HttpPutResponseHopLimit", "65", "InvalidParameterValue"),
        ("IamInstanceProfile.Name", "a b", "InvalidParameterValue"),
        ("TagSpecification.1.ResourceType", "moon", "InvalidParameterValue"),
        ("Placement.AvailabilityZone", "eu-1a", "InvalidParameterValue"),
        ("Placement.GroupName", "cluster", "UnsupportedOperation"),
        ("DryRun", "true", "DryRunOperation"),
    ];
    for (name, value, code) in cases {
        assert_eq!(lab.refused("RunInstances", &with(ONE, &[(name, value)])).await, *code, "{name}={value:.40}");
    }
    assert_eq!(
        lab.refused("RunInstances", &with(ONE, &[("MinCount", "509"), ("MaxCount", "10000")])).await,
        "InsufficientFreeAddressesInSubnet"
    );
    assert!(lab.api.fleet.all().is_empty());
    assert_eq!(lab.noted.count("start"), 0);
}

#[tokio::test]
async fn a_launch_is_what_was_asked_for() {
    let lab = Lab::new();
    let params = [
        ("MinCount", "2"),
        ("MaxCount", "3"),
        ("InstanceInitiatedShutdownBehavior", "terminate"),
        ("IamInstanceProfile.Arn", "arn:aws:iam::000000000000:instance-profile/ec2mpi-node"),
        ("MetadataOptions.HttpTokens", "required"),
        ("MetadataOptions.HttpPutResponseHopLimit", "1"),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "ec2mpi:cluster"),
        ("TagSpecification.1.Tag.1.Value", "de & mo"),
    ];
    let body = lab.ok("RunInstances", &with(ONE, &params)).await;
    assert_eq!(values(&body, "amiLaunchIndex"), ["0", "1", "2"]);
    assert_eq!(values(&body, "privateIpAddress"), ["10.70.4.4", "10.70.4.5", "10.70.4.6"]);
    assert_eq!(values(&body, "httpTokens"), ["required"; 3]);
    assert!(body.contains("<key>ec2mpi:cluster</key><value>de &amp; mo</value>"), "{body}");
    assert!(body.contains("instance-profile/ec2mpi-node</arn>"), "{body}");
    assert!(body.contains("<instanceState><code>0</code><name>pending</name></instanceState>"), "{body}");
    assert_eq!(lab.noted.count("start"), 3);
}

#[tokio::test]
async fn a_client_token_launches_once() {
    let lab = Lab::new();
    let token = [("ClientToken", "launch-1"), ("MaxCount", "2")];
    let first = lab.run(&token).await;
    assert_eq!(lab.run(&token).await, first);
    let other = with(ONE, &[("ClientToken", "launch-1"), ("MaxCount", "1")]);
    assert_eq!(lab.refused("RunInstances", &other).await, "IdempotentParameterMismatch");
    let lab = lab.restarted();
    assert_eq!(lab.run(&token).await, first);
    assert_eq!(lab.noted.count("start"), 0);
    assert_eq!(lab.run(&[]).await.len(), 1);
    assert_eq!(lab.api.fleet.all().len(), 3);
}

#[tokio::test]
async fn tokens_used_at_once_launch_once() {
    let lab = Arc::new(Lab::new());
    let calls = (0..16).map(|_| {
        let lab = lab.clone();
        tokio::spawn(async move { lab.run(&[("ClientToken", "same")]).await })
    });
    let mut ids: Vec<Vec<String>> = futures::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(lab.noted.count("start"), 1);
}

#[tokio::test]
async fn a_launch_cut_short_is_finished() {
    let lab = Lab::new();
    let ids = lab.run(&[("MaxCount", "3"), ("ClientToken", "cut")]).await;
    let layout = Layout::open(lab.dir.path()).unwrap();
    for id in &ids[1..] {
        std::fs::remove_dir_all(layout.machine(&id.parse().unwrap()).root()).unwrap();
    }
    let lab = lab.restarted();
    let all = lab.api.fleet.all();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|instance| instance.state == State::Pending));
    assert_eq!(lab.run(&[("MaxCount", "3"), ("ClientToken", "cut")]).await, ids);
}

#[tokio::test]
async fn terminating_is_all_or_nothing() {
    let lab = Lab::new();
    let ids = lab.run(&[("MaxCount", "2")]).await;
    let unknown = [("InstanceId.1", ids[0].as_str()), ("InstanceId.2", "i-12345678")];
    assert_eq!(lab.refused("TerminateInstances", &unknown).await, "InvalidInstanceID.NotFound");
    assert_eq!(lab.refused("TerminateInstances", &[("InstanceId.1", "12")]).await, "InvalidInstanceID.Malformed");
    assert_eq!(lab.refused("TerminateInstances", &[]).await, "MissingParameter");
    assert_eq!(lab.noted.count("terminate"), 0);
    let one = [("InstanceId.1", ids[0].as_str())];
    let body = lab.ok("TerminateInstances", &one).await;
    assert_eq!(values(&body, "name"), ["shutting-down", "pending"]);
    assert_eq!(lab.refused("RebootInstances", &one).await, "IncorrectState");
    lab.ok("RebootInstances", &[("InstanceId.1", ids[1].as_str())]).await;
    assert_eq!((lab.noted.count("terminate"), lab.noted.count("reboot")), (1, 1));
}

#[tokio::test]
async fn ended_instances_are_listed_for_an_hour_and_their_addresses_come_last() {
    let lab = Lab::new();
    let ids = lab.run(&[("MaxCount", "2"), ("ClientToken", "old")]).await;
    let now = Timestamp::now();
    let reason = crate::fleet::Reason::by_user();
    let ended = State::Terminated { at: now, reason };
    lab.api.fleet.update(&ids[0].parse().unwrap(), |instance| instance.state = ended).unwrap();
    let body = lab.ok("RunInstances", ONE).await;
    assert_eq!(values(&body, "privateIpAddress"), ["10.70.4.6"]);
    lab.api.fleet.forget_old(now + SignedDuration::from_mins(59)).unwrap();
    assert_eq!(lab.api.fleet.all().len(), 3);
    lab.api.fleet.forget_old(now + SignedDuration::from_mins(61)).unwrap();
    let lab = lab.restarted();
    assert_eq!(lab.api.fleet.all().len(), 2);
    assert_eq!(lab.run(&[("MaxCount", "2"), ("ClientToken", "old")]).await, ids[1..]);
}

#[tokio::test]
async fn each_zone_has_its_subnet_and_its_capacity() {
    let lab = Lab::new();
    let launch = async |name: &str, value: &str| {
        let body = lab.ok("RunInstances", &with(ONE, &[(name, value)])).await;
        (values(&body, "availabilityZone").remove(0), values(&body, "privateIpAddress").remove(0))
    };
    assert_eq!(launch("MaxCount", "1").await, ("local-1a".into(), "10.70.4.4".into()));
    assert_eq!(launch("SubnetId", "subnet-00000000000000002").await, ("local-1b".into(), "10.70.6.4".into()));
    assert_eq!(launch("Placement.AvailabilityZone", "local-1b").await, ("local-1b".into(), "10.70.6.5".into()));
    let both = [("Placement.AvailabilityZone", "local-1a"), ("SubnetId", "subnet-00000000000000002")];
    assert_eq!(lab.refused("RunInstances", &with(ONE, &both)).await, "InvalidParameterValue");
    let none_left = Capacity { left: 1, zone: Some("local-1a".to_owned()), instance_type: None };
    lab.api.fleet.faults().add(Kind::Capacity(none_left), Bounds::default()).unwrap();
    let two = [("MinCount", "2"), ("MaxCount", "2")];
    assert_eq!(lab.refused("RunInstances", &with(ONE, &two)).await, "InsufficientInstanceCapacity");
    assert_eq!(lab.run(&[("MaxCount", "3")]).await.len(), 1, "as many as there are");
    let elsewhere = with(ONE, &[("MinCount", "2"), ("MaxCount", "2"), ("Placement.AvailabilityZone", "local-1b")]);
    assert_eq!(values(&lab.ok("RunInstances", &elsewhere).await, "instanceId").len(), 2);
    let filter = [("Filter.1.Name", "availability-zone"), ("Filter.1.Value.1", "local-1b")];
    assert_eq!(values(&lab.ok("DescribeInstances", &filter).await, "instanceId").len(), 4);
    assert_eq!(values(&lab.ok("DescribeSubnets", &filter).await, "availableIpAddressCount"), ["503"]);
}

#[tokio::test]
async fn a_token_of_instances_that_have_ended_launches_nothing() {
    let lab = Lab::new();
    let token = [("ClientToken", "once")];
    let id = lab.run(&token).await.remove(0).parse().unwrap();
    let ended = State::Terminated { at: Timestamp::now(), reason: crate::fleet::Reason::by_user() };
    lab.api.fleet.update(&id, |instance| instance.state = ended).unwrap();
    assert_eq!(lab.refused("RunInstances", &with(ONE, &token)).await, "IdempotentInstanceTerminated");
    assert_eq!(lab.api.fleet.all().len(), 1);
}

#[tokio::test]
async fn nothing_is_done_on_a_dry_run_or_with_words_not_known() {
    let lab = Lab::new();
    let id = lab.run(&[]).await.remove(0);
    for action in ["TerminateInstances", "RebootInstances", "DescribeInstances"] {
        let dry = [("InstanceId.1", id.as_str()), ("DryRun", "true")];
        assert_eq!(lab.refused(action, &dry).await, "DryRunOperation", "{action}");
        let unknown = [("InstanceId.1", id.as_str()), ("Colour", "red")];
        assert_eq!(lab.refused(action, &unknown).await, "UnsupportedOperation", "{action}");
    }
    assert_eq!((lab.noted.count("terminate"), lab.noted.count("reboot")), (0, 0));
}

#[tokio::test]
async fn new_instances_are_not_listed_at_once() {
    let lab = Lab::new();
    let slow = Settle { hidden_ms: 60_000, pending_ms: 0 };
    lab.api.fleet.faults().add(Kind::Settle(slow), Bounds { count: Some(1), ..Bounds::default() }).unwrap();
    let hidden = lab.run(&[("ClientToken", "slow")]).await;
    let one = [("InstanceId.1", hidden[0].as_str())];
    for action in ["DescribeInstances", "TerminateInstances", "RebootInstances"] {
        assert_eq!(lab.refused(action, &one).await, "InvalidInstanceID.NotFound", "{action}");
    }
    assert!(values(&lab.ok("DescribeInstances", &[]).await, "instanceId").is_empty());
    assert_eq!(lab.run(&[("ClientToken", "slow")]).await, hidden, "the launch knows of them");
    let seen = lab.run(&[]).await;
    assert_eq!(values(&lab.ok("DescribeInstances", &[]).await, "instanceId"), seen);
}
