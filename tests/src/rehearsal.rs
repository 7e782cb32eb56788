//! `--cloud aws` pointed at the local cloud of a site: the path that costs money, to the last call.

use std::path::PathBuf;
use std::process::Command;

use crate::ec2_server::Ec2Server;
use crate::outcome::Outcome;
use crate::site::{COMMAND_LIMIT, Site};

/// A configuration file that says AWS and means the local cloud.
#[derive(Debug)]
pub struct Rehearsal<'a> {
    site: &'a Site,
    /// The cloud as a second client sees it.
    pub server: Ec2Server,
    config: PathBuf,
}

impl<'a> Rehearsal<'a> {
    /// Starts the site's cloud and writes the file.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn new(site: &'a Site) -> Self {
        let server = Ec2Server::local(site, &[]);
        let cloud = site.cloud();
        let word = |key: &str| cloud[key].as_str().expect("cloud.json has it").to_owned();
        let Ec2Server { endpoint, region, image, subnet, security_group, instance_type, .. } = &server;
        let (gateway, bucket, s3) = (word("gateway"), word("bucket"), word("node_s3_endpoint"));
        let certificate = site.path("cloud/document.crt").display().to_string();
        let text = format!(
            "cloud = \"aws\"\n[aws]\nregion = \"{region}\"\nimage = \"{image}\"\nsubnet = \"{subnet}\"\n\
             security_groups = [\"{security_group}\"]\ninstance_profile = \"my-node\"\n\
             instance_type = \"{instance_type}\"\nbucket = \"{bucket}\"\nprefix = \"rehearsals\"\n\
             advertise = \"{gateway}\"\nlisten = \"{gateway}\"\ndocument_certificate = \"{certificate}\"\n\
             endpoint = \"{endpoint}\"\ns3_endpoint = \"{s3}\"\nshared_cores = true\n"
        );
        let config = site.path("config.toml");
        std::fs::write(&config, text).expect("a site can be written");
        Self { site, server, config }
    }

    /// `ec2mpi` with that file and the credentials where the AWS SDK looks for them, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.site.command(arguments);
        command.env("EC2MPI_CONFIG", &self.config);
        command.env("AWS_ACCESS_KEY_ID", &self.server.access_key);
        command.env("AWS_SECRET_ACCESS_KEY", &self.server.secret_key);
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.site.start_command(self.command(arguments)).wait(COMMAND_LIMIT)
    }
}
