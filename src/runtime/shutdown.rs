//! Shutdown in two stages: the first signal asks, the second insists.

use std::io;

use tokio_util::sync::CancellationToken;

/// Whether the process is to end. Cloning gives another handle to the same shutdown.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    begun: CancellationToken,
    aborted: CancellationToken,
}

impl Shutdown {
    /// A shutdown that only [`Self::begin`] and [`Self::abort`] bring about.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that SIGTERM and SIGINT bring about: the first begins it, the second aborts.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub fn on_signals() -> io::Result<Self> {
        let mut signals = Signals::listen()?;
        let shutdown = Self::new();
        let handle = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let name = signals.next().await;
                if handle.begun.is_cancelled() {
                    tracing::warn!(signal = name, "second signal: ending at once");
                    handle.abort();
                    return;
                }
                tracing::info!(signal = name, "shutting down; a second signal ends at once");
                handle.begin();
            }
        });
        Ok(shutdown)
    }

    /// Begins the shutdown.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Ends it at once.
    pub fn abort(&self) {
        self.begun.cancel();
        self.aborted.cancel();
    }

    /// Waits until the shutdown begins.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Waits until it is aborted.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// True once it is aborted.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.aborted.is_cancelled()
    }
}

/// The signals that ask a process to end.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(windows)]
struct Signals {
    closed: tokio::signal::windows::CtrlClose,
    interrupt: tokio::signal::windows::CtrlC,
}

#[cfg(windows)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_c, ctrl_close};
        Ok(Self { closed: ctrl_close()?, interrupt: ctrl_c()? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.closed.recv() => "CTRL_CLOSE",
            _ = self.interrupt.recv() => "CTRL_C",
        }
    }
}
