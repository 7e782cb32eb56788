//! Describe actions, tags and filters.

use super::*;

#[tokio::test]
async fn filters_select() {
    let lab = Lab::new();
    let unknown = [("Filter.1.Name", "colour"), ("Filter.1.Value.1", "red")];
    for action in ["DescribeInstances", "DescribeTags", "DescribeInstanceTypes", "DescribeSubnets"] {
        assert_eq!(lab.refused(action, &unknown).await, "InvalidParameterValue", "{action}, with nothing to list");
    }
    let tagged = [
        ("ClientToken", "token-1"),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "ec2mpi:cluster-id"),
        ("TagSpecification.1.Tag.1.Value", "c-1"),
    ];
    let one = lab.run(&tagged).await;
    let two = lab.run(&[]).await;
    let select = async |name: &str, value: &str| {
        let filter = [("Filter.1.Name", name), ("Filter.1.Value.1", "nothing"), ("Filter.1.Value.2", value)];
        values(&lab.ok("DescribeInstances", &filter).await, "instanceId")
    };
    assert_eq!(select("tag:ec2mpi:cluster-id", "c-1").await, one);
    assert_eq!(select("tag:ec2mpi:cluster-id", "c-*").await, one);
    assert_eq!(select("tag-key", "ec2mpi:*").await, one);
    assert_eq!(select("client-token", "token-1").await, one);
    assert_eq!(select("instance-id", &two[0]).await, two);
    assert_eq!(select("private-ip-address", "10.70.4.5").await, two);
    assert_eq!(select("instance-state-name", "pending").await.len(), 2);
    assert_eq!(select("instance-state-name", "running").await.len(), 0);
    let body = lab.ok("DescribeInstances", &[("InstanceId.1", two[0].as_str())]).await;
    assert_eq!(values(&body, "instanceId"), two);
    assert_eq!(lab.refused("DescribeInstances", &[("InstanceId.1", "i-12345678")]).await, "InvalidInstanceID.NotFound");
}

#[tokio::test]
async fn pages_are_whole_reservations_and_miss_none() {
    let lab = Lab::new();
    for _ in 0..12 {
        lab.run(&[("MaxCount", "2")]).await;
    }
    let mut seen = Vec::new();
    let mut token = None;
    let mut pages = 0;
    loop {
        let mut params = vec![("MaxResults", "5")];
        params.extend(token.as_deref().map(|token| ("NextToken", token)));
        let body = lab.ok("DescribeInstances", &params).await;
        seen.extend(values(&body, "instanceId"));
        pages += 1;
        token = values(&body, "nextToken").pop();
        if token.is_none() {
            break;
        }
        lab.run(&[]).await;
    }
    assert!(pages >= 3, "{pages}");
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), count), (lab.api.fleet.all().len(), count));
    assert_eq!(lab.refused("DescribeInstances", &[("MaxResults", "4")]).await, "InvalidParameterValue");
    assert_eq!(lab.refused("DescribeInstances", &[("NextToken", "x")]).await, "InvalidParameterValue");
    let both = [("MaxResults", "5"), ("InstanceId.1", seen[0].as_str())];
    assert_eq!(lab.refused("DescribeInstances", &both).await, "InvalidParameterCombination");
}

#[tokio::test]
async fn tags_are_kept_changed_and_removed() {
    let lab = Lab::new();
    let id = lab.run(&[]).await.remove(0);
    let tags = [
        ("ResourceId.1", id.as_str()),
        ("Tag.1.Key", "a"),
        ("Tag.1.Value", "1"),
        ("Tag.2.Key", "b"),
        ("Tag.2.Value", ""),
        ("Tag.3.Key", "c"),
        ("Tag.3.Value", "3"),
    ];
    lab.ok("CreateTags", &tags).await;
    lab.ok("CreateTags", &[("ResourceId.1", id.as_str()), ("Tag.1.Key", "a"), ("Tag.1.Value", "2")]).await;
    let delete = [("ResourceId.1", id.as_str()), ("Tag.1.Key", "c"), ("Tag.1.Value", "other"), ("Tag.2.Key", "b")];
    lab.ok("DeleteTags", &delete).await;
    let lab = lab.restarted();
    let filter = [("Filter.1.Name", "resource-id"), ("Filter.1.Value.1", id.as_str())];
    let body = lab.ok("DescribeTags", &filter).await;
    assert_eq!(
        (values(&body, "key"), values(&body, "value")),
        (vec!["a".into(), "c".into()], vec!["2".into(), "3".into()])
    );
    let reserved = [("ResourceId.1", id.as_str()), ("Tag.1.Key", "aws:x"), ("Tag.1.Value", "1")];
    assert_eq!(lab.refused("CreateTags", &reserved).await, "InvalidParameterValue");
    assert_eq!(lab.refused("CreateTags", &[("ResourceId.1", "vol-1"), ("Tag.1.Key", "a")]).await, "InvalidID");
}

#[tokio::test]
async fn types_have_cores_and_unknown_ones_are_named() {
    let lab = Lab::new();
    let body = lab.ok("DescribeInstanceTypes", &[("InstanceType.1", "local.machine")]).await;
    assert_eq!(values(&body, "defaultCores"), ["2"]);
    assert_eq!(values(&body, "defaultThreadsPerCore"), ["1"]);
    let body = lab
        .ok(
            "DescribeInstanceTypes",
            &[("Filter.1.Name", "processor-info.supported-architecture"), ("Filter.1.Value.1", "arm64")],
        )
        .await;
    assert!(values(&body, "instanceType").contains(&"c7g.xlarge".to_owned()));
    let (_, body) = lab.call("DescribeInstanceTypes", &[("InstanceType.1", "c99.huge")]).await;
    assert_eq!(values(&body, "Code"), ["InvalidInstanceType"]);
    assert!(body.contains("[c99.huge]"), "{body}");
}

#[tokio::test]
async fn console_attributes_and_places_are_described() {
    let lab = Lab::new();
    let id = lab.run(&[("UserData", "IyEvYmluL3NoCg==")]).await.remove(0);
    let layout = Layout::open(lab.dir.path()).unwrap();
    std::fs::write(layout.machine(&id.parse().unwrap()).console(), "x".repeat(70_000) + "hello").unwrap();
    let body = lab.ok("GetConsoleOutput", &[("InstanceId", id.as_str())]).await;
    let output =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, values(&body, "output").remove(0)).unwrap();
    assert_eq!((output.len(), output.ends_with(b"xhello")), (65_536, true));
    let attribute = [("InstanceId", id.as_str()), ("Attribute", "userData")];
    assert_eq!(values(&lab.ok("DescribeInstanceAttribute", &attribute).await, "value"), ["IyEvYmluL3NoCg=="]);
    assert_eq!(values(&lab.ok("DescribeRegions", &[]).await, "regionName"), ["local-1"]);
    assert_eq!(values(&lab.ok("DescribeAvailabilityZones", &[]).await, "zoneName"), ["local-1a", "local-1b"]);
    let body = lab.ok("DescribeSubnets", &[("SubnetId.1", "subnet-00000000000000001")]).await;
    assert_eq!(
        (values(&body, "cidrBlock").remove(0), values(&body, "availableIpAddressCount").remove(0)),
        ("10.70.4.0/23".into(), "506".into())
    );
    assert_eq!(lab.refused("DescribeSubnets", &[("SubnetId.1", "subnet-1")]).await, "InvalidSubnetID.NotFound");
    assert_eq!(values(&lab.ok("DescribeImages", &[]).await, "imageId").len(), 1);
    assert_eq!(
        values(
            &lab.ok("DescribeSecurityGroups", &[("Filter.1.Name", "group-name"), ("Filter.1.Value.1", "x")]).await,
            "groupId"
        )
        .len(),
        0
    );
}
