//! The connection to an API server.

use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, Write};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, Service, ServiceBuilder};

use super::proxy::{Environment, Proxy, ProxyError, proxy_for, with_port};

/// A connection that does not come about in this time is tried again.
pub const CONNECT: Duration = Duration::from_secs(10);
/// Longer than a watch may be silent, so that only a dead connection ends by it.
const READ: Duration = Duration::from_secs(295);
/// What a connection keeps of an answer that is not read yet, in bytes. hyper's own bound is 408 KiB, which each watch that
/// began with a long list holds for its life. TLS brings 16 KiB at a time, and what heads answers stays far below.
const BUFFER: usize = 32 << 10;

/// Why there is no client for a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// What it says of TLS or of the account cannot be used.
    #[error(transparent)]
    Config(#[from] kube::Error),
    /// What it, or the environment, says of a proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// A client for the cluster of `config`. It retries nothing: the loops know what is worth it.
///
/// This is kube's own stack (`ClientBuilder::try_from`) but for the size of buffers, the choice of a proxy, and without
/// spans of its own. `config.proxy_url` must be `proxy-url` of the kubeconfig and nothing of the environment, which is
/// read here: kube takes the one for the other, and holds `NO_PROXY` against the proxy's name instead of the server's.
///
/// # Errors
/// When what the configuration says of TLS, of the account or of a proxy cannot be used.
pub fn connect(config: Config) -> Result<Client, ConnectError> {
    connect_in(config, &Environment::of_process())
}

fn connect_in(mut config: Config, environment: &Environment) -> Result<Client, ConnectError> {
    let mut plain = HttpConnector::new();
    plain.enforce_http(false);
    let of_kubeconfig = config.proxy_url.take().map(|proxy| proxy.to_string());
    let proxy = proxy_for(&config.cluster_url, of_kubeconfig.as_deref(), environment)?;
    if proxy.is_some() && config.cluster_url.scheme_str() == Some("http") {
        // Tunnels are dug to port 443 where none is named.
        config.cluster_url = with_port(&config.cluster_url, 80);
    }
    match proxy {
        None => Ok(client(config, plain)?),
        Some(Proxy::Http { address, authorization }) if address.scheme_str() == Some("https") => {
            // As kubectl does, the proxy is held to the authority of the cluster where the kubeconfig names one.
            let secure = config.rustls_https_connector_with_connector(plain)?;
            Ok(client(config, authorized(Tunnel::new(address, secure), authorization))?)
        }
        Some(Proxy::Http { address, authorization }) => {
            Ok(client(config, authorized(Tunnel::new(address, plain), authorization))?)
        }
        Some(Proxy::Socks5 { address, account }) => {
            let socks = SocksV5::new(address, plain);
            let socks = match account {
                Some((name, password)) => socks.with_auth(name, password),
                None => socks,
            };
            Ok(client(config, socks)?)
        }
    }
}

fn authorized<C>(tunnel: Tunnel<C>, authorization: Option<hyper::header::HeaderValue>) -> Tunnel<C> {
    match authorization {
        Some(value) => tunnel.with_auth(value),
        None => tunnel,
    }
}

/// A client whose connections begin as `dial` begins them.
fn client<C>(config: Config, dial: C) -> kube::Result<Client>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: std::error::Error + Send + Sync + 'static,
{
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(dial)?);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_read_timeout(Some(READ));
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: HttpClient<_, Body> =
        HttpClient::builder(TokioExecutor::new()).http1_max_buf_size(BUFFER).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn config(uri: &str) -> Config {
        crate::tls::crypto::install();
        Config::new(uri.parse().unwrap())
    }

    #[tokio::test]
    async fn an_answer_may_be_much_longer_than_the_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = "x".repeat(100 * BUFFER + 1);
        let sent = text.clone();
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let read = connection.read(&mut request).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", sent.len());
            connection.write_all(head.as_bytes()).await.unwrap();
            connection.write_all(sent.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let client = connect(config(&format!("http://{address}/under"))).unwrap();
        let request = hyper::Request::get("/api/v1/nodes").body(Vec::new()).unwrap();
        assert_eq!(client.request_text(request).await.unwrap(), text);
        let asked = server.await.unwrap();
        assert!(asked.starts_with("GET /under/api/v1/nodes HTTP/1.1\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_proxy_that_cannot_be_used_is_named() {
        let mut config = config("https://api.example:6443");
        config.proxy_url = Some("ftp://proxy.example:3128".parse().unwrap());
        let error = connect(config).err().unwrap().to_string();
        assert!(error.contains("proxy.example:3128"), "{error}");
    }

    /// What a proxy was asked for by a client, up to the end of the head.
    async fn asked_of_proxy(server: &str, variable: fn(String) -> Environment) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let client = connect_in(config(server), &variable(format!("http://me:secret@{proxy}"))).unwrap();
        let asking = tokio::spawn(async move {
            client.request_text(hyper::Request::get("/api/v1/nodes").body(Vec::new()).unwrap()).await
        });
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let read = connection.read(&mut head).await.unwrap();
        connection.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
        drop(connection);
        assert!(asking.await.unwrap().is_err());
        String::from_utf8_lossy(&head[..read]).into_owned()
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_by_name_and_port() {
        let https = |proxy| Environment { https: Some(proxy), ..Environment::default() };
        let head = asked_of_proxy("https://api.example", https).await;
        assert!(head.starts_with("CONNECT api.example:443 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0"), "{head}");
        let http = |proxy| Environment { http: Some(proxy), ..Environment::default() };
        let head = asked_of_proxy("http://api.example", http).await;
        assert!(head.starts_with("CONNECT api.example:80 HTTP/1.1\r\n"), "{head}");
    }
}
