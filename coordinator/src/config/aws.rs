//! What the coordinator must know of AWS. Flags, environment variables and the `[aws]` table of the configuration file
//! have the same names.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::Error;

/// The agents' listener, unless told otherwise; the agent's executable is handed out on the next port.
const DEFAULT_PORT: u16 = 7470;

/// What was said of AWS; everything may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
#[command(next_help_heading = "With --cloud aws (or in the table [aws] of the configuration file)")]
pub struct AwsOptions {
    /// Region, such as eu-west-1.
    #[arg(long, global = true, env = "EC2MPI_REGION", hide_short_help = true)]
    pub region: Option<String>,
    /// Image of the nodes, ami-…
    #[arg(long, global = true, env = "EC2MPI_IMAGE", hide_short_help = true)]
    pub image: Option<String>,
    /// Subnet of the nodes, subnet-…
    #[arg(long, global = true, env = "EC2MPI_SUBNET", hide_short_help = true)]
    pub subnet: Option<String>,
    /// Security group of the nodes, sg-…; may be repeated.
    #[arg(
        long = "security-group",
        global = true,
        env = "EC2MPI_SECURITY_GROUPS",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub security_groups: Option<Vec<String>>,
    /// Name of the nodes' instance profile, which lets them use the bucket.
    #[arg(long, global = true, env = "EC2MPI_INSTANCE_PROFILE", hide_short_help = true)]
    pub instance_profile: Option<String>,
    /// Instance type where `create` names none.
    #[arg(long, global = true, env = "EC2MPI_INSTANCE_TYPE", hide_short_help = true)]
    pub instance_type: Option<String>,
    /// Bucket of the volumes, in the same region.
    #[arg(long, global = true, env = "EC2MPI_BUCKET", hide_short_help = true)]
    pub bucket: Option<String>,
    /// Where in the bucket volumes lie: PREFIX/CLUSTER/ [default: CLUSTER/].
    #[arg(long, global = true, env = "EC2MPI_PREFIX", hide_short_help = true)]
    pub prefix: Option<String>,
    /// Address of this machine as nodes reach it [default: its private address, where it is on EC2].
    #[arg(long, global = true, env = "EC2MPI_ADVERTISE", value_name = "ADDRESS", hide_short_help = true)]
    pub advertise: Option<Ipv4Addr>,
    /// Address to listen on for nodes [default: 0.0.0.0].
    #[arg(long, global = true, env = "EC2MPI_LISTEN", value_name = "ADDRESS", hide_short_help = true)]
    pub listen: Option<IpAddr>,
    /// Port to listen on for nodes; the next one hands out the agent's executable [default: 7470].
    #[arg(long, global = true, env = "EC2MPI_PORT", value_parser = clap::value_parser!(u16).range(1..=65534), hide_short_help = true)]
    pub port: Option<u16>,
    /// PEM file with the certificate that signs identity documents [default: AWS's of the region, where it is known].
    #[arg(long, global = true, env = "EC2MPI_DOCUMENT_CERTIFICATE", value_name = "FILE", hide_short_help = true)]
    pub document_certificate: Option<PathBuf>,
    /// URL of the EC2 API [default: AWS's of the region].
    #[arg(long, global = true, env = "EC2MPI_ENDPOINT", value_name = "URL", hide_short_help = true)]
    pub endpoint: Option<String>,
    /// URL of S3 as nodes reach it [default: AWS's of the region].
    #[arg(long, global = true, env = "EC2MPI_S3_ENDPOINT", value_name = "URL", hide_short_help = true)]
    pub s3_endpoint: Option<String>,
    /// Nodes share cores, as in a rehearsal on the local cloud: ranks are not bound to them.
    #[arg(long, global = true, env = "EC2MPI_SHARED_CORES", num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_short_help = true)]
    pub shared_cores: Option<bool>,
}

/// Everything a coordinator must know of AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aws {
    pub region: String,
    pub image: String,
    pub subnet: String,
    pub security_groups: Vec<String>,
    pub instance_profile: String,
    pub instance_type: String,
    pub bucket: String,
    /// Empty, or ending in a slash.
    pub prefix: String,
    /// None: this machine's own, if it is on EC2.
    pub advertise: Option<Ipv4Addr>,
    pub listen: IpAddr,
    pub port: u16,
    pub document_certificate: Option<PathBuf>,
    pub endpoint: Option<String>,
    pub s3_endpoint: Option<String>,
    pub shared_cores: bool,
}

impl AwsOptions {
    /// These, and where they are silent the others.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            region: self.region.or(other.region),
            image: self.image.or(other.image),
            subnet: self.subnet.or(other.subnet),
            security_groups: self.security_groups.or(other.security_groups),
            instance_profile: self.instance_profile.or(other.instance_profile),
            instance_type: self.instance_type.or(other.instance_type),
            bucket: self.bucket.or(other.bucket),
            prefix: self.prefix.or(other.prefix),
            advertise: self.advertise.or(other.advertise),
            listen: self.listen.or(other.listen),
            port: self.port.or(other.port),
            document_certificate: self.document_certificate.or(other.document_certificate),
            endpoint: self.endpoint.or(other.endpoint),
            s3_endpoint: self.s3_endpoint.or(other.s3_endpoint),
            shared_cores: self.shared_cores.or(other.shared_cores),
        }
    }

    /// What was said, by the name of its flag.
    pub fn given(&self) -> Vec<(&'static str, String)> {
        fn text(value: Option<&impl ToString>) -> Option<String> {
            value.map(ToString::to_string)
        }
        let all = [
            ("region", self.region.clone()),
            ("image", self.image.clone()),
            ("subnet", self.subnet.clone()),
            ("security-group", self.security_groups.as_ref().map(|groups| groups.join(","))),
            ("instance-profile", self.instance_profile.clone()),
            ("instance-type", self.instance_type.clone()),
            ("bucket", self.bucket.clone()),
            ("prefix", self.prefix.clone()),
            ("advertise", text(self.advertise.as_ref())),
            ("listen", text(self.listen.as_ref())),
            ("port", text(self.port.as_ref())),
            ("document-certificate", self.document_certificate.as_ref().map(|path| path.display().to_string())),
            ("endpoint", self.endpoint.clone()),
            ("s3-endpoint", self.s3_endpoint.clone()),
            ("shared-cores", text(self.shared_cores.as_ref())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Refuses what cannot be right, whether it will be used or not.
    pub(super) fn check(&self) -> Result<(), Error> {
        for (name, value) in self.given() {
            let (holds, form) = judge(name, &value);
            if !holds {
                return Err(Error::Invalid(format!("--{name} {value:?} is not {form}")));
            }
        }
        Ok(())
    }

    /// All of it, or an error that names everything that is missing and how to give it.
    pub fn complete(&self) -> Result<Aws, Error> {
        let mut missing = Vec::new();
        let mut text = |name: &'static str, what: &'static str, value: Option<&String>| {
            if value.is_none() {
                missing.push((name, what));
            }
            value.cloned().unwrap_or_default()
        };
        let region = text("region", "where to launch, such as eu-west-1", self.region.as_ref());
        let image = text("image", "what nodes boot, ami-…", self.image.as_ref());
        let subnet = text("subnet", "where nodes are, subnet-…", self.subnet.as_ref());
        let groups = self.security_groups.as_ref().map(|groups| groups.join(",")).filter(|groups| !groups.is_empty());
        text("security-group", "what may reach nodes, sg-…", groups.as_ref());
        let instance_profile =
            text("instance-profile", "the role that lets nodes use the bucket", self.instance_profile.as_ref());
        let instance_type = text("instance-type", "such as c7i.2xlarge", self.instance_type.as_ref());
        let bucket = text("bucket", "where the files of clusters are", self.bucket.as_ref());
        if !missing.is_empty() {
            return Err(incomplete(&missing));
        }
        Ok(Aws {
            region,
            image,
            subnet,
            security_groups: self.security_groups.clone().unwrap_or_default(),
            instance_profile,
            instance_type,
            bucket,
            prefix: directory(self.prefix.clone().unwrap_or_default()),
            advertise: self.advertise,
            listen: self.listen.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port: self.port.unwrap_or(DEFAULT_PORT),
            document_certificate: self.document_certificate.clone(),
            endpoint: self.endpoint.clone(),
            s3_endpoint: self.s3_endpoint.clone(),
            shared_cores: self.shared_cores.unwrap_or(false),
        })
    }
}

/// Whether a value can be right, and what it should be.
fn judge(name: &str, value: &str) -> (bool, &'static str) {
    let is_word =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._+=@".contains(c));
    let is_id = |kind: &str, text: &str| text.starts_with(kind) && is_word(text);
    let is_url = value.starts_with("http://") || value.starts_with("https://");
    match name {
        "image" => (is_id("ami-", value), "an image, such as ami-0123456789abcdef0"),
        "subnet" => (is_id("subnet-", value), "a subnet, such as subnet-0123456789abcdef0"),
        "security-group" => {
            (value.split(',').all(|group| is_id("sg-", group)), "a security group, such as sg-0123456789abcdef0")
        }
        "region" | "instance-profile" | "instance-type" | "bucket" => (is_word(value), "a name"),
        "prefix" => (
            !value.starts_with('/') && value.len() <= 512 && !value.contains(char::is_control),
            "a prefix of keys, such as clusters/, without a slash in front",
        ),
        "port" => (value.parse().is_ok_and(|port: u16| (1..u16::MAX).contains(&port)), "a port from 1 to 65534"),
        "endpoint" | "s3-endpoint" => (is_url, "a URL, such as https://ec2.eu-west-1.amazonaws.com"),
        "document-certificate" => (value.starts_with('/'), "an absolute path"),
        _ => (true, ""),
    }
}

fn directory(prefix: String) -> String {
    if prefix.is_empty() || prefix.ends_with('/') { prefix } else { prefix + "/" }
}

fn incomplete(missing: &[(&str, &str)]) -> Error {
    let key = |name: &str| if name == "security-group" { "security_groups".to_owned() } else { name.replace('-', "_") };
    let lines: Vec<_> = missing
        .iter()
        .map(|(name, what)| {
            let variable = key(name).to_uppercase();
            format!("  --{name} (EC2MPI_{variable}, or {} in [aws] of the configuration file): {what}", key(name))
        })
        .collect();
    Error::Invalid(format!("--cloud aws has to be told more; nothing was launched. Missing:\n{}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> AwsOptions {
        AwsOptions {
            region: Some("eu-west-1".into()),
            image: Some("ami-1".into()),
            subnet: Some("subnet-1".into()),
            security_groups: Some(vec!["sg-1".into()]),
            instance_profile: Some("node".into()),
            instance_type: Some("c7i.large".into()),
            bucket: Some("my-bucket".into()),
            ..AwsOptions::default()
        }
    }

    #[test]
    fn everything_missing_is_said_at_once() {
        let said = AwsOptions::default().complete().unwrap_err().to_string();
        for (name, _) in whole().given() {
            assert!(said.contains(&format!("--{name} ")), "{name}: {said}");
        }
        assert!(said.contains("EC2MPI_SECURITY_GROUPS, or security_groups in"), "{said}");
        let but_one = AwsOptions { bucket: None, security_groups: Some(vec![]), ..whole() };
        let said = but_one.complete().unwrap_err().to_string();
        assert!(said.contains("--bucket") && said.contains("--security-group") && !said.contains("--region"), "{said}");
    }

    #[test]
    fn what_is_left_open_has_defaults() {
        let aws = whole().complete().unwrap();
        assert_eq!((aws.port, aws.listen.to_string().as_str(), aws.prefix.as_str()), (7470, "0.0.0.0", ""));
        let prefix = |text: &str| AwsOptions { prefix: Some(text.into()), ..whole() }.complete().unwrap().prefix;
        assert_eq!((prefix("a/b").as_str(), prefix("a/").as_str()), ("a/b/", "a/"));
    }

    #[test]
    fn what_cannot_be_right_is_refused_by_name() {
        for (options, expected) in [
            (AwsOptions { image: Some("debian".into()), ..whole() }, "--image \"debian\""),
            (AwsOptions { subnet: Some("vpc-1".into()), ..whole() }, "--subnet"),
            (
                AwsOptions { security_groups: Some(vec!["sg-1".into(), "default".into()]), ..whole() },
                "--security-group",
            ),
            (AwsOptions { prefix: Some("/x".into()), ..whole() }, "--prefix"),
            (AwsOptions { endpoint: Some("localhost".into()), ..whole() }, "--endpoint"),
            (AwsOptions { port: Some(0), ..whole() }, "--port"),
            (AwsOptions { region: Some("eu west".into()), ..whole() }, "--region"),
            (AwsOptions { document_certificate: Some("c.pem".into()), ..whole() }, "--document-certificate"),
        ] {
            let said = options.check().unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
        whole().check().unwrap();
    }
}
