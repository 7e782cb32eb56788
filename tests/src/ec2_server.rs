//! Servers of the EC2 API, and boto3 as a second client of them.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::outcome::Running;
use crate::place;
use crate::site::Site;
use crate::wait::{seconds, until};

/// Where a server is, who may ask, and what it has to launch.
#[derive(Debug, Clone)]
pub struct Ec2Server {
    pub name: &'static str,
    pub endpoint: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
    pub image: String,
    pub instance_type: String,
    pub subnet: String,
    pub security_group: String,
}

impl Ec2Server {
    /// The local cloud of a site, started with these flags.
    #[track_caller]
    pub fn local(site: &Site, flags: &[&str]) -> Self {
        site.start_cloud(flags);
        Self::local_running(site)
    }

    /// The local cloud of a site, which runs already.
    #[track_caller]
    pub fn local_running(site: &Site) -> Self {
        let cloud = site.cloud();
        let word = |key: &str| cloud[key].as_str().expect("cloud.json has it").to_owned();
        let server = Self {
            name: "local cloud",
            endpoint: word("ec2_endpoint"),
            region: word("region"),
            access_key: word("access_key"),
            secret_key: word("secret_key"),
            image: "ami-00000000000000001".to_owned(),
            instance_type: word("default_instance_type"),
            subnet: String::new(),
            security_group: String::new(),
        };
        server.with_network()
    }

    /// moto (`make setup` installs it), and its process, which ends when dropped.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn moto(folder: &Path) -> (Self, Running) {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let mut command = Command::new(place::python());
        command.args(["-m", "moto.server", "--host", "127.0.0.1", "--port", &port.to_string()]);
        let mut process = Running::start(command, folder);
        until(seconds(60), "moto answers", || {
            assert!(process.is_running(), "moto ended: {}", process.stderr());
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let server = Self {
            name: "moto",
            endpoint: format!("http://127.0.0.1:{port}"),
            region: "eu-west-1".to_owned(),
            access_key: "AKIATEST".to_owned(),
            secret_key: "secret".to_owned(),
            image: String::new(),
            instance_type: "c5.large".to_owned(),
            subnet: String::new(),
            security_group: String::new(),
        };
        let filters = json!({"Filters": [{"Name": "architecture", "Values": ["x86_64"]}]});
        let images = server.call("ec2", "describe_images", &filters);
        let image = images["Images"][0]["ImageId"].as_str().expect("moto has images").to_owned();
        let profile = json!({"InstanceProfileName": "ec2mpi-node"});
        server.call("iam", "create_instance_profile", &profile);
        (Self { image, ..server }.with_network(), process)
    }

    fn with_network(self) -> Self {
        let subnets = self.call("ec2", "describe_subnets", &json!({}));
        let groups = self.call("ec2", "describe_security_groups", &json!({}));
        let word = |value: &Value| value.as_str().expect("there is a default network").to_owned();
        Self {
            subnet: word(&subnets["Subnets"][0]["SubnetId"]),
            security_group: word(&groups["SecurityGroups"][0]["GroupId"]),
            ..self
        }
    }

    /// One call by boto3; the names are botocore's.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn call(&self, service: &str, method: &str, arguments: &Value) -> Value {
        let mut command = Command::new(place::python());
        command.arg(place::program("call.py"));
        command.args([&self.endpoint, &self.region, &self.access_key, &self.secret_key]);
        let output = command.args([service, method, &arguments.to_string()]).output().expect("python can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{service} {method} {arguments} on {}: {said}", self.name);
        serde_json::from_slice(&output.stdout).expect("call.py answers in JSON")
    }
}
