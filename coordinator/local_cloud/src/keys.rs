//! Who may sign requests: the owner of the cloud for good, and the role of a machine for some hours.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bucket::{KeyGrant, KeySource};
use crate::durable::{self, Outlive};
use crate::fleet::InstanceId;
use crate::settings::{self, Settings};

/// Temporary credentials of a machine.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RoleKey {
    instance: InstanceId,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) session_token: String,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

impl std::fmt::Debug for RoleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleKey")
            .field("instance", &self.instance)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// All keys of one cloud; those of roles are in a file, so that machines outlive the cloud with theirs.
#[derive(Debug)]
pub(crate) struct Keys {
    owner: Owner,
    role_ttl: SignedDuration,
    file: PathBuf,
    roles: Mutex<BTreeMap<String, RoleKey>>,
}

struct Owner {
    access_key: String,
    secret_key: String,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owner").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

impl Keys {
    /// The owner's key from `settings`, and what `file` still holds.
    pub(crate) fn open(settings: &Settings, file: PathBuf, role_ttl: SignedDuration) -> io::Result<Self> {
        let roles = durable::load(&file)?.unwrap_or_default();
        let owner = Owner { access_key: settings.access_key.clone(), secret_key: settings.secret_key.clone() };
        Ok(Self { owner, role_ttl, file, roles: Mutex::new(roles) })
    }

    /// The secret of the owner's key; none for any other key.
    pub(crate) fn owner_secret(&self, access_key: &str) -> Option<&str> {
        (access_key == self.owner.access_key).then_some(self.owner.secret_key.as_str())
    }

    /// The credentials of the machine's role: the same ones until half of their time is over, then new ones.
    /// Old ones stay valid until they expire.
    pub(crate) fn role_key(&self, instance: &InstanceId, now: Timestamp) -> io::Result<RoleKey> {
        let mut roles = self.roles.lock();
        let fresh = roles.values().find(|key| &key.instance == instance && is_fresh(key, now));
        if let Some(key) = fresh {
            return Ok(key.clone());
        }
        let key = self.issue(instance, now);
        roles.retain(|_, key| key.expires_at > now);
        roles.insert(key.access_key.clone(), key.clone());
        durable::save(&self.file, &*roles, Outlive::Process)?;
        Ok(key)
    }

    fn issue(&self, instance: &InstanceId, now: Timestamp) -> RoleKey {
        RoleKey {
            instance: instance.clone(),
            access_key: settings::access_key("ASIA"),
            secret_key: hex::encode(settings::random::<20>()),
            session_token: hex::encode(settings::random::<48>()),
            issued_at: now,
            expires_at: now.saturating_add(self.role_ttl).unwrap_or(Timestamp::MAX),
        }
    }
}

fn is_fresh(key: &RoleKey, now: Timestamp) -> bool {
    let age = now.duration_since(key.issued_at);
    let life = key.expires_at.duration_since(key.issued_at);
    age * 2 < life
}

impl KeySource for Keys {
    fn secret(&self, access_key: &str) -> Option<KeyGrant> {
        if let Some(secret) = self.owner_secret(access_key) {
            return Some(KeyGrant { secret: secret.to_owned(), session_token: None, expires_at: None });
        }
        self.roles.lock().get(access_key).map(|key| KeyGrant {
            secret: key.secret_key.clone(),
            session_token: Some(key.session_token.clone()),
            expires_at: Some(SystemTime::from(key.expires_at)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use crate::settings::Options;

    fn keys(dir: &tempfile::TempDir) -> Keys {
        let layout = Layout::create(dir.path()).unwrap();
        let settings = Settings::load_or_create(&layout, &Options::default()).unwrap();
        Keys::open(&settings, layout.role_keys(), SignedDuration::from_secs(100)).unwrap()
    }

    #[test]
    fn role_keys_are_renewed_at_half_time_and_expire() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(&dir);
        let id = InstanceId::random();
        let start = Timestamp::now();
        let after = |seconds| start + SignedDuration::from_secs(seconds);
        let first = keys.role_key(&id, start).unwrap();
        assert_eq!(keys.role_key(&id, after(49)).unwrap().access_key, first.access_key);
        let second = keys.role_key(&id, after(50)).unwrap();
        assert_ne!(second.access_key, first.access_key);
        let grant = keys.secret(&first.access_key).unwrap();
        assert_eq!(grant.session_token.as_deref(), Some(first.session_token.as_str()));
        assert_eq!(grant.expires_at, Some(SystemTime::from(after(100))));
    }

    #[test]
    fn role_keys_outlive_the_process_and_machines_have_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (InstanceId::random(), InstanceId::random());
        let now = Timestamp::now();
        let first = keys(&dir).role_key(&one, now).unwrap();
        let again = keys(&dir);
        assert_eq!(again.role_key(&one, now).unwrap().secret_key, first.secret_key);
        assert_ne!(again.role_key(&two, now).unwrap().secret_key, first.secret_key);
        assert!(again.secret("AKIANOBODY").is_none());
    }
}
