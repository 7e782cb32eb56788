//! Who may sign requests. `s3s` checks signatures; here are the secrets, the session tokens and the expiry.

use std::sync::Arc;
use std::time::SystemTime;

use percent_encoding::percent_decode_str;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use super::{KeyGrant, KeySource};

/// The header of a session token; in presigned URLs it is a parameter, in another case.
const TOKEN: &str = "x-amz-security-token";

#[derive(Clone)]
pub(super) struct Keys(pub(super) Arc<dyn KeySource>);

impl Keys {
    fn grant(&self, access_key: &str) -> S3Result<KeyGrant> {
        let grant = self.0.secret(access_key).ok_or_else(|| {
            s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records.")
        })?;
        if grant.expires_at.is_some_and(|expiry| expiry <= SystemTime::now()) {
            return Err(s3_error!(ExpiredToken, "The provided token has expired."));
        }
        Ok(grant)
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        Ok(self.grant(access_key)?.secret.into())
    }
}

#[async_trait::async_trait]
impl S3Access for Keys {
    /// Every key may do everything; a temporary one only together with its token.
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = context.credentials() else {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        };
        let grant = self.grant(&credentials.access_key)?;
        let header = context.headers().get(TOKEN).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let given = header.or_else(|| query_token(context.uri().query()?));
        if given == grant.session_token {
            Ok(())
        } else {
            Err(s3_error!(InvalidToken, "The provided token is malformed or otherwise invalid."))
        }
    }
}

/// The session token in a query string.
fn query_token(query: &str) -> Option<String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case(TOKEN))
        .and_then(|(_, value)| Some(percent_decode_str(value).decode_utf8().ok()?.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct One(Option<SystemTime>);

    impl KeySource for One {
        fn secret(&self, access_key: &str) -> Option<KeyGrant> {
            let grant = KeyGrant { secret: "s".into(), session_token: None, expires_at: self.0 };
            (access_key == "known").then_some(grant)
        }
    }

    #[test]
    fn unknown_and_expired_keys_are_refused() {
        let now = SystemTime::now();
        let code = |expiry, key: &str| Keys(Arc::new(One(expiry))).grant(key).map_err(|e| e.code().clone()).err();
        assert_eq!(code(None, "known"), None);
        assert_eq!(code(Some(now + Duration::from_secs(60)), "known"), None);
        assert_eq!(code(Some(now), "known"), Some(s3s::S3ErrorCode::ExpiredToken));
        assert_eq!(code(None, "other"), Some(s3s::S3ErrorCode::InvalidAccessKeyId));
    }

    #[test]
    fn tokens_in_query_strings() {
        assert_eq!(query_token("a=b&X-Amz-Security-Token=a%2Fb%3D%3D&c"), Some("a/b==".into()));
        assert_eq!(query_token("a=b"), None);
    }
}
