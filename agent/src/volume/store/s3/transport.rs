//! The SDK's HTTP client, which learns of TLS only where a URL asks for it.
//!
//! A client with TLS begins with reading the system's 140 certificate authorities, and keeps them. That is most of the time
//! that a mount takes, and neither the metadata service nor a server in one's own network asks for it.

use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// Connections kept open between calls.
const IDLE_CONNECTIONS: usize = 192;

/// A client for `http` and `https`.
pub(super) fn client() -> SharedHttpClient {
    let plain = Builder::new().pool_max_idle_per_host(IDLE_CONNECTIONS).build_http();
    let tls = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    SharedHttpClient::new(ByScheme { plain, tls: tls.pool_max_idle_per_host(IDLE_CONNECTIONS).build_https() })
}

/// Each makes its connectors when they are first asked for, and keeps them.
#[derive(Debug)]
struct ByScheme {
    plain: SharedHttpClient,
    tls: SharedHttpClient,
}

impl HttpClient for ByScheme {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let plain = self.plain.http_connector(settings, components);
        let (settings, components) = (settings.clone(), components.clone());
        SharedHttpConnector::new(Connector { plain, tls: self.tls.clone(), settings, components })
    }
}

#[derive(Debug)]
struct Connector {
    plain: SharedHttpConnector,
    tls: SharedHttpClient,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if request.uri().starts_with("http://") {
            return self.plain.call(request);
        }
        self.tls.http_connector(&self.settings, &self.components).call(request)
    }
}
