//! What can go wrong in the coordinator, and the one table that turns it into a gRPC status.

/// Each message says what happened, to which cluster or node, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Exists(String),
    #[error("{0}")]
    NotNow(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Denied(String),
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<crate::provider::ProviderError> for Error {
    fn from(error: crate::provider::ProviderError) -> Self {
        use crate::provider::ProviderError as P;
        let message = error.to_string();
        match error {
            P::Capacity(_) | P::Throttled(_) | P::Unknown(_) => Self::Unreachable(message),
            P::Refused(_) => Self::Invalid(message),
            P::Unauthorized(_) => Self::Denied(message),
            P::Gone(_) => Self::NotFound(message),
        }
    }
}

impl From<crate::identity::IdentityError> for Error {
    fn from(error: crate::identity::IdentityError) -> Self {
        use crate::identity::IdentityError as I;
        let message = error.to_string();
        match error {
            I::Malformed { .. } => Self::Invalid(message),
            I::Untrusted { .. } => Self::Denied(message),
            I::Making { .. } => Self::Internal(message),
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Invalid(_) => Self::invalid_argument(message),
            Error::NotFound(_) => Self::not_found(message),
            Error::Exists(_) => Self::already_exists(message),
            Error::NotNow(_) => Self::failed_precondition(message),
            Error::Unreachable(_) => Self::unavailable(message),
            Error::Denied(_) => Self::permission_denied(message),
            Error::Internal(_) => Self::internal(message),
        }
    }
}
