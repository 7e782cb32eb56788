//! Against a small HTTP server that answers as EC2 does. `coordinator/tests/provider.rs` asks the local cloud and moto.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::provider::InstanceState;

type Answer = (u16, String);
type Form = Vec<(String, String)>;

/// Answers every POST with what `respond` makes of its form fields, and keeps those.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Form>>>,
}

impl Server {
    async fn start(respond: impl Fn(&[(String, String)]) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, respond) = (seen.clone(), Arc::new(respond));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, respond) = (kept.clone(), respond.clone());
                tokio::spawn(async move {
                    let fields = read_form(stream, |fields| respond(fields)).await;
                    kept.lock().push(fields);
                });
            }
        });
        Self { address, seen }
    }

    async fn provider(&self) -> Ec2Provider {
        Ec2Provider::connect(&Ec2Settings {
            region: "local-1".to_owned(),
            endpoint: Some(format!("http://{}", self.address)),
            credentials: Some(("AKIATEST".to_owned(), "secret".to_owned())),
        })
        .await
    }

    /// The values of a form field over all calls.
    fn values(&self, name: &str) -> Vec<String> {
        let seen = self.seen.lock();
        seen.iter().flatten().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }
}

async fn read_form(mut stream: TcpStream, respond: impl Fn(&[(String, String)]) -> Answer) -> Form {
    let mut request = Vec::new();
    let body = loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the request ended early");
        request.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_lowercase().split_once("content-length: ").unwrap().1.to_owned();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        if body.len() >= length {
            break body.to_owned();
        }
    };
    let fields = parse_form(&body);
    let (status, text) = respond(&fields);
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: text/xml\r\n");
    let _ = stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()).as_bytes()).await;
    fields
}

fn parse_form(body: &str) -> Form {
    let url = format!("http://x/?{body}");
    let query: axum::extract::Query<Form> = axum::extract::Query::try_from_uri(&url.parse().unwrap()).unwrap();
    query.0
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

fn failure(status: u16, code: &str) -> Answer {
    let xml = format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>so it is</Message></Error></Errors>\
         <RequestID>r</RequestID></Response>"
    );
    (status, xml)
}

fn item(id: &str, index: u32, state: &str) -> String {
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><code>0</code><name>{state}</name></instanceState>\
         <amiLaunchIndex>{index}</amiLaunchIndex><privateIpAddress>10.0.0.{index}</privateIpAddress>\
         <reason>User initiated</reason><tagSet><item><key>ec2mpi:launch-id</key>\
         <value>l-0123456789abcdef0123456789abcdef</value></item></tagSet></item>"
    )
}

fn request() -> LaunchRequest {
    LaunchRequest {
        launch: "l-0123456789abcdef0123456789abcdef".parse().unwrap(),
        min: 1,
        max: 2,
        image: "ami-00000000000000001".to_owned(),
        instance_type: "c7i.large".to_owned(),
        subnet: Some("subnet-1".to_owned()),
        security_groups: vec!["sg-1".to_owned(), "sg-2".to_owned()],
        instance_profile: Some("node".to_owned()),
        user_data: "#!/bin/sh\n".to_owned(),
        tags: [("Name".to_owned(), "demo".to_owned())].into(),
    }
}

fn ids(count: u32) -> Vec<InstanceId> {
    (0..count).map(|n| format!("i-{n:017x}").parse().unwrap()).collect()
}

#[tokio::test]
async fn a_launch_says_everything_that_matters() {
    let server = Server::start(|_| {
        let instances = item("i-0000000000000000a", 0, "pending") + &item("i-0000000000000000b", 1, "running");
        (200, format!("<RunInstancesResponse><instancesSet>{instances}</instancesSet></RunInstancesResponse>"))
    })
    .await;
    let made = server.provider().await.launch(&request()).await.unwrap();
    assert_eq!(made.len(), 2);
    assert_eq!(
        made[1],
        Instance {
            id: "i-0000000000000000b".parse().unwrap(),
            launch: Some(request().launch),
            launch_index: 1,
            state: InstanceState::Running,
            address: Some([10, 0, 0, 1].into()),
            reason: "User initiated".to_owned(),
        }
    );
    for (name, value) in [
        ("Action", "RunInstances"),
        ("ClientToken", "l-0123456789abcdef0123456789abcdef"),
        ("MinCount", "1"),
        ("MaxCount", "2"),
        ("ImageId", "ami-00000000000000001"),
        ("InstanceType", "c7i.large"),
        ("SubnetId", "subnet-1"),
        ("SecurityGroupId.2", "sg-2"),
        ("IamInstanceProfile.Name", "node"),
        ("UserData", "IyEvYmluL3NoCg=="),
        ("InstanceInitiatedShutdownBehavior", "terminate"),
        ("MetadataOptions.HttpTokens", "required"),
        ("MetadataOptions.HttpPutResponseHopLimit", "1"),
        ("MetadataOptions.InstanceMetadataTags", "disabled"),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "Name"),
        ("TagSpecification.2.ResourceType", "volume"),
        ("TagSpecification.2.Tag.1.Value", "demo"),
    ] {
        assert_eq!(server.values(name), [value], "{name}");
    }
}

#[tokio::test]
async fn every_page_is_read() {
    let server = Server::start(|fields| {
        let page: u32 = field(fields, "NextToken").parse().unwrap_or(0);
        let next = if page < 3 { format!("<nextToken>{}</nextToken>", page + 1) } else { String::new() };
        let instances = item(&format!("i-{page:017x}"), page, "shutting-down");
        (
            200,
            format!(
                "<DescribeInstancesResponse><reservationSet><item><instancesSet>{instances}</instancesSet></item>\
                 </reservationSet>{next}</DescribeInstancesResponse>"
            ),
        )
    })
    .await;
    let cluster: ClusterId = "c-0123456789abcdef0123456789abcdef".parse().unwrap();
    let found = server.provider().await.describe(&cluster).await.unwrap();
    assert_eq!(found.iter().map(|i| i.id.clone()).collect::<Vec<_>>(), ids(4));
    assert!(found.iter().all(|i| i.state == InstanceState::ShuttingDown));
    assert_eq!(server.values("Filter.1.Name"), ["tag:ec2mpi:cluster-id"; 4]);
    assert_eq!(server.values("Filter.1.Value.1"), [cluster.as_str(); 4]);
}

#[tokio::test]
async fn a_machine_that_cannot_be_read_is_not_left_out() {
    for bad in [
        item("x", 0, "pending"),
        item("i-0000000000000000a", 0, "dreaming"),
        item("i-0000000000000000a", 999, "pending"),
    ] {
        let server = Server::start(move |_| {
            (200, format!("<RunInstancesResponse><instancesSet>{bad}</instancesSet></RunInstancesResponse>"))
        })
        .await;
        let error = server.provider().await.launch(&request()).await.unwrap_err();
        assert!(matches!(error, ProviderError::Unknown(_)), "{error}");
    }
}

#[tokio::test]
async fn machines_that_are_gone_do_not_keep_the_others_alive() {
    let unknown: InstanceId = "i-00000000000000123".parse().unwrap();
    let gone = unknown.clone();
    let server = Server::start(move |fields| {
        if fields.iter().any(|(_, value)| *value == gone.as_str()) {
            return failure(400, "InvalidInstanceID.NotFound");
        }
        (200, "<TerminateInstancesResponse><instancesSet/></TerminateInstancesResponse>".to_owned())
    })
    .await;
    let all = ids(700);
    server.provider().await.terminate(&all).await.unwrap();
    let mut ended: Vec<String> = Vec::new();
    for call in server.seen.lock().iter().filter(|call| call.iter().all(|(_, value)| *value != unknown.as_str())) {
        ended.extend(call.iter().filter(|(key, _)| key.starts_with("InstanceId.")).map(|(_, id)| id.clone()));
    }
    ended.sort();
    let expected: Vec<String> = all.iter().filter(|id| **id != unknown).map(ToString::to_string).collect();
    assert_eq!(ended, expected);
    let denied = Server::start(|_| failure(403, "UnauthorizedOperation")).await;
    let error = denied.provider().await.terminate(&all).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unauthorized(_)), "{error}");
}

#[tokio::test]
async fn types_tell_cores_and_architecture() {
    let server = Server::start(|fields| {
        if field(fields, "InstanceType.1") == "x1.none" {
            return failure(400, "InvalidInstanceType");
        }
        (
            200,
            "<DescribeInstanceTypesResponse><instanceTypeSet><item><instanceType>c7g.xlarge</instanceType>\
             <vCpuInfo><defaultVCpus>4</defaultVCpus><defaultCores>4</defaultCores></vCpuInfo><processorInfo>\
             <supportedArchitectures><item>arm64</item></supportedArchitectures></processorInfo></item>\
             </instanceTypeSet></DescribeInstanceTypesResponse>"
                .to_owned(),
        )
    })
    .await;
    let provider = server.provider().await;
    let facts = provider.instance_type("c7g.xlarge").await.unwrap();
    assert_eq!(facts, TypeFacts { cores: 4, architecture: "aarch64".to_owned() });
    assert!(matches!(provider.instance_type("x1.none").await, Err(ProviderError::Refused(_))));
}

#[tokio::test]
async fn failures_are_told_apart() {
    type Is = fn(&ProviderError) -> bool;
    let table: [(u16, &str, Is); 6] = [
        (500, "InsufficientInstanceCapacity", |e| matches!(e, ProviderError::Capacity(_))),
        (400, "VcpuLimitExceeded", |e| matches!(e, ProviderError::Refused(_))),
        (400, "IdempotentParameterMismatch", |e| matches!(e, ProviderError::Refused(_))),
        (400, "IdempotentInstanceTerminated", |e| matches!(e, ProviderError::Gone(_))),
        (401, "AuthFailure", |e| matches!(e, ProviderError::Unauthorized(_))),
        (503, "RequestLimitExceeded", |e| matches!(e, ProviderError::Throttled(_))),
    ];
    let checks = table.map(|(status, code, is)| async move {
        let server = Server::start(move |_| failure(status, code)).await;
        let error = server.provider().await.launch(&request()).await.unwrap_err();
        assert!(is(&error), "{code}: {error:?}");
        assert!(error.to_string().contains("so it is"), "{error}");
    });
    futures::future::join_all(checks).await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_unknown() {
    let server = Server::start(|_| (500, "<html>Internal Server Error</html>".to_owned())).await;
    let error = server.provider().await.launch(&request()).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unknown(_)), "{error:?}");
    let attempts = server.seen.lock().len();
    assert!((2..=4).contains(&attempts), "retried, but not for ever: {attempts}");
    assert_eq!(server.values("ClientToken"), vec![request().launch.to_string(); attempts]);
}

#[tokio::test]
async fn no_answer_is_unknown() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = Server { address: free, seen: Arc::default() };
    let error = nobody.provider().await.launch(&request()).await.unwrap_err();
    assert!(matches!(error, ProviderError::Unknown(_)), "{error:?}");
}

#[tokio::test]
async fn console_output_is_the_latest_where_ec2_keeps_it() {
    let server = Server::start(|fields| match field(fields, "Latest") {
        "true" => failure(400, "UnsupportedOperation"),
        _ => {
            let xml = "<GetConsoleOutputResponse><instanceId>i-0123456789abcdef0</instanceId>\
                       <output>Ym9vdGluZwrw\nCg==</output></GetConsoleOutputResponse>";
            (200, xml.to_owned())
        }
    })
    .await;
    let output = server.provider().await.console_output(&"i-0123456789abcdef0".parse().unwrap()).await;
    assert_eq!(output, Ok("booting\n\u{fffd}\n".to_owned()), "what is cut is shown as far as it goes");
    assert_eq!(server.values("Latest"), ["true"]);
    assert_eq!(server.values("Action"), ["GetConsoleOutput", "GetConsoleOutput"]);
}

#[test]
fn a_refusal_for_its_time_points_at_the_clock() {
    let late = errors::of_code(Some("RequestExpired"), 400, "Request has expired.");
    let early =
        errors::of_code(Some("SignatureDoesNotMatch"), 403, "Signature not yet current: 1 is still later than 2");
    for refused in [late, early] {
        assert!(
            matches!(&refused, ProviderError::Unauthorized(why) if why.contains("clock of this machine")),
            "{refused}"
        );
    }
    assert!(!errors::of_code(Some("AuthFailure"), 401, "who?").to_string().contains("clock"));
}

#[test]
fn codes_without_a_row_are_judged_by_status() {
    assert!(matches!(errors::of_code(Some("InvalidAMIID.NotFound"), 400, ""), ProviderError::Refused(_)));
    assert!(matches!(errors::of_code(Some("New"), 503, ""), ProviderError::Unknown(_)));
    assert!(matches!(errors::of_code(None, 429, ""), ProviderError::Throttled(_)));
    assert!(matches!(errors::of_code(None, 403, ""), ProviderError::Unauthorized(_)));
    assert_eq!(errors::of_code(None, 404, "nothing"), ProviderError::Refused("HTTP 404: nothing".to_owned()));
}

#[test]
fn settings_never_show_their_secret() {
    let settings = Ec2Settings {
        region: "local-1".to_owned(),
        endpoint: None,
        credentials: Some(("AKIATEST".to_owned(), "the-secret".to_owned())),
    };
    assert!(!format!("{settings:?}").contains("the-secret"));
}
