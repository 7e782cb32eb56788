//! The API as a client sees it, over its router, with machines that only note what they are asked for.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::{Api, handle, signature};
use crate::faults::{Faults, Settle};
use crate::fleet::{Fleet, InstanceId, Machines};
use crate::keys::Keys;
use crate::layout::Layout;
use crate::settings::{Options, Settings};

mod launching;
mod listing;

/// Requests to machines, in order.
#[derive(Debug, Default, Clone)]
struct Noted(Arc<Mutex<Vec<(&'static str, String)>>>);

impl Noted {
    fn note(&self, what: &'static str, id: &InstanceId) {
        self.0.lock().push((what, id.to_string()));
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().iter().filter(|(noted, _)| *noted == what).count()
    }
}

impl Machines for Noted {
    fn start(&self, id: &InstanceId) {
        self.note("start", id);
    }

    fn terminate(&self, id: &InstanceId) {
        self.note("terminate", id);
    }

    fn reboot(&self, id: &InstanceId) {
        self.note("reboot", id);
    }
}

struct Lab {
    dir: TempDir,
    api: Arc<Api>,
    noted: Noted,
    settings: Settings,
}

/// The least that RunInstances needs.
const ONE: &[(&str, &str)] = &[("ImageId", "ami-00000000000000001"), ("MinCount", "1"), ("MaxCount", "1")];

impl Lab {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    fn on(dir: TempDir) -> Self {
        let layout = Layout::create(dir.path()).unwrap();
        let settings = Settings::load_or_create(&layout, &Options::default()).unwrap();
        let keys = Arc::new(Keys::open(&settings, layout.role_keys(), SignedDuration::from_secs(60)).unwrap());
        let faults = Arc::new(Faults::open(layout.faults(), Settle::default()).unwrap());
        let fleet = Arc::new(Fleet::open(layout, "10.70.4.0/22".parse().unwrap(), faults).unwrap());
        let noted = Noted::default();
        let api = Arc::new(Api { fleet, machines: Box::new(noted.clone()), keys, slots: 2 });
        Self { dir, api, noted, settings }
    }

    /// A new process on the same directory.
    fn restarted(self) -> Self {
        Self::on(self.dir)
    }

    async fn call(&self, action: &str, params: &[(&str, &str)]) -> (StatusCode, String) {
        let mut pairs = vec![("Action", action), ("Version", "2016-11-15")];
        pairs.extend(params);
        let encode =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let form: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let mut request = Request::post("/").body(form.join("&").into_bytes()).unwrap();
        signature::sign_for_test(&mut request, &self.settings.access_key, &self.settings.secret_key, Timestamp::now());
        self.send(request).await
    }

    async fn send(&self, request: Request<Vec<u8>>) -> (StatusCode, String) {
        let response = handle(self.api.clone(), request.map(Body::from)).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 24).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn ok(&self, action: &str, params: &[(&str, &str)]) -> String {
        let (status, body) = self.call(action, params).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert!(
            body.contains(&format!("<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">")),
            "{body}"
        );
        body
    }

    /// The error's code.
    async fn refused(&self, action: &str, params: &[(&str, &str)]) -> String {
        let (status, body) = self.call(action, params).await;
        assert!(!status.is_success(), "{body}");
        assert!(body.contains("<RequestID>"), "{body}");
        values(&body, "Code").remove(0)
    }

    async fn run(&self, params: &[(&str, &str)]) -> Vec<String> {
        values(&self.ok("RunInstances", &with(ONE, params)).await, "instanceId")
    }
}

/// `base` with `more`, which replace what has the same name.
fn with<'a>(base: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = base.iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
    kept.chain(more).copied().collect()
}

/// The texts of all elements of that name.
fn values(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0.to_owned())).collect()
}

#[tokio::test]
async fn only_the_owner_is_answered() {
    let lab = Lab::new();
    let signed = |access_key: &str, secret: &str, age: i64| {
        let mut request = Request::post("/").body(b"Action=DescribeRegions&Version=2016-11-15".to_vec()).unwrap();
        let at = Timestamp::now() - SignedDuration::from_secs(age);
        signature::sign_for_test(&mut request, access_key, secret, at);
        request
    };
    let (key, secret) = (lab.settings.access_key.as_str(), lab.settings.secret_key.as_str());
    assert_eq!(lab.send(signed(key, secret, 0)).await.0, StatusCode::OK);
    let mut tampered = signed(key, secret, 0);
    tampered.body_mut().push(b'0');
    let cases = [
        (signed("AKIANOBODY", secret, 0), "AuthFailure"),
        (signed(key, "wrong", 0), "SignatureDoesNotMatch"),
        (tampered, "SignatureDoesNotMatch"),
        (signed(key, secret, 3600), "RequestExpired"),
        (Request::post("/").body(b"Action=DescribeRegions".to_vec()).unwrap(), "AuthFailure"),
    ];
    for (request, code) in cases {
        let (status, body) = lab.send(request).await;
        assert!(status.is_client_error());
        assert_eq!(values(&body, "Code"), [code]);
    }
}

#[tokio::test]
async fn unknown_actions_are_named() {
    let lab = Lab::new();
    let (status, body) = lab.call("Describe<Nothing>", &[]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(values(&body, "Code"), ["InvalidAction"]);
    assert!(body.contains("Describe&lt;Nothing&gt;"), "{body}");
}
