//! The service as one machine sees it.

use std::collections::BTreeMap;

use axum::body::Body;
use jiff::SignedDuration;
use serde_json::Value;

use super::*;
use crate::catalog;
use crate::faults::{Bounds, Faults, Kind, MachineFault, Mishap, Settle, Target};
use crate::fleet::{LaunchSpec, MetadataOptions, OnShutdown, Order};
use crate::layout::Layout;
use crate::settings::{Options, Settings};

const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "x-aws-ec2-metadata-token";

struct Lab {
    _dir: tempfile::TempDir,
    imds: Imds,
    instance: Instance,
    now: Timestamp,
}

fn lab(metadata: MetadataOptions) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::create(dir.path()).unwrap();
    let settings = Settings::load_or_create(&layout, &Options::default()).unwrap();
    let keys = Arc::new(Keys::open(&settings, layout.role_keys(), SignedDuration::from_secs(3600)).unwrap());
    let signer = DocumentSigner::load_or_create(&layout).unwrap();
    let faults = Arc::new(Faults::open(layout.faults(), Settle::default()).unwrap());
    let fleet = Arc::new(Fleet::open(layout, "10.70.4.0/22".parse().unwrap(), faults).unwrap());
    let spec = LaunchSpec {
        image: catalog::IMAGE.to_owned(),
        instance_type: catalog::DEFAULT_TYPE.to_owned(),
        client_token: None,
        user_data: Some("IyEvYmluL3NoCg==".to_owned()),
        profile: Some("ec2mpi-node".to_owned()),
        security_groups: Vec::new(),
        on_shutdown: OnShutdown::Terminate,
        metadata,
        key_name: None,
    };
    let tags = BTreeMap::from([("Name".to_owned(), "demo-0".to_owned())]);
    let order = Order { min: 1, max: 1, spec, tags, fingerprint: String::new() };
    let now = Timestamp::now();
    let instance = fleet.launch(&order, now).unwrap().instances.remove(0);
    Lab { _dir: dir, imds: Imds::new(fleet, keys, signer, &settings.token_key), instance, now }
}

impl Lab {
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = answer(&self.imds, &self.instance, &request, self.now);
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let (_, token) = self.send("PUT", "/latest/api/token", &[(TTL, "60")]).await;
        self.send("GET", path, &[(TOKEN, &token)]).await
    }

    async fn text(&self, path: &str) -> String {
        let (status, text) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        text
    }
}

#[tokio::test]
async fn a_token_is_needed_and_its_life_is_limited() {
    let lab = lab(MetadataOptions::default());
    let id = "/latest/meta-data/instance-id";
    assert_eq!(lab.send("GET", id, &[]).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(lab.send("GET", id, &[(TOKEN, "guess")]).await.0, StatusCode::UNAUTHORIZED);
    for ttl in ["0", "21601", "x", "-1"] {
        let (status, _) = lab.send("PUT", "/latest/api/token", &[(TTL, ttl)]).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{ttl}");
    }
    assert_eq!(lab.send("PUT", "/latest/api/token", &[]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(lab.text(id).await, lab.instance.id.to_string());
    let proxied = [(TTL, "60"), ("x-forwarded-for", "1.2.3.4")];
    assert_eq!(lab.send("PUT", "/latest/api/token", &proxied).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn tokens_may_be_optional_and_the_service_off() {
    let optional = lab(MetadataOptions { tokens: Tokens::Optional, ..MetadataOptions::default() });
    assert_eq!(optional.send("GET", "/latest/meta-data/ami-id", &[]).await.1, catalog::IMAGE);
    let off = lab(MetadataOptions { enabled: false, ..MetadataOptions::default() });
    assert_eq!(off.get("/latest/meta-data/ami-id").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn every_listed_name_is_there() {
    let lab = lab(MetadataOptions { tags: true, ..MetadataOptions::default() });
    let mut waiting = vec!["/latest/".to_owned()];
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        let text = lab.text(&path).await;
        seen += 1;
        if path.ends_with('/') {
            waiting.extend(text.lines().map(|name| format!("{path}{name}")));
        }
        for directory in ["meta-data", "dynamic"] {
            if path == format!("/latest/{directory}") {
                waiting.push(format!("{path}/"));
            }
        }
    }
    assert!(seen > 30, "{seen}");
    assert_eq!(lab.text("/latest/meta-data/tags/instance/Name").await, "demo-0");
    assert_eq!(lab.text("/2021-03-23/meta-data/local-ipv4").await, "10.70.4.4");
    assert_eq!(lab.text("/latest/user-data").await, "#!/bin/sh\n");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let lab = lab(MetadataOptions::default());
    let missing = [
        "/latest/meta-data/spot/instance-action",
        "/latest/meta-data/tags/instance",
        "/latest/meta-data/iam/security-credentials/other",
        "/latest/meta-datax",
        "/1.0x/meta-data/",
        "/latest/dynamic/other",
        "/nothing",
    ];
    for path in missing {
        assert_eq!(lab.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn documents_and_credentials_are_as_on_aws() {
    let lab = lab(MetadataOptions::default());
    let document: Value = serde_json::from_str(&lab.text("/latest/dynamic/instance-identity/document").await).unwrap();
    assert_eq!(document["instanceId"], lab.instance.id.as_str());
    assert_eq!((&document["privateIp"], &document["region"]), (&"10.70.4.4".into(), &catalog::REGION.into()));
    assert!(document["kernelId"].is_null());
    let role = lab.text("/latest/meta-data/iam/security-credentials/").await;
    let path = format!("/latest/meta-data/iam/security-credentials/{role}");
    let credentials: Value = serde_json::from_str(&lab.text(&path).await).unwrap();
    assert_eq!((&credentials["Code"], &credentials["Type"]), (&"Success".into(), &"AWS-HMAC".into()));
    let expiration: Timestamp = credentials["Expiration"].as_str().unwrap().parse().unwrap();
    assert!(expiration > lab.now);
    let key = lab.imds.keys.role_key(&lab.instance.id, lab.now).unwrap();
    assert_eq!(credentials["AccessKeyId"], key.access_key.as_str());
    assert_eq!(credentials["Token"], key.session_token.as_str());
}

#[tokio::test]
async fn a_machine_that_is_to_be_reclaimed_is_told_when() {
    let lab = lab(MetadataOptions { tokens: Tokens::Optional, ..MetadataOptions::default() });
    let faults = lab.imds.fleet.faults();
    let get = async |path: &str| lab.send("GET", path, &[]).await;
    assert_eq!(get("/latest/meta-data/spot/instance-action").await.0, StatusCode::NOT_FOUND);
    let target = Target::Instance { id: lab.instance.id.clone() };
    let fault = MachineFault::new(target, Mishap::Spot { notice_ms: 120_000 }, 0, lab.now);
    faults.add(Kind::Machine(fault), Bounds::default()).unwrap();
    assert_eq!(faults.due(&lab.instance.id, lab.now), None);
    let (status, text) = get("/latest/meta-data/spot/instance-action").await;
    let told: Value = serde_json::from_str(&text).unwrap();
    let at = (lab.now + SignedDuration::from_mins(2)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    assert_eq!((status, &told["action"], &told["time"]), (StatusCode::OK, &"terminate".into(), &at.clone().into()));
    assert_eq!(get("/latest/meta-data/spot/termination-time").await.1, at);
    assert!(get("/latest/meta-data/").await.1.ends_with("\nspot/"));
    assert_eq!(get("/latest/meta-data/instance-life-cycle").await.1, "spot");
}
