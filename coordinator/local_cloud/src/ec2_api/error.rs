//! EC2's errors: a code that clients branch on, a message for people.

use std::borrow::Cow;
use std::fmt::Display;

use axum::http::StatusCode;
use quick_xml::escape::escape;

/// One error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), message: message.into() }
    }

    /// A parameter that must be there is not.
    pub(crate) fn missing(name: &str) -> Self {
        Self::new("MissingParameter", format!("The request must contain the parameter {name}"))
    }

    /// A parameter is there and wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    /// As a fault wants it; the code may be any.
    pub(crate) fn on_request(code: String) -> Self {
        Self { code: Cow::Owned(code), message: "A fault was asked for (`ec2mpi cloud fault list`).".to_owned() }
    }

    pub(crate) fn throttled() -> Self {
        Self::new("RequestLimitExceeded", "Request limit exceeded.")
    }

    pub(crate) fn too_long() -> Self {
        Self::new("RequestEntityTooLarge", "The request is too long.")
    }

    /// The local cloud itself failed; the cause is in its log.
    pub(crate) fn internal(error: &dyn Display) -> Self {
        tracing::error!(%error, "internal error");
        Self::new("InternalError", "An internal error has occurred")
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self.code.as_ref() {
            "AuthFailure" => StatusCode::UNAUTHORIZED,
            "SignatureDoesNotMatch" | "UnauthorizedOperation" => StatusCode::FORBIDDEN,
            "DryRunOperation" => StatusCode::PRECONDITION_FAILED,
            "InternalError" | "InsufficientInstanceCapacity" => StatusCode::INTERNAL_SERVER_ERROR,
            "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    pub(crate) fn to_xml(&self, request_id: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{}</Code><Message>{}</Message>\
             </Error></Errors><RequestID>{request_id}</RequestID></Response>",
            escape(self.code.as_ref()),
            escape(self.message.as_str()),
        )
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<quick_xml::SeError> for ApiError {
    fn from(error: quick_xml::SeError) -> Self {
        Self::internal(&error)
    }
}
