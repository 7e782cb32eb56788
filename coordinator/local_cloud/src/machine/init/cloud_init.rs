//! Boot by cloud-init, as images on AWS do: this pid 1 only takes the place of systemd, which would run the stages.
//!
//! The user-data comes as a NoCloud seed: cloud-init's way to EC2's metadata service wants the real address of that, or
//! a firmware that says EC2. Source: "NoCloud" and "Boot stages" in cloud-init's documentation.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use anyhow::Context;

/// There from the first boot on.
pub(super) const SEED: &str = "/var/lib/cloud/seed/nocloud/user-data";

const FOLDER: &str = "/var/lib/cloud/seed/nocloud";
const SOURCE: &str = "/etc/cloud/cloud.cfg.d/99-datasource.cfg";

/// Keeps the user-data for cloud-init, which marks the first boot as done; what to run.
pub(super) fn seed(host_name: &str, user_data: &[u8]) -> anyhow::Result<Vec<Command>> {
    fs::write(SOURCE, "datasource_list: [NoCloud]\n").with_context(|| format!("no cloud-init is here: {SOURCE}"))?;
    fs::create_dir_all(FOLDER)?;
    let meta_data = format!("instance-id: {host_name}\nlocal-hostname: {host_name}\n");
    fs::write(format!("{FOLDER}/meta-data"), meta_data)?;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(SEED)?;
    file.write_all(user_data)?;
    Ok(stages())
}

/// The stages of every boot.
pub(super) fn stages() -> Vec<Command> {
    const STAGES: [&[&str]; 4] =
        [&["init", "--local"], &["init"], &["modules", "--mode=config"], &["modules", "--mode=final"]];
    let stage = |words: &&[&str]| {
        let mut command = Command::new("/usr/bin/cloud-init");
        command.args(*words);
        command
    };
    STAGES.iter().map(stage).collect()
}
