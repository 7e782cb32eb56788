//! A join as a thief would try it: with the identity document of a machine and a key of one's own.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use ec2mpi_proto::v1::agent_service_client::AgentServiceClient;
use ec2mpi_proto::v1::{JoinRequest, JoinResponse};
use nix::sched::{CloneFlags, setns};
use serde::Deserialize;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

use crate::machine::Machine;

/// What a machine shows when it joins.
#[derive(Debug, Clone)]
pub struct Document {
    /// The signed document, base64.
    pub pkcs7: String,
}

/// A key pair of a node.
#[derive(Debug)]
pub struct Key(rcgen::KeyPair);

/// What user-data left for the agent.
#[derive(Debug, Deserialize)]
struct AgentConfig {
    coordinator: String,
    server_name: String,
    launch_id: String,
    ca_pem: String,
}

impl Document {
    /// The document of a machine, as IMDS gives it to whoever speaks from its address.
    ///
    /// # Panics
    /// When IMDS does not give it.
    #[track_caller]
    pub fn of(machine: &Machine) -> Self {
        let script = r#"
            token=$(curl -fsS -m 10 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$1/latest/api/token")
            curl -fsS -m 10 -H "X-aws-ec2-metadata-token: $token" "$1/latest/dynamic/instance-identity/rsa2048""#;
        let mut command = machine.on_its_network("sh");
        command.args(["-ec", script, "sh", &metadata_endpoint(machine)]).stderr(Stdio::inherit());
        let output = command.output().expect("nsenter can be started");
        assert!(output.status.success(), "IMDS does not give the document of {}", machine.instance);
        let text = String::from_utf8(output.stdout).expect("the document is base64");
        Self { pkcs7: text.split_whitespace().collect() }
    }
}

impl Key {
    /// A new one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(rcgen::KeyPair::generate().expect("a key can be made"))
    }

    /// One that exists.
    pub fn from_pem(pem: &str) -> Self {
        Self(rcgen::KeyPair::from_pem(pem).expect("a node's key is a private key in PEM"))
    }

    fn request(&self) -> String {
        let parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names are legal names");
        let request = parameters.serialize_request(&self.0).expect("a request can be signed");
        request.pem().expect("a request can be written")
    }
}

/// Asks the coordinator to let the owner of a document and a key join, from the address of a machine.
pub fn join(from: &Machine, document: &Document, key: &Key) -> Result<JoinResponse, Box<tonic::Status>> {
    let text = String::from_utf8(from.read("etc/ec2mpi/agent.toml")).expect("agent.toml is text");
    let config: AgentConfig = toml::from_str(&text).expect("agent.toml is understood");
    let request = JoinRequest {
        protocol_version: ec2mpi_proto::PROTOCOL_VERSION,
        launch_id: config.launch_id.clone(),
        identity_pkcs7: document.pkcs7.clone(),
        csr_pem: key.request(),
        ssh_host_public_key: public_line(from, "etc/ec2mpi/ssh/ssh_host_ed25519_key"),
        ssh_user_public_key: public_line(from, "home/mpi/.ssh/id_ed25519"),
    };
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", from.init)).expect("the machine runs");
    // A thread of its own: whoever enters a network namespace stays in it.
    let thread = std::thread::spawn(move || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(ask(config, request)).map_err(Box::new)
    });
    thread.join().expect("the join does not panic")
}

async fn ask(config: AgentConfig, request: JoinRequest) -> Result<JoinResponse, tonic::Status> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&config.ca_pem))
        .domain_name(config.server_name.clone());
    let endpoint = Channel::from_shared(config.coordinator).expect("the coordinator's address is a URL");
    let endpoint = endpoint.tls_config(tls).expect("the CA's certificate is one").timeout(Duration::from_secs(20));
    let channel = endpoint.connect().await.expect("the coordinator answers with a certificate of the CA");
    Ok(AgentServiceClient::new(channel).join(request).await?.into_inner())
}

/// Where a machine finds IMDS: in the environment of its processes.
fn metadata_endpoint(machine: &Machine) -> String {
    let text = String::from_utf8(machine.read("etc/environment")).expect("/etc/environment is text");
    let line = text.lines().find_map(|line| line.strip_prefix("AWS_EC2_METADATA_SERVICE_ENDPOINT="));
    line.expect("a machine is told where IMDS is").trim_matches('"').to_owned()
}

/// The public half of a private key file of the machine.
fn public_line(machine: &Machine, path: &str) -> String {
    let file = machine.root().join(path);
    let output = Command::new("ssh-keygen").arg("-y").arg("-f").arg(file).output().expect("ssh-keygen can be started");
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a public key is text").trim().to_owned()
}
