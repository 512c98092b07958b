//! The connection to an API server.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// A connection that does not come about in this time is tried again.
pub const CONNECT: Duration = Duration::from_secs(10);
/// Longer than a watch may be silent, so that only a dead connection ends by it.
const READ: Duration = Duration::from_secs(295);
/// What a connection keeps of an answer that is not read yet, in bytes. hyper's own bound is 408 KiB, which each watch that
/// began with a long list holds for its life. TLS brings 16 KiB at a time, and what heads answers stays far below.
const BUFFER: usize = 32 << 10;

/// A client for the cluster of `config`. It retries nothing: the loops know what is worth it.
///
/// This is kube's own stack (`ClientBuilder::try_from`) but for the size of buffers, and without spans of its own.
///
/// # Errors
/// When what the configuration says of TLS or of the account cannot be used, or when it names a proxy.
pub fn connect(config: Config) -> kube::Result<Client> {
    if let Some(proxy) = config.proxy_url {
        return Err(kube::Error::ProxyProtocolUnsupported { proxy_url: Box::new(proxy) });
    }
    let mut plain = HttpConnector::new();
    plain.enforce_http(false);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(plain)?);
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
    async fn a_proxy_is_refused_by_name() {
        let mut config = config("https://127.0.0.1:1");
        config.proxy_url = Some("http://proxy.example:3128".parse().unwrap());
        let error = connect(config).err().unwrap().to_string();
        assert!(error.contains("proxy.example:3128"), "{error}");
    }
}
