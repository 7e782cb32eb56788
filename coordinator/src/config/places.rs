//! Where things are unless the user says otherwise. Each cloud has a coordinator of its own, so that clusters on AWS
//! and rehearsals of them never meet.

use std::path::{Path, PathBuf};

use super::CloudKind;

/// The local cloud's directory.
pub(super) const CLOUD_DIR: &str = "/var/lib/ec2mpi/cloud";

/// What of a process's surroundings decides about places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    pub is_root: bool,
    /// `$XDG_CONFIG_HOME`, or `.config` in the home directory.
    pub config_home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`, or `.local/state` in the home directory.
    pub state_home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
}

impl Environment {
    /// Of this process. Variables that hold no absolute path do not count (XDG base directory specification).
    pub fn of_this_process() -> Self {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = |below: &str| variable("HOME").map(|home| home.join(below));
        Self {
            is_root: nix::unistd::geteuid().is_root(),
            config_home: variable("XDG_CONFIG_HOME").or_else(|| home(".config")),
            state_home: variable("XDG_STATE_HOME").or_else(|| home(".local/state")),
            runtime_dir: variable("XDG_RUNTIME_DIR"),
        }
    }

    /// The configuration file that is read when none is named.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        Some(self.config_home.as_ref()?.join("ec2mpi/config.toml"))
    }

    /// Where a coordinator keeps its records. The local cloud takes root anyway.
    pub(super) fn state_dir(&self, cloud: CloudKind) -> PathBuf {
        let base = match (&self.state_home, cloud) {
            (Some(home), CloudKind::Aws) if !self.is_root => home.join("ec2mpi"),
            _ => PathBuf::from("/var/lib/ec2mpi"),
        };
        base.join(format!("coordinator{}", suffix(cloud)))
    }

    /// Where a coordinator listens for users.
    pub(super) fn socket(&self, cloud: CloudKind) -> PathBuf {
        let name = format!("control{}.sock", suffix(cloud));
        match (self.is_root || cloud == CloudKind::Local, &self.runtime_dir) {
            (true, _) => Path::new("/run/ec2mpi").join(name),
            (false, Some(directory)) => directory.join("ec2mpi").join(name),
            // Records are for their owner only, and so is what lies among them.
            (false, None) => self.state_dir(cloud).join(name),
        }
    }
}

fn suffix(cloud: CloudKind) -> &'static str {
    match cloud {
        CloudKind::Local => "",
        CloudKind::Aws => "-aws",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cloud_and_user_has_its_own_places() {
        let user = Environment { state_home: Some("/h/.local/state".into()), ..Environment::default() };
        let root = Environment { is_root: true, ..user.clone() };
        let on_seat = Environment { runtime_dir: Some("/run/user/7".into()), ..user.clone() };
        for (environment, cloud, state, socket) in [
            (&root, CloudKind::Local, "/var/lib/ec2mpi/coordinator", "/run/ec2mpi/control.sock"),
            (&root, CloudKind::Aws, "/var/lib/ec2mpi/coordinator-aws", "/run/ec2mpi/control-aws.sock"),
            (&user, CloudKind::Local, "/var/lib/ec2mpi/coordinator", "/run/ec2mpi/control.sock"),
            (
                &user,
                CloudKind::Aws,
                "/h/.local/state/ec2mpi/coordinator-aws",
                "/h/.local/state/ec2mpi/coordinator-aws/control-aws.sock",
            ),
            (&on_seat, CloudKind::Aws, "/h/.local/state/ec2mpi/coordinator-aws", "/run/user/7/ec2mpi/control-aws.sock"),
        ] {
            let found = (environment.state_dir(cloud), environment.socket(cloud));
            assert_eq!(found, (PathBuf::from(state), PathBuf::from(socket)), "{environment:?}");
        }
    }
}
