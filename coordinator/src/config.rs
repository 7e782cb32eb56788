//! Settings: from flags, environment and configuration file, in this order, once, into types that cannot be wrong.

mod aws;
mod file;
mod places;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::aws::{Aws, AwsOptions};
use self::file::File;
pub use self::places::Environment;
use crate::error::Error;

/// How long a coordinator without clusters stays up, unless told otherwise.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Flags that every verb takes.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct GlobalArgs {
    /// Configuration file [default: ~/.config/ec2mpi/config.toml, if there is one].
    #[arg(long, global = true, env = "EC2MPI_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the coordinator's records [default: /var/lib/ec2mpi/coordinator].
    #[arg(long, global = true, env = "EC2MPI_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Unix socket of the coordinator's control API [default: /run/ec2mpi/control.sock].
    #[arg(long, global = true, env = "EC2MPI_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Directory of the local cloud [default: /var/lib/ec2mpi/cloud].
    #[arg(long, global = true, env = "EC2MPI_CLOUD_DIR", value_name = "DIR")]
    pub cloud_dir: Option<PathBuf>,
    /// Where machines come from [default: local].
    #[arg(long = "cloud", global = true, env = "EC2MPI_CLOUD", value_enum)]
    pub cloud_kind: Option<CloudKind>,
    /// The agent executable handed to nodes [default: ec2mpi-agent beside this executable].
    #[arg(long, global = true, env = "EC2MPI_AGENT", hide = true)]
    pub agent: Option<PathBuf>,
    #[command(flatten)]
    pub aws: AwsOptions,
}

/// Flags of `ec2mpi serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// End after this long without clusters (s, m, h; 0: never).
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "15m")]
    pub idle_timeout: Duration,
}

/// Where machines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloudKind {
    /// The stand-in on this machine.
    Local,
    /// Amazon's.
    Aws,
}

impl CloudKind {
    /// The name that users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Aws => "aws",
        }
    }
}

/// Everything the coordinator and the command line were told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Absolute.
    pub state_dir: PathBuf,
    /// Absolute, short enough for a Unix socket's address.
    pub socket: PathBuf,
    /// Absolute.
    pub cloud_dir: PathBuf,
    pub agent_binary: PathBuf,
    pub cloud: CloudKind,
    /// What was said of AWS, complete or not; empty for the local cloud.
    pub aws: AwsOptions,
}

impl Settings {
    /// Fails on a configuration file that is not right, a path that cannot be made absolute, or a socket path that the
    /// kernel would cut.
    pub fn resolve(args: &GlobalArgs, environment: &Environment) -> Result<Self, Error> {
        let file = File::load(args.config.as_deref(), environment)?;
        let cloud = args.cloud_kind.or(file.cloud).unwrap_or(CloudKind::Local);
        let socket = absolute(&args.socket.clone().unwrap_or_else(|| environment.socket(cloud)))?;
        check_socket_path(&socket)?;
        let aws = match cloud {
            CloudKind::Local => AwsOptions::default(),
            CloudKind::Aws => args.aws.clone().or(file.aws),
        };
        aws.check()?;
        Ok(Self {
            state_dir: absolute(&args.state_dir.clone().unwrap_or_else(|| environment.state_dir(cloud)))?,
            socket,
            cloud_dir: absolute(args.cloud_dir.as_deref().unwrap_or(Path::new(places::CLOUD_DIR)))?,
            agent_binary: absolute(&args.agent.clone().unwrap_or(agent_beside_this_executable()?))?,
            cloud,
            aws,
        })
    }

    /// What a coordinator must be told about its cloud; says at once all that is missing.
    pub fn check_complete(&self) -> Result<(), Error> {
        match self.cloud {
            CloudKind::Local => Ok(()),
            CloudKind::Aws => self.aws.complete().map(drop),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path)
        .map_err(|error| Error::Invalid(format!("cannot use the path {}: {error}", path.display())))
}

/// `sun_path` holds 108 bytes with its closing zero.
fn check_socket_path(path: &Path) -> Result<(), Error> {
    const LONGEST: usize = 107;
    let length = path.as_os_str().len();
    if length > LONGEST {
        let shown = path.display();
        return Err(Error::Invalid(format!(
            "the socket path {shown} has {length} bytes, a Unix socket takes {LONGEST}; choose a shorter one with --socket"
        )));
    }
    Ok(())
}

fn agent_beside_this_executable() -> Result<PathBuf, Error> {
    let executable = std::env::current_exe()
        .map_err(|error| Error::Internal(format!("cannot find the path of this executable: {error}")))?;
    Ok(executable.with_file_name("ec2mpi-agent"))
}

/// `90`, `90s`, `15m`, `2h`: a whole number with a unit, seconds if there is none.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(split) => text.split_at(split),
        None => (text, "s"),
    };
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{text:?} is not a time; write 90s, 15m or 2h")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a time; write 90s, 15m or 2h"))?;
    let seconds = number.checked_mul(scale).filter(|s| *s <= 365 * 24 * 3600);
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{text:?} is more than a year"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(socket: &str) -> GlobalArgs {
        GlobalArgs {
            state_dir: Some("/s".into()),
            socket: Some(socket.into()),
            cloud_dir: Some("cloud".into()),
            ..GlobalArgs::default()
        }
    }

    fn resolve(args: &GlobalArgs) -> Result<Settings, Error> {
        Settings::resolve(args, &Environment::default())
    }

    #[test]
    fn paths_become_absolute_and_the_agent_is_found_beside_the_executable() {
        let settings = resolve(&args("/run/x.sock")).unwrap();
        assert!(settings.cloud_dir.is_absolute());
        assert!(settings.agent_binary.ends_with("ec2mpi-agent"));
        let chosen = GlobalArgs { agent: Some("/opt/agent".into()), ..args("/run/x.sock") };
        assert_eq!(resolve(&chosen).unwrap().agent_binary, Path::new("/opt/agent"));
    }

    #[test]
    fn a_socket_path_that_the_kernel_would_cut_is_refused() {
        let error = resolve(&args(&format!("/{}", "x".repeat(107)))).unwrap_err();
        assert!(error.to_string().contains("--socket"), "{error}");
    }

    #[test]
    fn durations_have_units_and_a_bound() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "m", "-1", "1d", "1.5h", "99999999999999999999", "9000h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_flag_counts_more_than_the_file() {
        let home = tempfile::tempdir().unwrap();
        let environment = Environment { config_home: Some(home.path().into()), ..Environment::default() };
        std::fs::create_dir(home.path().join("ec2mpi")).unwrap();
        let text = "cloud = \"aws\"\n[aws]\nregion = \"eu-west-1\"\nbucket = \"b-1\"\n";
        std::fs::write(home.path().join("ec2mpi/config.toml"), text).unwrap();
        let aws = AwsOptions { region: Some("us-east-1".into()), ..AwsOptions::default() };
        let settings = Settings::resolve(&GlobalArgs { aws, ..args("/run/x.sock") }, &environment).unwrap();
        assert_eq!(settings.cloud, CloudKind::Aws);
        assert_eq!((settings.aws.region.as_deref(), settings.aws.bucket.as_deref()), (Some("us-east-1"), Some("b-1")));
        let local = GlobalArgs { cloud_kind: Some(CloudKind::Local), ..args("/run/x.sock") };
        let settings = Settings::resolve(&local, &environment).unwrap();
        assert_eq!((settings.cloud, settings.aws), (CloudKind::Local, AwsOptions::default()));
    }
}
