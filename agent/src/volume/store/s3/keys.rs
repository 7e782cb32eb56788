//! Where the keys come from. Keys that do not say when they end are looked for again every minute, so that new ones are
//! taken without a new mount.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, ConfigLoader};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};

/// How long keys without an end are used before they are looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Where the keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// The SDK's chain: environment, profile, IMDS and so on.
    Chain {
        /// The profile, when it is not the default one.
        profile: Option<String>,
    },
    /// A file of s3fs: `[BUCKET:]ACCESS:SECRET` a line.
    PasswdFile {
        /// The file; nobody but its owner and group may read it.
        path: PathBuf,
        /// The lines of this bucket come first.
        bucket: String,
    },
    /// Requests are not signed.
    None,
}

impl Default for Keys {
    fn default() -> Self {
        Self::Chain { profile: None }
    }
}

impl Keys {
    pub(super) fn into_loader(self, loader: ConfigLoader) -> ConfigLoader {
        match self {
            Self::None => loader.no_credentials(),
            Self::Chain { profile: Some(profile) } => {
                loader.profile_name(&profile).credentials_provider(Source(Self::Chain { profile: Some(profile) }))
            }
            keys => loader.credentials_provider(Source(keys)),
        }
    }
}

/// Keys that are not [`Keys::None`].
#[derive(Debug)]
struct Source(Keys);

impl Source {
    async fn look(&self) -> provider::Result {
        let mut keys = match &self.0 {
            Keys::Chain { profile } => from_chain(profile.as_deref()).await?,
            Keys::PasswdFile { path, bucket } => {
                from_file(path, bucket).map_err(CredentialsError::invalid_configuration)?
            }
            Keys::None => return Err(CredentialsError::not_loaded("no keys are wanted")),
        };
        if keys.expiry().is_none() {
            *keys.expiry_mut() = Some(SystemTime::now() + LOOK_AGAIN);
        }
        Ok(keys)
    }
}

impl ProvideCredentials for Source {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.look())
    }
}

/// A chain made anew: the SDK's own reads its files once.
async fn from_chain(profile: Option<&str>) -> provider::Result {
    // The region plays no part, and naming one keeps it from being asked for.
    let region = aws_config::Region::new(super::DEFAULT_REGION);
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(super::http_client()).region(region);
    if let Some(profile) = profile {
        loader = loader.profile_name(profile);
    }
    let shared = loader.load().await;
    let chain = shared.credentials_provider().ok_or_else(|| CredentialsError::not_loaded("the SDK has no chain"))?;
    chain.provide_credentials().await
}

fn from_file(path: &Path, bucket: &str) -> Result<Credentials, String> {
    let name = path.display();
    let mode = std::fs::metadata(path).map_err(|error| format!("{name}: {error}"))?.permissions().mode();
    if mode & 0o027 != 0 {
        return Err(format!("{name} may be read by others: chmod 600 or 640"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let (access, secret) = parse(&text, bucket).ok_or_else(|| format!("{name} has no keys for the bucket {bucket}"))?;
    Ok(Credentials::new(access, secret, None, None, "passwd_file"))
}

/// The keys of the bucket, or those of no bucket.
fn parse<'a>(text: &'a str, bucket: &str) -> Option<(&'a str, &'a str)> {
    let mut general = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split(':').collect::<Vec<_>>()[..] {
            [name, access, secret] if name == bucket => return Some((access, secret)),
            [access, secret] => general = general.or(Some((access, secret))),
            _ => {}
        }
    }
    general
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_bucket_comes_first() {
        let text = "# keys\n\nAK:SK\nother:AO:SO\nmine:AM:SM\n";
        assert_eq!(parse(text, "mine"), Some(("AM", "SM")));
        assert_eq!(parse(text, "none"), Some(("AK", "SK")));
        assert_eq!(parse("other:AO:SO", "none"), None);
    }

    #[tokio::test]
    async fn a_file_is_read_again_and_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("AK:SK", 0o644);
        let source = Source(Keys::PasswdFile { path: path.clone(), bucket: "b".into() });
        let error = source.provide_credentials().await.unwrap_err();
        assert!(matches!(error, CredentialsError::InvalidConfiguration(_)), "{error:?}");
        for (text, access) in [("AK:SK", "AK"), ("AN:SN", "AN")] {
            write(text, 0o600);
            let keys = source.provide_credentials().await.unwrap();
            assert_eq!(keys.access_key_id(), access);
            assert!(keys.expiry().unwrap() <= SystemTime::now() + LOOK_AGAIN);
        }
    }
}
