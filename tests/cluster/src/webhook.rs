//! A small admission webhook inside of a test, over real TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::{Authority, Cluster, Identity};

/// Answers a path and the `request` of an AdmissionReview with its `response`, without `uid`.
type Handler = dyn Fn(&str, &Value) -> Value + Send + Sync;

/// An admission webhook that the API server of a [`Cluster`] can reach. It ends when dropped.
pub struct Webhook {
    address: SocketAddr,
    authority: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    task: JoinHandle<()>,
}

impl Webhook {
    /// Listens where the cluster's API server can reach it.
    pub async fn serve(
        cluster: &Cluster,
        handler: impl Fn(&str, &Value) -> Value + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::serve_as(cluster, &[], handler).await
    }

    /// The same with a certificate that names these too, such as `service.namespace.svc`.
    pub async fn serve_as(
        cluster: &Cluster,
        names: &[&str],
        handler: impl Fn(&str, &Value) -> Value + Send + Sync + 'static,
    ) -> Result<Self> {
        let authority = Authority::new("webhook")?;
        let acceptor = acceptor(&authority.server(&[&[cluster.host_address()], names].concat())?)?;
        let listener = TcpListener::bind((cluster.host_address(), 0)).await?;
        let address = listener.local_addr()?;
        let (seen, handler): (Arc<Mutex<Vec<_>>>, Arc<Handler>) = (Arc::default(), Arc::new(handler));
        let task = tokio::spawn(accept(listener, acceptor, handler, Arc::clone(&seen)));
        Ok(Self { address, authority: authority.certificate().to_owned(), seen, task })
    }

    /// The `clientConfig` of a webhook configuration that calls this server under `path`.
    #[must_use]
    pub fn client_config(&self, path: &str) -> Value {
        json!({ "url": format!("https://{}{path}", self.address), "caBundle": STANDARD.encode(&self.authority) })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate, in PEM, of the authority that signed its own.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The paths and requests that came in so far, oldest first.
    #[must_use]
    pub fn seen(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A response that allows and patches: `patch` is a JSON Patch.
#[must_use]
pub fn patched(patch: &Value) -> Value {
    json!({ "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()) })
}

fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    let certificates = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(certificates, key)?)))
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, handler, seen) = (acceptor.clone(), Arc::clone(&handler), Arc::clone(&seen));
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&handler, &seen, request));
            if let Ok(stream) = acceptor.accept(stream).await {
                // The API server drops idle connections as it likes.
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            }
        });
    }
}

async fn answer(
    handler: &Arc<Handler>,
    seen: &Mutex<Vec<(String, Value)>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>> {
    let path = request.uri().path().to_owned();
    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let admission = review.get("request").context("no AdmissionReview")?;
    seen.lock().unwrap_or_else(PoisonError::into_inner).push((path.clone(), admission.clone()));
    let mut response = handler(&path, admission);
    response["uid"] = admission["uid"].clone();
    let body = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
    let answer = Response::builder().status(StatusCode::OK).header("content-type", "application/json");
    Ok(answer.body(Full::new(Bytes::from(body.to_string())))?)
}
