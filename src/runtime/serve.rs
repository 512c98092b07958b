//! An HTTP/1.1 server in which nothing is unbounded: connections, handshakes, headers, idle time, shutdown.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
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
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::connections::{Admitted, Connections, Place};
use super::metrics::{Bound, HandshakeFailure, ServerMetrics};

/// After this pause accepting is tried again when the process is out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What bounds the connections of a server.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections that are open at one time. For one more the longest idle one is closed.
    pub connections: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
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
        Self { connections: 512, handshake: Duration::from_secs(5), idle: Duration::from_secs(120), buffer: 64 << 10 }
    }

    /// For probes and scrapes: a kubelet and a few Prometheus servers, one connection each.
    #[must_use]
    pub const fn probes() -> Self {
        Self { connections: 64, handshake: Duration::from_secs(5), idle: Duration::from_secs(120), buffer: 16 << 10 }
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
    connections: Connections,
}

impl Server {
    /// Serves until the stages say otherwise; returns when the last connection is gone.
    pub async fn run(self) {
        let Self { listener, tls, router, limits, metrics, stages } = self;
        let connections = Connections::new(limits.connections);
        let shared = Arc::new(Shared { tls, router, limits, metrics, stages, connections });
        // As many tasks as connections.
        let tasks = TaskTracker::new();
        let draining = shared.stages.draining.clone();
        while let Some(accepted) = draining.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, peer)) => match shared.connections.admit(peer) {
                    Some(Admitted { place, evicted }) => {
                        if evicted {
                            shared.metrics.evicted();
                        }
                        tasks.spawn(Arc::clone(&shared).connection(stream, place));
                    }
                    // Closing says at once what a place in a queue would say after the client's timeout.
                    None => shared.metrics.shed(Bound::connections),
                },
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

/// A server on a thread of its own, where no work of the process keeps it from answering. Dropping this ends it.
#[derive(Debug)]
pub struct OwnThread {
    stages: Stages,
    ended: CancellationToken,
}

impl OwnThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(server: Server) -> io::Result<Self> {
        let stages = server.stages.clone();
        let Server { listener, tls, router, limits, metrics, stages: its_stages } = server;
        let listener = listener.into_std()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        let serve = move || {
            let outcome = runtime.block_on(async {
                // The socket belongs to the new thread's reactor from now on.
                let listener = TcpListener::from_std(listener)?;
                Server { listener, tls, router, limits, metrics, stages: its_stages }.run().await;
                Ok::<(), io::Error>(())
            });
            if let Err(error) = outcome {
                tracing::error!(%error, "a server could not take its listener");
            }
            drop(end);
        };
        std::thread::Builder::new().name("probes".to_owned()).spawn(serve)?;
        Ok(Self { stages, ended })
    }

    /// Waits until the server has ended, by itself, by its stages or by a panic.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends the server and waits for it.
    pub async fn end(self) {
        self.stages.draining.cancel();
        self.stages.dropping.cancel();
        self.ended().await;
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        self.stages.draining.cancel();
        self.stages.dropping.cancel();
    }
}

/// True for errors that concern the connection that was about to be accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: TcpStream, place: Place) {
        let (dropping, close) = (self.stages.dropping.clone(), place.close.clone());
        let served = dropping.run_until_cancelled(self.serve(stream, Arc::new(place)));
        Box::pin(close.run_until_cancelled(served)).await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, place: Arc<Place>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection without TCP_NODELAY");
        }
        let Some(tls) = self.tls.clone() else { return self.speak(stream, place).await };
        match timeout(self.limits.handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let open = self.metrics.connection();
                self.speak(stream, place).await;
                drop(open);
            }
            Ok(Err(error)) => {
                self.metrics.handshake_failed(HandshakeFailure::error);
                tracing::debug!(%error, "handshake failed");
            }
            Err(_) => self.metrics.handshake_failed(HandshakeFailure::timeout),
        }
    }

    async fn speak(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, place: Arc<Place>) {
        let shared = Arc::clone(&self);
        let service = service_fn(move |request| Arc::clone(&shared).answer(request, Arc::clone(&place)));
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
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        place: Arc<Place>,
    ) -> Result<Response<Body>, Infallible> {
        place.busy();
        let mut response = self.router.clone().call(request).await?;
        place.idle();
        if self.stages.leaving.is_cancelled() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}
