//! Who is not let in, and what whoever asks is told of it.

use super::*;
use crate::identity::authority::NodeSubject;
use crate::registry::LastWord;

/// A machine of a second cluster, and its launch.
async fn other(world: &World) -> (String, InstanceId) {
    let view = world.clusters.create(spec("other", 1, 0)).await.unwrap();
    let mut views = world.clusters.watch(&view.spec.name).unwrap();
    let view = views.wait_for(|view| view.nodes[0].instance.is_some()).await.unwrap().clone();
    let launch = world.state.launches(&view.id).unwrap().remove(0).id.to_string();
    (launch, view.nodes[0].instance.clone().unwrap())
}

#[tokio::test]
async fn documents_of_another_cluster_or_region_are_foreign() {
    let world = World::new().await;
    let (_, launch, machines) = world.launched(1).await;
    let (other_launch, other_machine) = other(&world).await;
    for (launch, machine) in [(&launch, &other_machine), (&other_launch, &machines[0])] {
        let refused = world.join(world.request(launch, machine, &key())).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("is no machine of this launch"), "{refused}");
    }
    let elsewhere = Claims { region: "us-east-1".into(), ..Claims::of(&machines[0]) };
    let refused = world.join(request(&world.signer, &launch, &elsewhere, &key())).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("us-east-1") && refused.message().contains("local-1"), "{refused}");
    world.join(world.request(&launch, &machines[0], &key())).await.unwrap();
    world.join(world.request(&other_launch, &other_machine, &key())).await.unwrap();
}

#[tokio::test]
async fn documents_do_not_age_while_the_coordinator_is_away() {
    // It began an hour after the cluster was written down.
    let world = World::started(now() + 3600.0).await;
    let hasty = ClusterSpec { timeout: Duration::from_secs(60), ..spec("demo", 1, 0) };
    let view = world.clusters.create(hasty).await.unwrap();
    let mut views = world.clusters.watch(&view.spec.name).unwrap();
    let view = views.wait_for(|view| view.nodes[0].instance.is_some()).await.unwrap().clone();
    let launch = world.state.launches(&view.id).unwrap().remove(0).id.to_string();
    let instance = view.nodes[0].instance.clone().unwrap();
    let aged = |minutes: i64| {
        let at = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
        Claims { pending_time: at.to_string(), ..Claims::of(&instance) }
    };
    let old = world.join(request(&world.signer, &launch, &aged(70), &key())).await.unwrap_err();
    assert_eq!(old.code(), Code::PermissionDenied, "{old}");
    assert!(old.message().contains("clock"), "{old}");
    world.join(request(&world.signer, &launch, &aged(50), &key())).await.unwrap();
}

#[tokio::test]
async fn an_agent_of_another_protocol_hears_both_versions_and_its_node_says_so() {
    let world = World::new().await;
    world.provider.addresses_from(Ipv4Addr::LOCALHOST);
    let (_, launch, machines) = world.launched(1).await;
    let newer = JoinRequest { protocol_version: 99, ..world.request(&launch, &machines[0], &key()) };
    let refused = world.join(newer).await.unwrap_err();
    for expected in ["protocol 99", &format!("this coordinator {PROTOCOL_VERSION}"), "create the cluster anew"] {
        assert!(refused.message().contains(expected), "no {expected:?}: {refused}");
    }
    let report = world.clusters.why(&"demo".parse().unwrap(), "demo-0").await.unwrap();
    let told = |words: &[LastWord], what: &str| words.iter().any(|word| word.text.contains(what));
    assert!(told(&report.words, "its join was refused: the agent speaks protocol 99"), "{:?}", report.words);

    let member = world.member(&launch, &machines[0]).await;
    let mut client = world.client(Some(&member)).await;
    let hello = message(agent_message::Message::Hello(Hello { protocol_version: 99, ..Hello::default() }));
    let refused = client.session(tokio_stream::once(hello)).await.unwrap_err();
    assert!(refused.message().contains("protocol 99"), "{refused}");
    let report = world.clusters.why(&"demo".parse().unwrap(), "0").await.unwrap();
    assert!(told(&report.words, "its session was refused: the agent speaks protocol 99"), "{:?}", report.words);
}

#[tokio::test]
async fn a_certificate_of_another_authority_opens_nothing() {
    let world = World::new().await;
    let (cluster, launch, machines) = world.launched(1).await;
    let member = world.member(&launch, &machines[0]).await;
    let foreign = Authority::generate(jiff::Timestamp::now()).unwrap();
    let subject = NodeSubject { cluster, instance: machines[0].clone() };
    let validity = Validity::starting(jiff::Timestamp::now(), Duration::from_secs(3600));
    let forged = foreign.issue_node(&csr(&member.key), &subject, validity).unwrap().certificate_pem;
    let forged = Member { certificate_pem: forged, key: member.key, instance: member.instance };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&world.ca_pem)).domain_name(NAME);
    tls = tls.identity(Identity::from_pem(&forged.certificate_pem, forged.key.serialize_pem()));
    let endpoint = Endpoint::from_shared(format!("https://{}", world.address)).unwrap().tls_config(tls).unwrap();
    // With TLS 1.3 a client hears of its refusal only when it reads.
    if let Ok(channel) = endpoint.connect().await {
        let refused = AgentServiceClient::new(channel).renew(RenewRequest { csr_pem: csr(&forged.key) }).await;
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused.code(), Code::Unknown | Code::Unavailable),
            "it came as far as the service: {refused}"
        );
    }
    let genuine = Member { certificate_pem: member.certificate_pem, ..forged };
    world.client(Some(&genuine)).await.renew(RenewRequest { csr_pem: csr(&genuine.key) }).await.unwrap();
}

#[tokio::test]
async fn a_node_does_not_talk_to_a_coordinator_of_another_authority() {
    let world = World::new().await;
    let foreign = Authority::generate(jiff::Timestamp::now()).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(foreign.certificate_pem())).domain_name(NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", world.address)).unwrap().tls_config(tls).unwrap();
    let refused = endpoint.connect().await.unwrap_err();
    assert!(format!("{refused:?}").contains("InvalidCertificate"), "{refused:?}");
}
