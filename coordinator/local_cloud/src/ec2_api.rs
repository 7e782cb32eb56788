//! The EC2 Query API: the actions that the product calls, with EC2's own answers to bad requests.
//!
//! One file an action. An action is a plain function from parameters to XML; it may block.

mod answer;
mod catalogue;
mod create_tags;
mod delete_tags;
mod describe_instance_attribute;
mod describe_instance_types;
mod describe_instances;
mod describe_tags;
mod error;
mod filter;
mod get_console_output;
mod params;
mod reboot_instances;
mod run_instances;
mod signature;
mod terminate_instances;

#[cfg(test)]
mod testing;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use jiff::Timestamp;
use tokio::net::TcpListener;

use crate::faults::{Ec2Failure, Effect};
use crate::fleet::{Fleet, Machines};
use crate::http_server::{self, Answers};
use crate::keys::Keys;
pub(crate) use answer::dns_name;
use error::ApiError;
use params::Params;

/// The longest request: user-data in base64, form-encoded, and a thousand ids or tags fit.
const BODY_LIMIT: usize = 1024 * 1024;

/// What actions work on.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) machines: Box<dyn Machines>,
    pub(crate) keys: Arc<Keys>,
    /// Cores of a `local.machine`.
    pub(crate) slots: u32,
}

/// Serves the API on every path until `shutdown` is done.
pub(crate) async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    http_server::serve(listener, Edge(api), shutdown).await
}

#[derive(Debug, Clone)]
struct Edge(Arc<Api>);

impl Service<Request<Incoming>> for Edge {
    type Response = Response;
    type Error = Unanswered;
    type Future = BoxFuture<'static, Result<Response, Unanswered>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(handle(Arc::clone(&self.0), request.map(Body::new)))
    }
}

impl Answers for Edge {
    type Out = Body;
}

/// The request was done, and a fault wants nobody to hear of it.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost by a fault")]
struct Unanswered;

async fn handle(api: Arc<Api>, request: Request<Body>) -> Result<Response, Unanswered> {
    let request_id = uuid::Uuid::new_v4().to_string();
    let (status, body) = match respond(api, request, &request_id).await {
        Ok(Some(body)) => (StatusCode::OK, body),
        Ok(None) => return Err(Unanswered),
        Err(error) => (error.status(), error.to_xml(&request_id)),
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml;charset=UTF-8"));
    Ok((status, headers, body).into_response())
}

/// The answer; none when it is to be lost.
async fn respond(api: Arc<Api>, request: Request<Body>, request_id: &str) -> Result<Option<String>, ApiError> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_LIMIT).await.map_err(|_| ApiError::too_long())?;
    let now = Timestamp::now();
    signature::verify(&parts, &body, &api.keys, now)?;
    let params = Params::parse(parts.uri.query().unwrap_or_default(), &body)?;
    let action = params.take_action()?;
    match api.fleet.faults().of_request(&action, now) {
        None => act(api, action, params, request_id).await.map(Some),
        Some(Effect::Throttled) => Err(ApiError::throttled()),
        Some(Effect::Fails(Ec2Failure::Refused { code })) => Err(ApiError::on_request(code)),
        Some(Effect::Fails(Ec2Failure::Unanswered)) => {
            drop(act(api, action, params, request_id).await);
            Ok(None)
        }
        Some(Effect::Fails(Ec2Failure::FalseAlarm)) => {
            act(api, action, params, request_id).await?;
            Err(ApiError::on_request("InternalError".to_owned()))
        }
    }
}

async fn act(api: Arc<Api>, action: String, params: Params, request_id: &str) -> Result<String, ApiError> {
    let id = request_id.to_owned();
    let started = std::time::Instant::now();
    let result = tokio::task::spawn_blocking({
        let action = action.clone();
        move || dispatch(&api, &action, &params, &id)
    })
    .await
    .map_err(|error| ApiError::internal(&error))?;
    let code = result.as_ref().err().map(|error| error.code.as_ref().to_owned());
    let took_ms = started.elapsed().as_millis();
    // Clients ask again and again how things are: that is no news.
    if action.starts_with("Describe") && code.is_none() {
        tracing::debug!(action, took_ms, request_id, "ec2 request");
    } else {
        tracing::info!(action, code, took_ms, request_id, "ec2 request");
    }
    result
}

fn dispatch(api: &Api, action: &str, params: &Params, request_id: &str) -> Result<String, ApiError> {
    match action {
        "RunInstances" => answer::xml(action, request_id, &run_instances::run(api, params)?),
        "DescribeInstances" => answer::xml(action, request_id, &describe_instances::run(api, params)?),
        "TerminateInstances" => answer::xml(action, request_id, &terminate_instances::run(api, params)?),
        "RebootInstances" => answer::xml(action, request_id, &reboot_instances::run(api, params)?),
        "CreateTags" => answer::xml(action, request_id, &create_tags::run(api, params)?),
        "DeleteTags" => answer::xml(action, request_id, &delete_tags::run(api, params)?),
        "DescribeTags" => answer::xml(action, request_id, &describe_tags::run(api, params)?),
        "DescribeInstanceTypes" => answer::xml(action, request_id, &describe_instance_types::run(api, params)?),
        "DescribeInstanceAttribute" => answer::xml(action, request_id, &describe_instance_attribute::run(api, params)?),
        "GetConsoleOutput" => answer::xml(action, request_id, &get_console_output::run(api, params)?),
        "DescribeRegions" => answer::xml(action, request_id, &catalogue::regions()),
        "DescribeAvailabilityZones" => answer::xml(action, request_id, &catalogue::zones()),
        "DescribeSubnets" => answer::xml(action, request_id, &catalogue::subnets(api, params)?),
        "DescribeSecurityGroups" => answer::xml(action, request_id, &catalogue::security_groups(params)?),
        "DescribeImages" => answer::xml(action, request_id, &catalogue::images(params)?),
        _ => Err(ApiError::new("InvalidAction", format!("The action {action} is not valid for this web service."))),
    }
}
