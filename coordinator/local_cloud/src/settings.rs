//! What a cloud decided at its first start and keeps to, so that machines that are running find it again.

use std::io;
use std::path::{Path, PathBuf};

use rand::RngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable::{self, Outlive};
use crate::layout::Layout;
use crate::network::Cidr;

const FORMAT: u32 = 1;
const DEFAULT_SLOTS: u32 = 2;
/// On AWS mostly less than a second, now and then many.
const DEFAULT_SETTLE_MS: u32 = 100;
/// What AWS gives to the role of an instance.
const DEFAULT_ROLE_TTL: u32 = 6 * 3600;

/// Six hex digits that tell the bridges and namespaces of one cloud from those of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CloudTag(String);

impl CloudTag {
    /// Follows from the directory alone, so that a cloud whose files are lost is still cleaned up by name.
    pub(crate) fn of(layout: &Layout) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let digest = Sha256::digest(layout.root().as_os_str().as_bytes());
        Self(hex::encode(&digest[..3]))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The same digits as a number, to begin a search with.
    pub(crate) fn seed(&self) -> u32 {
        u32::from_str_radix(&self.0, 16).unwrap_or(0)
    }
}

/// Ports that were given out once; 0 is one that was not given out yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) ec2: u16,
    pub(crate) s3: u16,
    pub(crate) node_s3: u16,
    pub(crate) imds: u16,
}

/// Kept in `settings.json` (mode 0600: it holds the secret key).
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Settings {
    format: u32,
    pub(crate) network: Option<Cidr>,
    pub(crate) ports: Ports,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    /// Signs the session tokens of the instance metadata service, in hex.
    pub(crate) token_key: String,
    /// Cores of a `local.machine`.
    pub(crate) slots: u32,
    /// Life of a role's credentials, in seconds.
    pub(crate) role_ttl: u32,
    /// For how long after its launch an instance is not listed, in milliseconds.
    #[serde(default = "default_settle_ms")]
    pub(crate) settle_ms: u32,
    /// Directories of this machine that no instance may see.
    pub(crate) masks: Vec<PathBuf>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("network", &self.network)
            .field("ports", &self.ports)
            .field("slots", &self.slots)
            .field("masks", &self.masks)
            .finish_non_exhaustive()
    }
}

/// What the user may say at a start; what is left out stays as it was.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Cores of a local.machine (2 unless told otherwise).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: Option<u32>,
    /// A directory of this machine that instances must not see; may be repeated.
    #[arg(long = "mask", value_name = "DIR")]
    pub masks: Vec<PathBuf>,
    /// For how long the credentials of a role are valid, in seconds (6 hours unless told otherwise).
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(2..=43_200))]
    pub role_ttl: Option<u32>,
    /// For how long after its launch an instance is not listed yet, in milliseconds (100 unless told otherwise).
    #[arg(long = "settle", value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub settle_ms: Option<u32>,
}

impl Options {
    /// As command line arguments, for a process that is started with them.
    pub(crate) fn to_args(&self) -> Vec<std::ffi::OsString> {
        let mut args = Vec::new();
        for (name, value) in [("--slots", self.slots), ("--role-ttl", self.role_ttl), ("--settle", self.settle_ms)] {
            args.extend(value.into_iter().flat_map(|value| [name.into(), value.to_string().into()]));
        }
        for mask in &self.masks {
            args.extend(["--mask".into(), mask.clone().into_os_string()]);
        }
        args
    }
}

impl Settings {
    /// What an earlier start kept, or new ones, with `options` applied.
    pub(crate) fn load_or_create(layout: &Layout, options: &Options) -> io::Result<Self> {
        let mut settings = durable::load::<Self>(&layout.settings())?.unwrap_or_else(Self::fresh);
        if settings.format != FORMAT {
            let text = format!("{} is of another version of this program", layout.settings().display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        settings.apply(options)?;
        settings.save(layout)?;
        Ok(settings)
    }

    pub(crate) fn save(&self, layout: &Layout) -> io::Result<()> {
        durable::save(&layout.settings(), self, Outlive::Host)
    }

    fn fresh() -> Self {
        Self {
            format: FORMAT,
            network: None,
            ports: Ports::default(),
            access_key: access_key("AKIA"),
            secret_key: hex::encode(random::<20>()),
            token_key: hex::encode(random::<32>()),
            slots: DEFAULT_SLOTS,
            role_ttl: DEFAULT_ROLE_TTL,
            settle_ms: DEFAULT_SETTLE_MS,
            masks: Vec::new(),
        }
    }

    fn apply(&mut self, options: &Options) -> io::Result<()> {
        self.slots = options.slots.unwrap_or(self.slots);
        self.role_ttl = options.role_ttl.unwrap_or(self.role_ttl);
        self.settle_ms = options.settle_ms.unwrap_or(self.settle_ms);
        if !options.masks.is_empty() {
            self.masks = options.masks.iter().map(|mask| absolute(mask)).collect::<io::Result<_>>()?;
        }
        Ok(())
    }
}

fn default_settle_ms() -> u32 {
    DEFAULT_SETTLE_MS
}

/// A new access key id: the prefix AWS uses for its kind, then 16 characters.
pub(crate) fn access_key(prefix: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let tail = random::<16>().map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
    prefix.chars().chain(tail).collect()
}

/// Bytes fit for keys.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng.fill_bytes(&mut bytes);
    bytes
}

/// Without symbolic links where it exists, as the machine's own view of this disk has none of them resolved.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize().or_else(|_| std::path::absolute(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_starts_keep_what_the_first_decided() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let options = Options { slots: Some(5), masks: vec!["/srv".into()], role_ttl: Some(60), settle_ms: Some(7) };
        let first = Settings::load_or_create(&layout, &options).unwrap();
        let second = Settings::load_or_create(&layout, &Options::default()).unwrap();
        assert_eq!((second.slots, second.role_ttl, second.settle_ms, &second.masks), (5, 60, 7, &first.masks));
        assert_eq!(second.secret_key, first.secret_key);
        assert!(!format!("{second:?}").contains(&second.secret_key));
    }

    #[test]
    fn access_keys_look_like_those_of_aws() {
        let key = access_key("ASIA");
        assert_eq!(key.len(), 20);
        assert!(key.starts_with("ASIA"));
        assert_ne!(key, access_key("ASIA"));
    }
}
