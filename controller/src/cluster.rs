//! How the API server of the cluster is reached: configuration, credentials, TLS. Owns connections and their time
//! limits; knows nothing of what is asked.

use std::path::Path;
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::{BoxError, Service, ServiceBuilder};

/// Time for a TCP connection. The kernel would repeat its first packet after a second; we try again instead.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection without a request is kept: long enough for the pages of a list, and so short that no load
/// balancer forgets the connection before we do.
const POOL_IDLE: Duration = Duration::from_secs(10);
/// Silence on a connection after which the kernel asks whether the other end is there.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Why there is no way to an API server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The file that the user named is not usable.
    #[error("cannot use the kubeconfig {path}: {error}")]
    Kubeconfig {
        /// As given.
        path: String,
        /// What is wrong.
        error: Box<kube::config::KubeconfigError>,
    },
    /// Nothing says where the API server is.
    #[error(
        "no API server is configured ({0}); name a file with --kubeconfig or $KUBECONFIG, or run in a cluster"
    )]
    Unconfigured(Box<kube::config::InferConfigError>),
    /// Certificates, keys or credentials of the configuration are not usable.
    #[error("cannot use the credentials of the API server's configuration: {0}")]
    Credentials(Box<kube::Error>),
    /// We speak to API servers directly.
    #[error("the configuration names a proxy ({0}), which is not supported")]
    Proxy(Uri),
}

/// Reads the configuration: the file `kubeconfig`, else those of `$KUBECONFIG` or `~/.kube/config`, else the service
/// account of the Pod.
///
/// # Errors
/// If there is none, or it cannot be used.
pub async fn configuration(kubeconfig: Option<&Path>) -> Result<kube::Config, ClusterError> {
    let options = KubeConfigOptions::default();
    let Some(path) = kubeconfig else {
        return kube::Config::infer().await.map_err(|error| ClusterError::Unconfigured(Box::new(error)));
    };
    let failed =
        |error| ClusterError::Kubeconfig { path: path.display().to_string(), error: Box::new(error) };
    let content = Kubeconfig::read_from(path).map_err(failed)?;
    kube::Config::from_custom_kubeconfig(content, &options).await.map_err(failed)
}

/// A client for `config`. It neither repeats requests nor logs them: whoever asks decides on that. Its connections live
/// on the tokio runtime that this is called on.
///
/// # Errors
/// If certificates, keys or credentials cannot be used.
pub fn client(config: &kube::Config) -> Result<kube::Client, ClusterError> {
    client_over(config, |connector| connector)
}

/// As [`client`], over connections that `wrap` makes of ours.
pub(crate) fn client_over<C>(
    config: &kube::Config,
    wrap: impl FnOnce(HttpConnector) -> C,
) -> Result<kube::Client, ClusterError>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    if let Some(proxy) = &config.proxy_url {
        return Err(ClusterError::Proxy(proxy.clone()));
    }
    let credentials = |error| ClusterError::Credentials(Box::new(error));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let connector = config.rustls_https_connector_with_connector(wrap(connector)).map_err(credentials)?;
    let connections = HttpClient::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_timer(TokioTimer::new())
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(credentials)?)
        .layer(config.extra_headers_layer().map_err(credentials)?)
        .map_err(BoxError::from)
        .service(connections);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}
