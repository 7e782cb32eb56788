//! The one table from what EC2 says to what it means. Source: "Error codes for the Amazon EC2 API", EC2 API reference.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::error::display::DisplayErrorContext;

use super::super::ProviderError;

/// What a failed call means.
pub(super) fn of_call<E>(error: &SdkError<E, HttpResponse>) -> ProviderError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    if let SdkError::ServiceError(answer) = error {
        let metadata = answer.err().meta();
        let status = answer.raw().status().as_u16();
        return of_code(metadata.code(), status, metadata.message().unwrap_or("no reason given"));
    }
    let text = DisplayErrorContext(error).to_string();
    if lacks_credentials(error) {
        return ProviderError::Unauthorized(text);
    }
    match error {
        SdkError::ConstructionFailure(_) => ProviderError::Refused(text),
        // Sent or not: an earlier attempt may have arrived though this one did not.
        _ => ProviderError::Unknown(text),
    }
}

fn lacks_credentials(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<CredentialsError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Signatures count for some minutes around their time.
fn is_about_time(code: Option<&str>, message: &str) -> bool {
    code == Some("RequestExpired") || message.contains("Signature expired") || message.contains("not yet current")
}

/// What EC2's code, or the bare HTTP status where there is none, means.
pub(super) fn of_code(code: Option<&str>, status: u16, message: &str) -> ProviderError {
    let text = code.map_or_else(|| format!("HTTP {status}: {message}"), |code| format!("{code}: {message}"));
    let hint = if is_about_time(code, message) { " (is the clock of this machine right?)" } else { "" };
    let text = format!("{text}{hint}");
    match code.unwrap_or_default() {
        "InsufficientInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientCapacityOnHost"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientAddressCapacity"
        | "InsufficientFreeAddressesInSubnet"
        | "InsufficientVolumeCapacity"
        | "ReservationCapacityExceeded"
        | "SpotMaxPriceTooLow" => ProviderError::Capacity(text),

        "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "EC2ThrottledException"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded"
        | "SlowDown" => ProviderError::Throttled(text),

        "AccessDenied"
        | "AccessDeniedException"
        | "AuthFailure"
        | "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
        | "Blocked"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSecurityToken"
        | "MissingAuthenticationToken"
        | "NotAuthorized"
        | "OptInRequired"
        | "PendingVerification"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "UnauthorizedOperation"
        | "UnrecognizedClientException"
        | "ValidationError.AccessDenied" => ProviderError::Unauthorized(text),

        // The second: a launch repeated after its machines have ended.
        "InvalidInstanceID.NotFound" | "IdempotentInstanceTerminated" => ProviderError::Gone(text),

        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "RequestTimeout"
        | "ServiceUnavailable"
        | "Unavailable" => ProviderError::Unknown(text),

        // Among these: limits of the account (InstanceLimitExceeded, VcpuLimitExceeded, MaxSpotInstanceCountExceeded),
        // IdempotentParameterMismatch, Unsupported, Invalid….NotFound, Invalid…, Missing…, Unknown….
        _ if status == 429 => ProviderError::Throttled(text),
        _ if status == 401 || status == 403 => ProviderError::Unauthorized(text),
        _ if status >= 500 => ProviderError::Unknown(text),
        _ => ProviderError::Refused(text),
    }
}
