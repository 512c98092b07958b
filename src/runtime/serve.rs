//! An HTTP/1.1 server in which nothing is unbounded: connections, handshakes, headers, idle time, shutdown.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::metrics::{Bound, HandshakeFailure, ServerMetrics};

/// After this pause accepting is tried again when the process is out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What bounds the connections of a server.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections that are open at one time; one more is closed at once.
    pub connections: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time in which a new connection must send its first request once half of the connections are in use. Until then
    /// only `idle` counts, since a Go client may keep a connection that it has dialled but not needed yet.
    pub first_request: Duration,
    /// Time between two requests, and time to send the headers of one: hyper has one timer for both.
    pub idle: Duration,
    /// Size of the read buffer of a connection, and so of its request headers, in bytes.
    pub buffer: usize,
}

impl ConnectionLimits {
    /// For a webhook.
    ///
    /// - 512 connections: an API server keeps at most 25 idle connections a host (client-go, `transport/cache.go`), so
    ///   this is 20 API servers' worth, or one at a burst of 512 reviews at once. With at most 64 KiB of buffer each,
    ///   they hold 32 MiB at worst.
    /// - 120 s idle: Go's transport drops an idle connection after 90 s, and it should be the client who does, or a
    ///   request may meet a connection that is being closed.
    #[must_use]
    pub const fn webhook() -> Self {
        Self {
            connections: 512,
            handshake: Duration::from_secs(5),
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            buffer: 64 << 10,
        }
    }

    /// For probes and scrapes: a kubelet and a few Prometheus servers, one connection each.
    #[must_use]
    pub const fn probes() -> Self {
        Self {
            connections: 64,
            handshake: Duration::from_secs(5),
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            buffer: 16 << 10,
        }
    }
}

/// How a server is told to end: first that it will, then to stop accepting, then to drop what is left.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// Answers carry `connection: close` from now on, so that clients look for another server.
    pub leaving: CancellationToken,
    /// Nothing is accepted from now on, idle connections close, requests under way are finished.
    pub draining: CancellationToken,
    /// Connections that are left are dropped.
    pub dropping: CancellationToken,
}

/// A server of one listener.
pub struct Server {
    /// Where connections come from.
    pub listener: TcpListener,
    /// How TLS is spoken; plain where absent.
    pub tls: Option<TlsAcceptor>,
    /// What answers.
    pub router: Router,
    /// The bounds.
    pub limits: ConnectionLimits,
    /// What is counted.
    pub metrics: Arc<ServerMetrics>,
    /// When it ends.
    pub stages: Stages,
}

/// What every connection of a server shares.
struct Shared {
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: ConnectionLimits,
    metrics: Arc<ServerMetrics>,
    stages: Stages,
    permits: Arc<Semaphore>,
}

impl Server {
    /// Serves until the stages say otherwise; returns when the last connection is gone.
    pub async fn run(self) {
        let Self { listener, tls, router, limits, metrics, stages } = self;
        let permits = Arc::new(Semaphore::new(limits.connections));
        let shared = Arc::new(Shared { tls, router, limits, metrics, stages, permits });
        // As many tasks as permits.
        let tasks = TaskTracker::new();
        let draining = shared.stages.draining.clone();
        while let Some(accepted) = draining.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    if let Ok(permit) = Arc::clone(&shared.permits).try_acquire_owned() {
                        tasks.spawn(Arc::clone(&shared).connection(stream, permit));
                    } else {
                        // Closing says at once what a place in a queue would say after the client's timeout.
                        shared.metrics.shed(Bound::connections);
                    }
                }
                Err(error) => {
                    shared.metrics.accept_failed();
                    if !is_of_one_connection(&error) {
                        tracing::warn!(%error, "could not accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }
}

/// True for errors that concern the connection that was about to be accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let dropping = self.stages.dropping.clone();
        dropping.run_until_cancelled(self.serve(stream)).await;
        drop(permit);
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection without TCP_NODELAY");
        }
        let Some(tls) = self.tls.clone() else { return self.speak(stream).await };
        match timeout(self.limits.handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let open = self.metrics.connection();
                self.speak(stream).await;
                drop(open);
            }
            Ok(Err(error)) => {
                self.metrics.handshake_failed(HandshakeFailure::error);
                tracing::debug!(%error, "handshake failed");
            }
            Err(_) => self.metrics.handshake_failed(HandshakeFailure::timeout),
        }
    }

    async fn speak(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let used = Arc::new(AtomicBool::new(false));
        let service = {
            let (shared, used) = (Arc::clone(&self), Arc::clone(&used));
            service_fn(move |request| {
                used.store(true, Ordering::Relaxed);
                Arc::clone(&shared).answer(request)
            })
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.idle)
            .max_buf_size(self.limits.buffer)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stages.draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = self.overstayed(&used) => return,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }

    /// Resolves when the connection has had its time for a first request, made none, and others need the room.
    async fn overstayed(&self, used: &AtomicBool) {
        loop {
            sleep(self.limits.first_request).await;
            if used.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            if self.permits.available_permits() < self.limits.connections / 2 {
                return;
            }
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let mut response = self.router.clone().call(request).await?;
        if self.stages.leaving.is_cancelled() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}
